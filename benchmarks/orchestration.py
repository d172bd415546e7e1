"""What Prefect costs: the flow against plain `dvc repro` on a tiny project, all stages run and all of them cached.

python -m benchmarks.orchestration [--repeats N]
python -m benchmarks.orchestration --trainings [--repeats N]
python -m benchmarks.orchestration --stages [--kimg KIMG]
python -m benchmarks.orchestration --default [--kimg KIMG] [--repeats N]

The second compares the two trainings side by side, which share the cores as the flow has them do, with one after the
other on all cores. The third says where the minutes of the default run go, stage by stage; the fourth is the first with
the default run's films and params. All print a Markdown table. Of N repeats of each the median counts; they take turns.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import yaml

from benchmarks.markdown import table
from flows.commands import repro
from flows.dag import Node, read_dag, threads
from tasks.simulate.stage import simulate
from tests.conftest import ROOT, TINY, Project, copy_project

COMMANDS = {"dvc repro": ("dvc", "repro"), "flow": ("python", "-m", "flows.pipeline", "--cpu-slots", "2")}
AT_MOST_S = 10.0  # that Prefect may add to a whole pipeline
GANS = ("msg_gan", "msg_sagan")


@contextmanager
def cloned() -> Iterator[Project]:
    """A project as it is cloned, without films; gone afterwards."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        env.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", env, Path(folder) / "attempts")
        copy_project(project.path)
        subprocess.run(["git", "init", "--quiet", project.path], check=True)
        yield project


@contextmanager
def prepared() -> Iterator[Project]:
    """One that has run nothing, with a small simulated archive."""
    with cloned() as project:
        project.env["OMP_NUM_THREADS"] = "1"
        simulate(project.path / "data/raw", patients=14, seed=1)
        project.edit_params(TINY)
        project.run("dvc", "add", "--quiet", "data/raw")
        yield project


@contextmanager
def default(kimg: float) -> Iterator[Project]:
    """One that has run nothing, with the archive and the params of `make run`, but for the trainings' length."""
    with cloned() as project:
        project.edit_params({"train": {"kimg": kimg}})
        project.run("xraysynth", "simulate", "data/raw")
        project.run("dvc", "add", "--quiet", "data/raw")
        yield project


def seconds(project: Project, command: tuple[str, ...]) -> float:
    """Of a command; it must succeed."""
    start = time.monotonic()
    project.run(*command)
    return time.monotonic() - start


def trainings(repeats: int, kimg: float) -> None:
    """Both trainings side by side, and one after the other: as params.yaml has them, but for their length."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    size = params["ingest"]["size"]
    dag = {f"train@{name}": Node([]) for name in GANS}
    found: dict[int, list[float]] = {1: [], 2: []}  # by how many run at a time
    with prepared() as project:
        train = {**params["train"], "kimg": kimg}
        project.edit_params({"ingest": {"size": size}, "models": params["models"], "train": train})
        project.run("xraysynth", "ingest")
        for _ in range(repeats):
            for slots, taken in found.items():
                used = threads(f"train@{GANS[0]}", dag, slots) or os.cpu_count() or 1
                one = replace(project, env={**project.env, "OMP_NUM_THREADS": str(used)})
                shutil.rmtree(project.path / ".xraysynth" / "checkpoints", ignore_errors=True)
                start = time.monotonic()
                with ThreadPoolExecutor(slots) as pool:
                    list(pool.map(lambda name, one=one: one.run("xraysynth", "train", name), GANS))
                taken.append(time.monotonic() - start)
    after, beside = (median(found[slots]) for slots in (1, 2))
    row = [f"{after:.1f}", f"{beside:.1f}", f"{beside / after:.2f}"]
    print(table(["one after the other, s", "side by side, s", "ratio"], [row]))
    of = f"{kimg:g} kimg each at {size} px, width {train['width']}"
    print(f"\n{of}. Machine: {os.cpu_count()} cores, {repeats} repeats.")


def stages(kimg: float) -> None:
    """Every step of the default run by itself, one after the other on all cores: seconds, and seconds of CPU."""
    steps = {"simulate": ["xraysynth", "simulate", "data/raw"], "dvc add": ["dvc", "add", "--quiet", "data/raw"]}
    rows, total = [], [0.0, 0.0]
    with cloned() as project:
        project.edit_params({"train": {"kimg": kimg}})
        with chdir(project.path):
            dag = read_dag()
        steps |= {stage: ["python", *repro(stage, force=False)[1:]] for stage in dag}
        for name, command in steps.items():
            before, start = _cpu_of_children(), time.monotonic()
            project.run(*command)
            taken = (time.monotonic() - start, _cpu_of_children() - before)
            total = [sum(pair) for pair in zip(total, taken, strict=True)]
            rows.append([name, *(f"{value:.1f}" for value in taken)])
            print("\t".join(rows[-1]), file=sys.stderr)
    print(table(["", "seconds", "seconds of CPU"], [*rows, ["all", *(f"{value:.1f}" for value in total)]]))
    print(f"\n{kimg:g} kimg a training. Machine: {os.cpu_count()} cores.")


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What Prefect costs over plain `dvc repro`.")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--trainings", action="store_true", help="the two trainings side by side instead")
    parser.add_argument("--stages", action="store_true", help="every step of the default run instead")
    parser.add_argument("--default", action="store_true", help="with the default run's films and params")
    parser.add_argument("--kimg", type=float, default=0.5, help="length of a training, but of the tiny project's")
    options = parser.parse_args()
    repeats = options.repeats
    if options.trainings or options.stages:
        trainings(repeats, options.kimg) if options.trainings else stages(options.kimg)
        return
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            with default(options.kimg) if options.default else prepared() as project:
                for what in ("all run", "all cached"):
                    found.setdefault((what, name), []).append(seconds(project, command))
    rows = []
    for what in ("all run", "all cached"):
        plain, flow = (median(found[what, name]) for name in COMMANDS)
        rows.append([what, f"{plain:.1f}", f"{flow:.1f}", f"{flow - plain:+.1f}", f"{flow / plain:.2f}"])
    print(table(["", "dvc repro, s", "flow, s", "more, s", "ratio"], rows))
    print(f"\nThe flow may take {AT_MOST_S:g} s more. Machine: {os.cpu_count()} cores, {repeats} repeats.")


if __name__ == "__main__":
    main()
