"""What Prefect costs: the flow against plain `dvc repro` on a tiny project, all stages run and all of them cached.

python -m benchmarks.orchestration [--repeats N]

Prints a Markdown table. Of N repeats of each the median counts; the two take turns, each run on a project of its own.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.tables import table
from tasks.simulate import simulate
from tests.conftest import ROOT, TINY, Project, copy_project

COMMANDS = {"dvc repro": ("dvc", "repro"), "flow": ("python", "-m", "flows.pipeline", "--cpu-slots", "2")}
AT_MOST_S = 10.0  # that Prefect may add to a whole pipeline


def prepared(path: Path) -> Project:
    """A project that has run nothing, with a small simulated archive."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        env.pop(name, None)
    copy_project(path)
    simulate(path / "data/raw", patients=14, seed=1)
    project = Project(path, env, path.parent / "attempts")
    project.edit_params(TINY)
    subprocess.run(["git", "init", "--quiet", path], check=True)
    project.run("dvc", "add", "--quiet", "data/raw")
    return project


def seconds(project: Project, command: tuple[str, ...]) -> float:
    """Of a command; it must succeed."""
    start = time.monotonic()
    project.run(*command)
    return time.monotonic() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What Prefect costs over plain `dvc repro`.")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    repeats = parser.parse_args().repeats
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            with tempfile.TemporaryDirectory() as folder:
                project = prepared(Path(folder) / "project")
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
