"""The life of a version: registered as challenger, promoted, rolled back; and what an entry holds."""

import json
import pickletools
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from model.gan import WEIGHTS
from model.gan.sampling import sample
from tasks import cli, image_set, paths
from tasks.errors import Unavailable, UserError
from tasks.files import write_json
from tasks.params import Synthesize
from tasks.registry import CHALLENGER, CHAMPION, PREVIOUS, versions
from tasks.registry import register as entry
from tasks.synthesize.generator import read_generator, weights_digest
from tasks.tracking import runs
from tests.tasks import projects

Register = Callable[..., int]


@pytest.fixture
def register(mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Makes a project of its own; registers one more generator, the one of `seed`, at each call."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_store, "mlflow.db")
    projects.write_data()
    projects.write_versioned()

    def one_more(seed: int, name: str = "msg_gan") -> int:
        projects.write_generator(name, seed)
        return entry.register(name)

    return one_more


def held() -> dict[str, int]:
    return {alias: one.number for one in versions.versions() for alias in one.aliases}


def stored(number: int) -> Path:
    """The folder of an entry in the store."""
    weights = versions.version(number).tags["weights"]
    for file in Path("mlruns").rglob(WEIGHTS):
        if weights_digest(file.parent) == weights:
            return file.parents[2]
    raise AssertionError(f"no files of version {number}")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, list(arguments))
    if isinstance(done.exception, UserError):
        return f"error: {done.exception}"
    assert done.exit_code == 0, done.output
    return done.output


def test_the_life_cycle_over_the_command_line(register: Register) -> None:
    assert "no version is registered" in run("models", "list")
    projects.write_generator("msg_gan", seed=1)
    assert run("models", "register", "msg_gan") == "version 1\n"
    assert held() == {CHALLENGER: 1}
    assert run("models", "promote") == "version 1 is the champion\n"
    assert held() == {CHAMPION: 1}
    assert "no challenger is in the registry" in run("models", "promote")
    assert "no previous champion" in run("models", "rollback")

    assert (register(2), register(3)) == (2, 3)
    assert held() == {CHAMPION: 1, CHALLENGER: 3}
    assert run("models", "promote", "2") == "version 2 is the champion, version 1 is kept as previous\n"
    assert held() == {CHAMPION: 2, PREVIOUS: 1, CHALLENGER: 3}
    assert run("models", "promote") == "version 3 is the champion, version 2 is kept as previous\n"
    assert run("models", "promote", "3") == "version 3 is the champion already\n"
    assert held() == {CHAMPION: 3, PREVIOUS: 2}

    assert run("models", "rollback").startswith("version 2 is the champion again; version 3 has been set aside")
    assert held() == {CHAMPION: 2}
    assert "no previous champion" in run("models", "rollback")
    assert run("models", "promote", "3") == "version 3 is the champion, version 2 is kept as previous\n"
    assert "no version 7 of xraysynth is registered (there are: 1, 2, 3)" in run("models", "promote", "7")
    assert [line.split()[:2] for line in run("models", "list").splitlines()] == [
        ["3", "champion"],
        ["2", "previous"],
        ["1", "-"],
    ]
    assert [one["number"] for one in json.loads(run("models", "list", "--json"))] == [3, 2, 1]


def test_what_an_attempt_registered_before_it_was_cut_off_is_not_registered_again(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (register(1), register(2)) == (1, 2)
    monkeypatch.setenv("XRAYSYNTH_PIPELINE_ID", "another")
    assert entry.register("msg_gan") == 2
    shutil.rmtree(paths.CURATED)
    projects.write_data(seed=5)  # other films: what is registered then is another version
    assert register(2) == 3
    versions.promote()
    assert entry.register("msg_gan") == 4


def test_a_promotion_that_was_cut_off_is_ended_by_the_same_command(register: Register) -> None:
    register(1)
    versions.promote()
    register(2)
    with versions.store() as client:
        client.set_registered_model_alias(versions.NAME, PREVIOUS, "1")
        client.set_registered_model_alias(versions.NAME, CHAMPION, "2")
    assert held() == {CHAMPION: 2, CHALLENGER: 2, PREVIOUS: 1}
    versions.promote()
    assert held() == {CHAMPION: 2, PREVIOUS: 1}


def test_a_champion_that_was_not_compared_with_is_not_replaced(register: Register) -> None:
    register(1)
    assert "version 1 was compared with version 7, but there is no" in run("models", "promote", "--instead-of", "7")
    run("models", "promote", "--instead-of", "0")
    register(2)
    register(3)
    run("models", "promote", "2")
    before = held()
    said = run("models", "promote", "3", "--instead-of", "1")
    assert said == (
        "error: version 3 was compared with version 1, but version 2 is champion by now; compare again: "
        "`xraysynth models challenge`"
    )
    assert "was compared with no champion, but version 2" in run("models", "promote", "3", "--instead-of", "0")
    assert held() == before
    run("models", "promote", "3", "--instead-of", "2")
    assert run("models", "promote", "3", "--instead-of", "2") == "version 3 is the champion already\n"


@pytest.mark.parametrize("move", ["promote", "rollback"])
def test_weights_that_were_changed_in_the_store_never_become_champion(move: str, register: Register) -> None:
    register(1)
    versions.promote()
    register(2)
    if move == "rollback":
        versions.promote()
    before, changed = held(), 1 if move == "rollback" else 2
    weights = stored(changed) / versions.GENERATOR / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match=f"the weights of version {changed} are not those that were registered"):
        getattr(versions, move)()
    assert held() == before


def test_an_entry_says_where_it_comes_from(register: Register) -> None:
    tags = versions.version(register(1)).tags
    digest = image_set.load(paths.CURATED).digest
    assert (
        tags.items()
        >= {
            "model": "msg_gan",
            "weights": weights_digest(paths.MODELS / "msg_gan"),
            "data_digest": digest,
            "raw_digest": projects.RAW_DIGEST,
            "verdict": "no evidence",
            "pipeline_id": f"data-{digest[:12]}",
        }.items()
    )
    assert len(tags["dvc_lock"]) == 64
    assert tags["gate_diversity"].startswith(
        "passed: The worst of all classes: rare. Likeness (MS-SSIM, at most 1) of pairs of rare"
    )
    assert tags["gate_memorisation"].startswith("passed: The worst of all classes: normal. 0 % of the images")
    assert tags["gate_fidelity"].startswith(
        "passed: The worst of all classes: rare. Images of rare by msg_gan are recognised as rare 90 %"
    )

    with versions.fetched(versions.version(1)) as folder:
        record = folder / versions.RECORD
        for file in (paths.DVC_LOCK, paths.DVC_YAML, Path("params.yaml"), paths.RAW_DVC, paths.VERDICT):
            assert (record / file.name).read_text() == file.read_text(), file
        summary = json.loads((record / "data_summary.json").read_text())
        card = (folder / versions.GENERATOR / "card.md").read_text()
    assert "](samples.png)" in card
    assert summary["counts"] == {"normal": 32, "rare": 8}
    with versions.store() as client:
        found = client.get_model_version(versions.NAME, "1")
    assert found.run_id is None or found.run_id == ""  # this store knows of no training
    assert found.description is not None
    assert found.description.startswith(entry.description(card, {}))
    gates = {name: tags[f"gate_{name}"] for name in ("memorisation", "diversity", "fidelity")}
    assert found.description.endswith("## Gates\n\n" + "".join(f"- {name} {said}\n" for name, said in gates.items()))


def test_a_description_says_where_pictures_are_and_shows_none() -> None:
    card = "# msg_gan\n\n![Samples](samples.png)\nA row a class.\n![Far](https://a.example/b.png)\n" + "x" * 6000
    said = entry.description(card, {"fidelity": {"passed": False, "why": "Not measured."}})
    assert "(samples.png)" not in said
    assert "*Samples: see `samples.png` among the artifacts of the training run, or" in said
    assert "`artifacts/generator/samples.png` of the model.*\nA row a class." in said
    assert "![Far](https://a.example/b.png)" in said
    assert len(said) == 5000
    assert said.endswith("x\n\n## Gates\n\n- fidelity not passed: Not measured.\n")


def test_a_version_names_the_run_that_trained_its_weights(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is registered by hand, later, and another training with the same data has followed."""
    projects.write_generator("msg_gan", seed=1)
    digest, weights = image_set.load(paths.CURATED).digest, weights_digest(paths.MODELS / "msg_gan")
    ids: dict[str, str] = {}
    with monkeypatch.context() as patch:
        patch.setenv(runs.PIPELINE_VARIABLE, "its-execution")
        for stage, of in (("train@msg_gan", weights), ("train@msg_gan", "0" * 64), ("train@msg_sagan", weights)):
            with runs.tracked(stage, {}, digest) as run:
                run.tag("weights", of)
            ids.setdefault(stage, run.run_id)
    with suppress(SystemExit), runs.tracked("train@msg_gan", {}, digest) as run:
        run.tag("weights", weights)
        sys.exit(143)  # before its pictures and its card
    assert entry.register("msg_gan") == 1
    with versions.store() as client:
        found = client.get_model_version(versions.NAME, "1")
        training = client.get_run(ids["train@msg_gan"])
        model = client.get_logged_model(str(found.source).rpartition("/")[2])
    assert found.run_id == model.source_run_id == ids["train@msg_gan"]
    assert training.outputs is not None
    assert [output.model_id for output in training.outputs.model_outputs] == [model.model_id]
    assert found.tags["pipeline_id"] == "its-execution"
    assert entry.register("msg_gan") == 1


def test_an_entry_holds_no_pickle_no_film_and_no_place_of_this_machine(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects.write_versioned(source="/hospital/archive of Jones")
    monkeypatch.setenv("TMPDIR", "/tmp")
    folder = stored(register(1))
    assert versions.version(1).tags["raw_digest"] == ""  # data/raw.dvc is about other films
    images = {image.tobytes() for image in image_set.load(paths.CURATED).images}
    patients = set(image_set.load(paths.CURATED).manifest["patient_id"])
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"mlflow_model.py", "MLmodel", "config.json", "dvc.lock"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        assert file.suffix not in {".pkl", ".pt", ".pth", ".bin", ".npy", ".pyc"}, file
        assert not is_pickle(content), file
        assert b"Jones" not in content, file
        assert not any(image in content for image in images), file
        if file.name == "data_summary.json":
            assert not any(f'"{patient}"'.encode() in content for patient in patients)
        if file.name != "MLmodel":  # MLflow writes its own artifact location there
            assert str(tmp_path).encode() not in content, file


def is_pickle(content: bytes) -> bool:
    """Whether all of it can be read as one (nothing is executed)."""
    try:
        *_, (last, _, position) = pickletools.genops(content)
    except Exception:
        return False
    return last.name == "STOP" and position == len(content) - 1


def test_outputs_that_do_not_belong_together_are_not_registered(register: Register) -> None:
    register(1)
    shutil.copytree(paths.SYNTHETIC / "msg_gan", "kept")
    projects.write_generator("msg_gan", seed=2)
    shutil.rmtree(paths.SYNTHETIC / "msg_gan")
    shutil.copytree("kept", paths.SYNTHETIC / "msg_gan")
    assert "data/synthetic/msg_gan was not drawn by models/msg_gan" in run("models", "register", "msg_gan")
    shutil.rmtree(paths.CURATED)
    projects.write_data(seed=5)
    assert "did not learn from what data/curated holds now" in run("models", "register", "msg_gan")
    assert "models/other has no generator.safetensors" in run("models", "register", "other")
    assert [one.number for one in versions.versions()] == [1]


def test_best_is_the_generator_that_the_verdict_is_about(register: Register) -> None:
    assert "reports/verdict.json names no generator" in run("models", "register", "best")
    projects.write_generator("msg_gan", seed=1)
    projects.write_generator("msg_sagan", seed=2)
    write_json(paths.VERDICT, {"verdict": "helps", "sentence": "Yes.", "candidate": "classic+msg_sagan"})
    run("models", "register", "best")
    run("models", "register", "msg_gan")
    first, second = versions.version(1).tags, versions.version(2).tags
    assert (first["model"], first["verdict"]) == ("msg_sagan", "helps")
    assert (second["model"], second["verdict"]) == ("msg_gan", "not measured")  # the verdict is not about this one
    write_json(paths.VERDICT, {"verdict": "not needed", "sentence": "No class is rare."})
    assert "names no generator (No class is rare)" in run("models", "register", "best")


def test_synthesize_draws_from_the_champion(register: Register, tmp_path: Path) -> None:
    assert "no champion is in the registry" in run("synthesize", "champion", "out", "--label", "rare")
    register(1)
    versions.promote()
    refused = run("synthesize", "champion", "out", "--label", "nothing")
    assert refused == "error: the champion has no class 'nothing'; it has normal, rare"
    register(2)
    for alias, seed in ((CHAMPION, 1), (CHALLENGER, 2)):
        run("synthesize", alias, f"out/{alias}", "--label", "rare", "--count", "2", "--format", "png")
        projects.write_generator("msg_gan", seed)
        generator, _ = read_generator(paths.MODELS / "msg_gan")
        expected = sample(generator, 1, 2, seed=0, truncation=Synthesize().truncation)
        drawn = [np.asarray(Image.open(f)) for f in sorted((tmp_path / "out" / alias / "rare").iterdir())]
        np.testing.assert_array_equal(np.stack(drawn), expected)


def test_files_lie_beside_the_database_wherever_the_process_runs(
    register: Register, mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(mlflow_store, elsewhere / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere / 'mlflow.db'}")
    register(1)
    assert list((elsewhere / "mlruns").rglob(WEIGHTS))
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("uri", "error"), [("nonsense://nowhere", UserError), ("http://me:secret@127.0.0.1:1", Unavailable)]
)
def test_a_store_that_cannot_be_used_is_one_sentence(
    uri: str, error: type[UserError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    said = run("models", "list")
    assert said.startswith("error: MLflow's registry cannot be used")
    assert "secret" not in said
    assert "\n" not in said
    with pytest.raises(UserError) as raised:
        versions.versions()
    assert raised.type is error
