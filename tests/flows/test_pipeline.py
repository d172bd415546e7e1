"""The flow on small projects: what runs, in which order, side by side, and what happens when a stage fails."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml

import flows  # noqa: F401

from dvc.lock import LockError  # isort: skip
from dvc.repo import Repo  # isort: skip
from prefect.client.orchestration import get_client  # isort: skip
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter  # isort: skip
from prefect.client.schemas.objects import Artifact, State, TaskRun  # isort: skip

from flows.commands import Commands, Outcome
from flows.dag import Node, read_dag, share, threads
from flows.pipeline import pipeline
from flows.steps import run_step
from tests.services import PATIENCE_S

pytestmark = pytest.mark.usefixtures("prefect_api")

ROOT = Path(__file__).resolve().parents[2]

INGEST = {"cmd": "cp raw/film.txt curated", "deps": ["raw"], "outs": ["curated"]}
TRAIN = {
    "foreach": ["one", "two"],
    "do": {
        # Each waits for the other, so neither comes to its end alone.
        "cmd": "echo 'one: 0.50/2 kimg, 3 images/s'; touch began-${item}; n=0; "
        "until test -e began-one && test -e began-two; do n=$((n + 1)); test $n -lt 1200 || exit 2; sleep 0.1; done; "
        "cp curated model-${item}",
        "meta": {"slot": "gpu"},
        "deps": ["curated"],
        "outs": ["model-${item}"],
    },
}
REPORT = {
    "cmd": """printf '{"verdict": "no evidence", "headline": "0.1 [of](x)", "pipeline": "%s"}' $XRAYSYNTH_PIPELINE_ID"""
    " > reports/verdict.json",
    "deps": ["model-one", "model-two"],
    "outs": ["reports/verdict.json"],
}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


@dataclass
class Finished:
    """A flow run, and what the server knows of it."""

    state: State[Any]
    runs: dict[str, TaskRun]
    artifacts: dict[str | None, Artifact]


@dataclass(frozen=True)
class Slow:
    """A flow in a process of its own, and the process group of the stage at which it works."""

    project: Path
    command: subprocess.Popen[str]
    group: int

    def alive(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if group_of(p) == self.group and p.status() != "zombie"]


def run(**parameters: Any) -> Finished:
    """Run the flow; the server hears of task runs by events, a moment later."""
    state: State[Any] = pipeline(**parameters, return_state=True)
    wanted = FlowRunFilter.model_validate({"id": {"any_": [state.state_details.flow_run_id]}})
    stages = len(read_dag(parameters.get("stages", ())))
    with get_client(sync_client=True) as client:
        for _ in range(100):
            runs = client.read_task_runs(flow_run_filter=wanted)
            ended = [r for r in runs if r.state and (r.state.is_final() or r.state.name == "NotReady")]
            if len(runs) == len(ended) == stages:
                break
            time.sleep(0.1)
        artifacts = client.read_artifacts(flow_run_filter=wanted, artifact_filter=ArtifactFilter())
    return Finished(state, {r.name: r for r in runs}, {a.key: a for a in artifacts})


def message(run: TaskRun) -> str:
    assert run.state is not None
    return run.state.message or ""


def group_of(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return -1


def span(run: TaskRun) -> tuple[float, float]:
    assert run.start_time is not None
    assert run.end_time is not None
    return run.start_time.timestamp(), run.end_time.timestamp()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without the waiting."""
    monkeypatch.setattr("flows.pipeline.run_step", run_step.with_options(retry_delay_seconds=0))


@pytest.fixture(scope="module")
def healthy(make_project: Callable[..., Path]) -> Path:
    project = make_project(
        ingest=INGEST,
        train=TRAIN,
        picture={
            "cmd": f'mkdir -p models/msg_sagan; {sys.executable} -c "import pathlib; '
            f"pathlib.Path('models/msg_sagan/samples.png').write_bytes(bytes.fromhex('{PIXEL.hex()}'))\"",
            "deps": ["model-two"],
            "outs": ["models/msg_sagan/samples.png"],
        },
        report=REPORT,
    )
    (project / "reports").mkdir()
    return project


@pytest.fixture(scope="module")
def first(healthy: Path) -> Finished:
    return run()


class TestAHealthyProject:
    """Of one first run."""

    def test_is_completed_with_one_task_run_a_stage_named_after_it(self, first: Finished) -> None:
        assert first.state.is_completed()
        assert set(first.runs) == {"raw.dvc", "ingest", "train@one", "train@two", "picture", "report"}
        assert {run.state_name for run in first.runs.values()} == {"Completed"}

    def test_keeps_the_order(self, first: Finished) -> None:
        for earlier, later in (("raw.dvc", "ingest"), ("ingest", "train@one"), ("train@two", "report")):
            assert span(first.runs[earlier])[1] <= span(first.runs[later])[0], (earlier, later)

    def test_runs_independent_stages_side_by_side(self, first: Finished) -> None:
        one, two = span(first.runs["train@one"]), span(first.runs["train@two"])
        assert min(one[1], two[1]) > max(one[0], two[0])

    def test_shows_a_table_and_a_picture(self, first: Finished) -> None:
        assert set(first.artifacts) >= {"results", "samples", "links"}
        assert first.artifacts["results"].type == "table"
        assert "no evidence" in str(first.artifacts["results"].data)
        assert first.artifacts["results"].description == r"0.1 \[of\]\(x\)"  # words, not a link
        assert "data:image/png;base64,iVBOR" in str(first.artifacts["samples"].data)

    @pytest.mark.usefixtures("first")
    def test_a_run_of_some_stages_shows_nothing_that_another_run_made(self) -> None:
        finished = run(stages=["picture"])
        assert "samples" in finished.artifacts
        assert "results" not in finished.artifacts  # the verdict in reports/ is of the first run

    def test_shows_how_far_a_stage_is(self, first: Finished) -> None:
        progress = first.artifacts["progress-train-one"]
        assert (progress.type, progress.data, progress.description) == ("progress", 100, "one: 0.50/2")

    def test_gives_its_stages_a_common_pipeline_id(self, first: Finished, healthy: Path) -> None:
        verdict = yaml.safe_load((healthy / "reports/verdict.json").read_text())
        assert verdict["pipeline"] == str(first.state.state_details.flow_run_id)

    def test_leaves_dvc_status_clean(self, first: Finished, healthy: Path) -> None:
        with Repo(str(healthy)) as repo:
            assert repo.status() == {}

    @pytest.mark.usefixtures("first")
    def test_a_second_run_finds_nothing_to_do_and_starts_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Commands, "run", lambda *_: pytest.fail("a command was run"))
        again = run(stages=["report"])
        assert again.state.is_completed()
        assert set(again.runs) == {"raw.dvc", "ingest", "train@one", "train@two", "report"}
        assert {message(r) for r in again.runs.values()} == {"nothing had changed"}

    @pytest.mark.usefixtures("first")
    def test_below_what_has_changed_each_stage_is_asked(self, healthy: Path) -> None:
        """Also what stands as it did before: `report` will find what it knows, or not."""
        (healthy / "model-two").write_text("of somebody else")
        assert {name for name, node in read_dag().items() if node.changed} == {"train@two", "picture", "report"}
        again = run()
        assert again.state.is_completed()
        assert {name: message(r).partition(",")[0] for name, r in again.runs.items()} == {
            **dict.fromkeys(("raw.dvc", "ingest", "train@one", "picture", "report"), "nothing had changed"),
            "train@two": "nothing had changed",  # out of DVC's cache
        }
        assert (healthy / "model-two").read_text() == "film\n"

    @pytest.mark.usefixtures("first")
    def test_where_another_dvc_is_at_work_every_stage_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def locked(*_: object, **__: object) -> None:
            raise LockError("busy")

        monkeypatch.setattr(Repo, "status", locked)
        assert all(node.changed for node in read_dag().values())

    def test_one_at_a_time_and_by_force(self, first: Finished, healthy: Path) -> None:
        forced = run(stages=["train"], force=True, cpu_slots=1)
        assert forced.state.is_completed()
        assert re.fullmatch(r"done, [\d.]+ s", message(forced.runs["train@one"]))
        one, two = span(forced.runs["train@one"]), span(forced.runs["train@two"])
        assert min(one[1], two[1]) <= max(one[0], two[0])


@pytest.mark.usefixtures("soon")
def test_failures_are_told_and_contained(make_project: Callable[..., Path]) -> None:
    def fails(name: str, code: int, said: str) -> dict[str, object]:
        return {"cmd": f"echo x >> tries-{name}; echo '{said}'; exit {code}", "deps": ["curated"], "outs": [name]}

    project = make_project(
        ingest=INGEST,
        crashing=fails("crashing", 1, "MemoryError: 3 GiB"),
        refusing=fails("refusing", 2, "error: no such folder data/raw"),
        independent={"cmd": "cp curated other", "deps": ["curated"], "outs": ["other"]},
        below={"cmd": "touch below", "deps": ["crashing", "other"], "outs": ["below"]},
    )
    finished = run()

    assert finished.state.is_failed()
    assert finished.state.message == (
        "2 of 6 stages failed: crashing: MemoryError: 3 GiB; refusing: error: no such folder data/raw (not run: below)"
    )
    assert {name: run.state_name for name, run in finished.runs.items()} == {
        "raw.dvc": "Completed",
        "ingest": "Completed",
        "independent": "Completed",
        "crashing": "Failed",
        "refusing": "BadInput",
        "below": "NotReady",
    }
    assert message(finished.runs["crashing"]).startswith("crashing: MemoryError: 3 GiB\n")
    assert "\nERROR: failed to reproduce 'crashing'" in message(finished.runs["crashing"])
    assert not (project / "below").exists()
    assert finished.artifacts == {}
    tries = {name: len((project / f"tries-{name}").read_text().split()) for name in ("crashing", "refusing")}
    assert tries == {"crashing": 3, "refusing": 1}  # bad input stays bad


@pytest.mark.usefixtures("soon")
def test_a_passing_fault_is_mended_by_a_retry(make_project: Callable[..., Path]) -> None:
    make_project(
        flaky={"cmd": "test -e tried || { touch tried; exit 1; }; touch out", "deps": ["raw"], "outs": ["out"]}
    )
    finished = run()
    assert finished.state.is_completed()
    assert finished.runs["flaky"].run_count == 2


def test_a_lock_held_for_long_costs_time_and_not_the_work(make_project: Callable[..., Path]) -> None:
    """DVC gives up after 3 s by default: a training would be lost when its outputs are to be stored."""
    project = make_project(slow={"cmd": "sleep 2; echo x >> tries; touch out", "deps": ["raw"], "outs": ["out"]})
    holder = (
        "import sys, time, zc.lockfile\n"
        "for _ in range(200):\n"
        "    try: lock = zc.lockfile.LockFile('.dvc/tmp/lock')\n"
        "    except zc.lockfile.LockError: time.sleep(0.05); continue\n"
        "    time.sleep(4.5); lock.close(); break\n"
    )
    process = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(2)\n{holder}"], cwd=project)
    finished = run()
    assert process.wait() == 0
    assert finished.state.is_completed()
    assert (project / "tries").read_text().split() == ["x"]


def test_a_stage_that_is_not_there_is_named(make_project: Callable[..., Path]) -> None:
    make_project(ingest=INGEST)
    state = pipeline(stages=["inject"], return_state=True)
    assert state.is_failed()
    assert "'inject'" in (state.message or "")


def test_a_stage_is_asked_to_end_before_what_it_started(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes from one signal to the next: a shell that waits for its child would end with that."""
    terminate = psutil.Process.terminate

    def slowly(process: psutil.Process) -> None:
        terminate(process)
        time.sleep(0.2)

    monkeypatch.setattr(psutil.Process, "terminate", slowly)
    project = make_project()
    stage = ["bash", "-c", "trap 'touch tidied; exit 1' TERM; sleep 300 & echo $$ > pid; wait"]
    commands = Commands({})
    working = Thread(target=commands.run, args=(stage, print))
    working.start()
    while not (project / "pid").exists():
        time.sleep(0.05)
    commands.stop()
    working.join()
    assert (project / "tidied").exists()


class TestTheCommandLine:
    """`python -m flows.pipeline`; that it needs no server is seen in tests/test_offline.py."""

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows.pipeline", *arguments]

    @pytest.fixture
    def environment(self, prefect_api: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_api}

    def test_ends_with_a_sentence_when_a_stage_fails(
        self, make_project: Callable[..., Path], environment: dict[str, str]
    ) -> None:
        project = make_project(bad={"cmd": "echo 'error: no labels.csv'; exit 2", "deps": ["raw"], "outs": ["x"]})
        done = subprocess.run(self.command(), cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert "error: 1 of 2 stages failed: bad: error: no labels.csv\n" in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        assert "NoneType" not in done.stderr + done.stdout

    @pytest.fixture
    def slow(self, make_project: Callable[..., Path], environment: dict[str, str]) -> Iterator[Slow]:
        """A flow at work on a stage that tidies up when it is asked to end."""
        script = "trap 'sleep 0.5; touch tidied; exit 1' TERM; echo $$ > pid; sleep 300 & wait"
        stage = {"cmd": f'bash -c "{script.replace("$", chr(92) + "$")}"', "deps": ["raw"], "outs": ["x"]}
        project = make_project(slow=stage)
        # With the signal ignored, as a script passes it on to what it starts with &: the harder case.
        ignoring = (
            "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", ignoring, *self.command()]
        process = subprocess.Popen(
            command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        until = time.monotonic() + PATIENCE_S
        while not ((project / "pid").exists() and (project / "pid").read_text().strip()):
            assert time.monotonic() < until, "the stage did not start"
            time.sleep(0.1)
        group = os.getpgid(int((project / "pid").read_text()))
        yield Slow(project, process, group)
        for tree in (process.pid, group):
            with suppress(ProcessLookupError):
                os.killpg(tree, signal.SIGKILL)

    def test_ctrl_c_ends_the_whole_tree(self, slow: Slow) -> None:
        os.killpg(slow.command.pid, signal.SIGINT)  # as a terminal does
        _, errors = slow.command.communicate(timeout=PATIENCE_S)
        assert slow.command.returncode == 130
        assert "error: stopped before the end" in errors
        assert slow.alive() == []
        assert (slow.project / "tidied").exists()  # it was asked first

    def test_of_a_killed_flow_nothing_works_on(self, slow: Slow) -> None:
        (flow,) = psutil.Process(slow.command.pid).children()  # the command itself only hands signals on to it
        flow.kill()
        _, errors = slow.command.communicate(timeout=PATIENCE_S)
        assert slow.command.returncode == 128 + signal.SIGKILL
        assert "error: the flow was ended by signal 9" in errors
        until = time.monotonic() + PATIENCE_S
        while slow.alive() and time.monotonic() < until:
            time.sleep(0.1)
        assert slow.alive() == []
        assert (slow.project / "tidied").exists()


def test_what_a_stage_starts_in_sessions_of_its_own_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun's workers: one tidies up when it is asked to end, one will not hear of it."""
    monkeypatch.setattr("flows.commands.GRACE_S", 3.0)
    monkeypatch.chdir(tmp_path)
    worker = "setsid sh -c 'trap \"%s\" TERM; echo $$ > %s; while :; do sleep 0.1; done' & "
    script = worker % ("touch tidied; exit", "one") + worker % ("", "other") + "wait"
    commands = Commands({})
    thread = Thread(target=commands.run, args=(["sh", "-c", script], print))
    thread.start()
    files = [tmp_path / "one", tmp_path / "other"]
    until = time.monotonic() + PATIENCE_S
    while not all(file.exists() and file.read_text().strip() for file in files) and time.monotonic() < until:
        time.sleep(0.1)
    workers = [psutil.Process(int(file.read_text())) for file in files]
    try:
        commands.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        assert [p for p in workers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
        assert (tmp_path / "tidied").exists()
    finally:
        for process in workers:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.parametrize(
    ("tail", "worth"),
    [
        (["ERROR: failed to run: xraysynth train, exited with 1"], True),
        (["ERROR: failed to run: xraysynth train, exited with -9"], True),
        (["ERROR: failed to run: xraysynth ingest, exited with 2"], False),
        (["ERROR: failed to reproduce 'x': missing data 'source': raw"], False),
        (["ERROR: Unable to acquire lock. Most likely another DVC process is running"], True),
    ],
)
def test_what_is_worth_another_try(tail: list[str], worth: bool) -> None:
    assert Outcome(255, tuple(tail), unchanged=False, stopped=False).worth_retrying is worth
    assert not Outcome(255, tuple(tail), unchanged=False, stopped=True).worth_retrying


@pytest.mark.usefixtures("healthy")
class TestTheDag:
    """Read from DVC."""

    @pytest.fixture(autouse=True)
    def here(self, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(healthy)

    def test_names_what_each_stage_waits_for(self) -> None:
        assert {stage: node._replace(changed=True) for stage, node in read_dag().items()} == {
            "raw.dvc": Node([], outs=("raw",)),
            "ingest": Node(["raw.dvc"], outs=("curated",)),
            "train@one": Node(["ingest"], "gpu", ("model-one",)),
            "train@two": Node(["ingest"], "gpu", ("model-two",)),
            "picture": Node(["train@two"], outs=("models/msg_sagan/samples.png",)),
            "report": Node(["train@one", "train@two"], outs=("reports/verdict.json",)),
        }

    def test_of_a_target_is_the_target_and_all_above_it(self) -> None:
        assert list(read_dag(["train@two"])) == ["raw.dvc", "ingest", "train@two"]
        assert list(read_dag(["train"])) == ["raw.dvc", "ingest", "train@one", "train@two"]


def test_stages_that_may_run_at_the_same_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.dag.cores", lambda: 8)
    dag = {
        "ingest": Node([]),
        "encoder": Node(["ingest"]),
        "train@a": Node(["ingest"]),
        "train@b": Node(["ingest"]),
        "quality@a": Node(["encoder", "train@a"]),
        "report": Node(["quality@a", "train@b"]),
    }
    shares = {stage: threads(stage, dag, slots=2) for stage in dag}
    assert shares == {
        "ingest": None,
        "report": None,
        **dict.fromkeys(("encoder", "train@a", "train@b", "quality@a"), 4),
    }
    assert threads("train@a", dag, slots=1) is None
    assert threads("train@a", dag, slots=3) == 2  # beside it the encoder and its sibling
    assert threads("quality@a", dag, slots=3) == 4
    on_gpus = {stage: node._replace(slot="gpu" if "train" in stage else "cpu") for stage, node in dag.items()}
    assert threads("encoder", on_gpus, slots=2) is None  # trainings have other slots
    monkeypatch.setattr("flows.dag.cores", lambda: 1)
    assert threads("train@b", dag, slots=4) == 1


@pytest.mark.usefixtures("one_core_of_many")
def test_the_cores_are_those_that_this_process_may_use() -> None:
    assert threads("train@a", {"train@a": Node([]), "train@b": Node([])}, slots=2) == 1


@pytest.mark.parametrize(
    ("slots", "devices", "shares"),
    [
        (1, ["0", "1"], [None]),
        (2, ["0"], ["0", "0"]),
        (2, ["3", "GPU-4", "5"], ["3", "GPU-4,5"]),
        (2, list("01234567"), ["0,1,2,3", "4,5,6,7"]),
        (3, ["0", "1"], ["0", "0", "1"]),
    ],
)
def test_gpu_slots_divide_the_devices(slots: int, devices: list[str], shares: list[str | None]) -> None:
    dag = {"train@a": Node([], "gpu"), "ingest": Node([])}
    found = [share("train@a", dag, slots, place, devices).get("CUDA_VISIBLE_DEVICES") for place in range(slots)]
    assert found == shares
    assert "CUDA_VISIBLE_DEVICES" not in share("ingest", dag, slots, 0, devices)


def test_stages_side_by_side_have_devices_of_their_own(
    make_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cmd = "sleep 1; echo $CUDA_VISIBLE_DEVICES > ${item}"
    project = make_project(
        train={"foreach": ["a", "b", "c"], "do": {"cmd": cmd, "meta": {"slot": "gpu"}, "outs": ["${item}"]}}
    )
    monkeypatch.chdir(project)
    monkeypatch.setattr("flows.pipeline._cuda_devices", lambda: ["6", "7"])
    assert run(gpu_slots=2).state.is_completed()
    found = [(project / name).read_text().strip() for name in "abc"]
    assert found[:2] == ["6", "7"]
    assert found[2] in ("6", "7")
