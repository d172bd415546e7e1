"""Killed at any moment: `xraysynth ingest` and a training end as if nobody had killed them.

    python -m benchmarks.kills --ingests 10 --trainings 10

Each ingest is killed once, at a moment drawn from all of its time, and run again. Each training is killed with SIGKILL
and then with SIGTERM, both at a moment drawn from its steps, and run to its end. Ends with the first difference. The
tests do the same at a few chosen moments.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from safetensors.torch import load_file

from tasks.ingest.cache import STORE_FILE

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0  # for what takes seconds where nothing else runs

# --- ingest

Moment = Callable[[Path], bool]  # whether it has come for the ingest that writes this folder; asked again and again


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ingest(archive: Path, out: Path) -> "subprocess.Popen[bytes]":
    """`xraysynth ingest` in a process of its own."""
    return subprocess.Popen([Path(sys.executable).with_name("xraysynth"), "ingest", archive, out])


def ingest_killed(archive: Path, moments: Iterable[Moment]) -> int:
    """Kill an ingest at each of the moments and run it again, in the working folder; how many kills it lived to see.

    Raises AssertionError where a kill left half a set or a worker, or the next run's set is another one.
    """
    undisturbed = Path("undisturbed")
    assert ingest(archive, undisturbed).wait() == 0
    expected, seen = files(undisturbed), 0
    for number, has_come in enumerate(moments):
        STORE_FILE.unlink(missing_ok=True)
        out = Path(f"killed{number}")
        process = ingest(archive, out)
        while process.poll() is None and not has_come(out):
            time.sleep(0.001)
        seen += process.poll() is None
        kill(process)
        assert not out.exists() or files(out) == expected, f"kill {number} left half a set"
        assert ingest(archive, out).wait() == 0
        assert files(out) == expected, f"another set after kill {number}"
        assert not list(out.parent.glob(f".{out.name}*")), f"kill {number} left files"
    return seen


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, after which no child may live on."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1], "a worker lives on"


def at(seconds: float) -> Moment:
    """So long after it is first asked."""
    started: list[float] = []

    def has_come(_: Path) -> bool:
        started.append(time.monotonic())
        return started[-1] - started[0] >= seconds

    return has_come


# --- training

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.torch import save_file
from model.gan.networks import NetworkConfig
from model.training import checkpoint
from model.training.config import TrainConfig
from model.training.guard import CollapseGuard
from model.training.loop import train
from model.training.trainer import Trainer

checkpoint.COST = 1.0
images = np.random.default_rng(0).integers(0, 255, (30, 16, 16), np.uint8)
labels = np.repeat([0, 1], [25, 5])
network = NetworkConfig(resolution=16, width=8, latent_dim=8, classes=2, attention_resolutions=(8,))
steps = int(sys.argv[3])
config = TrainConfig(
    kimg=steps * 4 / 1000, tick_kimg=steps / 1000, batch=4, augment_probability=0.5, augment_target=0.5,
    warmup_kimg=steps * 1.5 / 1000, device="cpu",
)
history, out, original = [], Path(sys.argv[2]), Trainer.step

def step(self):
    found = original(self)
    print("step", flush=True)
    return found

Trainer.step = step
generator = train(
    images, labels, network, config, lambda tick: history.append(tick.row()),
    guard=CollapseGuard(images, labels, ["a", "b"]),
    checkpoints=Path(sys.argv[1]), checkpoint_seconds=0.02,
    on_resume=lambda kimg, rows: (history.extend(rows), print("resumed", flush=True)),
)
save_file({k: v.contiguous() for k, v in generator.state_dict().items()}, out / "weights.safetensors")
(out / "history.json").write_text(json.dumps(history))
"""


class Signal(NamedTuple):
    """What to send to a training, and when: so many steps after it began or was resumed, and so long after that."""

    number: signal.Signals
    steps: int
    seconds: float = 0.0


def training(checkpoints: Path, out: Path, steps: int) -> "subprocess.Popen[str]":
    """A training of `steps` steps, four ticks, in a process of its own."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(checkpoints), str(out), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def training_killed(folder: Path, steps: int, signals: Sequence[Signal]) -> None:
    """Send each of the signals to a training, start it again after each, and let the last process finish.

    The steps of all signals together must be fewer than `steps`. Raises AssertionError where a signal does not end
    it, or where weights or history are not those of a training that nobody disturbed.
    """
    plain, checkpoints, out = folder / "undisturbed", folder / "checkpoints", folder / "disturbed"
    assert _finished(training(folder / "none", plain, steps)) == steps
    for number, count, seconds in signals:
        process = training(checkpoints, out, steps)
        _read_steps(process, count)
        time.sleep(seconds)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        expected = 1 if number == signal.SIGTERM else -number  # 1: nobody catches Stopped there
        assert process.returncode == expected, f"{number.name} ended it with {process.returncode}"
    assert _finished(training(checkpoints, out, steps)) < steps, "it was not resumed"
    (weights, history), (others, other) = _result(out), _result(plain)
    assert history == other, "another history"
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items()), "other weights"
    assert len(list(checkpoints.iterdir())) <= 3, "checkpoints pile up"  # two, and what a kill left half-written


def _read_steps(process: "subprocess.Popen[str]", count: int) -> None:
    assert process.stdout is not None
    while count:
        line = process.stdout.readline()
        assert line, "it ended by itself"
        count -= line == "step\n"


def _finished(process: "subprocess.Popen[str]") -> int:
    """How many steps a training made up to its end."""
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return said.count("step\n")


def _result(out: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights, and history without its times."""
    rows = json.loads((out / "history.json").read_text())
    times = ("seconds", "images_per_second")
    return load_file(out / "weights.safetensors"), [{k: row[k] for k in row if k not in times} for row in rows]


# --- the command line


def _archive(folder: Path) -> Path:
    """An archive of 300 simulated films."""
    from tasks.simulate.stage import simulate

    simulate(folder, patients=240, seed=0, size=128)
    yesterday = time.time() - 86400
    for path in folder.rglob("*"):
        os.utime(path, (yesterday, yesterday))
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ingests", type=int, default=10)
    parser.add_argument("--trainings", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        if options.ingests:
            archive = _archive(Path(name) / "archive")
            started = time.monotonic()
            assert ingest(archive, Path("timed")).wait() == 0
            needed = time.monotonic() - started
            seen = ingest_killed(archive, map(at, rng.uniform(0, needed, options.ingests)))
            print(f"ingest: {options.ingests} kills, {seen} of them before its end, no difference", flush=True)
        for number in range(options.trainings):
            first, second = (int(count) for count in rng.integers(1, 100, 2))
            pauses = rng.uniform(0, 0.02, 2)
            folder = Path(name) / f"training{number}"
            folder.mkdir()
            signals = [Signal(signal.SIGKILL, first, pauses[0]), Signal(signal.SIGTERM, second, pauses[1])]
            training_killed(folder, 240, signals)
            print(f"training: SIGKILL and SIGTERM after {first} and {second} steps, no difference", flush=True)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
