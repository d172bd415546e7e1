"""What Prefect costs: the flow against plain `dvc repro` on a tiny project, all stages run and all of them cached.

python -m benchmarks.orchestration [--repeats N]
python -m benchmarks.orchestration --trainings [--repeats N]

The second compares the two trainings side by side, which share the cores as the flow has them do, with one after the
other on all cores. Both print a Markdown table. Of N repeats of each the median counts; they take turns.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import yaml

from benchmarks.tables import table
from flows.dag import Node, threads
from tasks.simulate.stage import simulate
from tests.conftest import ROOT, TINY, Project, copy_project

COMMANDS = {"dvc repro": ("dvc", "repro"), "flow": ("python", "-m", "flows.pipeline", "--cpu-slots", "2")}
AT_MOST_S = 10.0  # that Prefect may add to a whole pipeline
GANS = ("msg_gan", "msg_sagan")


@contextmanager
def prepared() -> Iterator[Project]:
    """A project that has run nothing, with a small simulated archive; gone afterwards."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        env.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", env, Path(folder) / "attempts")
        copy_project(project.path)
        simulate(project.path / "data/raw", patients=14, seed=1)
        project.edit_params(TINY)
        subprocess.run(["git", "init", "--quiet", project.path], check=True)
        project.run("dvc", "add", "--quiet", "data/raw")
        yield project


def seconds(project: Project, command: tuple[str, ...]) -> float:
    """Of a command; it must succeed."""
    start = time.monotonic()
    project.run(*command)
    return time.monotonic() - start


def trainings(repeats: int, kimg: float) -> None:
    """Both trainings side by side, and one after the other: as params.yaml has them, but for their length."""
    default = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    size = default["ingest"]["size"]
    dag = {f"train@{name}": Node([]) for name in GANS}
    found: dict[int, list[float]] = {1: [], 2: []}  # by how many run at a time
    with prepared() as project:
        train = {**default["train"], "kimg": kimg}
        project.edit_params({"ingest": {"size": size}, "models": default["models"], "train": train})
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What Prefect costs over plain `dvc repro`.")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--trainings", action="store_true", help="the two trainings side by side instead")
    parser.add_argument("--kimg", type=float, default=0.5, help="length of a training")
    options = parser.parse_args()
    repeats = options.repeats
    if options.trainings:
        trainings(repeats, options.kimg)
        return
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            with prepared() as project:
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
