"""Two processes, started by torchrun, train what one does: the same weights, one history, one end."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.gan.networks import Generator, NetworkConfig
from model.training.checkpoint import Stopped
from model.training.config import TrainConfig
from model.training.distributed import Ranks, join
from model.training.guard import Reading
from model.training.loop import TrainingDiverged, train
from model.training.trainer import Trainer
from tests.model.tiny import SHORT, TINY, films, labels

ROOT = Path(__file__).resolve().parents[3]
STEPS = 4
TWO_CLASSES = dataclasses.replace(TINY, classes=2, attention_resolutions=(8,))
OFTEN = dataclasses.replace(SHORT, penalty_interval=2)
TEN = dataclasses.replace(OFTEN, kimg=0.08, tick_kimg=0.04)
CASES: dict[str, tuple[NetworkConfig, dict[str, Any]]] = {
    "default": (TINY, {}),
    "four groups": (TINY, {"batch": 16}),
    "penalty at real images": (TINY, {"penalty_on": "real"}),
    "attention, classes, ADA": (TWO_CLASSES, {"augment_probability": 0.4, "augment_target": 0.5, "augment_kimg": 0.2}),
    "warm-up": (TWO_CLASSES, {"warmup_kimg": 0.024}),
    "wgan_gp": (TWO_CLASSES, {"loss": "wgan_gp"}),
    "relativistic average": (TINY, {"loss": "relativistic_average_hinge"}),
    "non_saturating, stddev in every block": (
        dataclasses.replace(TINY, minibatch_stddev="every"),
        {"loss": "non_saturating"},
    ),
}


def images(network: NetworkConfig) -> tuple[np.ndarray, np.ndarray]:
    return (films(20), labels(20)) if network.classes == 1 else (films(20), labels(13, 7))


def stepped(case: str, ranks: Ranks) -> dict[str, Any]:
    """Weights and everything else that steps leave behind, in float64: in fp32, Adam makes steps of full size of
    gradients that are nought but for rounding.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            return _stepped(case, ranks)
        finally:
            torch.set_default_dtype(torch.float32)


def _stepped(case: str, ranks: Ranks) -> dict[str, Any]:
    network, settings = CASES[case]
    trainer = Trainer(*images(network), network, dataclasses.replace(OFTEN, **settings), ranks)
    with torch.no_grad():  # or attention's weights have no gradient at first
        for name, parameter in [*trainer.generator.named_parameters(), *trainer.discriminator.named_parameters()]:
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    for _ in range(STEPS):
        trainer.step()
    groups, _ = trainer.state()
    return {"groups": groups, "means": trainer.means()[0]}


class Guard:
    """Finds the generator best at the first tick, and collapsed at the second."""

    def __init__(self, collapses: bool, ever_best: bool = True) -> None:
        self.collapses, self.ever_best, self.ticks = collapses, ever_best, 0

    def check(self, generator: Generator, kimg: float) -> Reading:
        self.ticks += 1
        alarm = "it has collapsed" if self.collapses and self.ticks >= 2 else None
        return Reading(kimg, {}, {}, {}, 1.0, 1.0, alarm, self.ever_best and self.ticks == 1)

    def state(self) -> dict[str, Any]:
        return {"ticks": self.ticks}

    def load_state(self, state: dict[str, Any]) -> None:
        self.ticks = state["ticks"]


def trained(
    config: TrainConfig = TEN,
    checkpoints: Path | None = None,
    guard: Guard | None = None,
    interrupt: int | None = None,  # SIGTERM at the start of this step, to the last process only
) -> dict[str, Any]:
    """What one process sees of a training, by default of 10 steps, 5 of them a tick."""
    ticks: list[float] = []
    resumed: list[float] = []
    steps = 0
    original = Trainer.step

    def step(self: Trainer) -> dict[str, Tensor]:
        nonlocal steps
        steps = self.steps + 1
        if steps == interrupt and self.ranks.rank == self.ranks.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    result: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        try:
            generator = train(
                *images(TWO_CLASSES),
                TWO_CLASSES,
                config,
                lambda tick: ticks.append(tick.kimg),
                guard=guard,  # type: ignore[arg-type]
                checkpoints=checkpoints,
                on_resume=lambda kimg, history: resumed.append(kimg),
            )
            result["weights"] = generator.state_dict()
        except (Stopped, TrainingDiverged, RuntimeError, ValueError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
    return result | {"ticks": ticks, "resumed": resumed, "steps": steps}


def work(out: Path) -> None:
    """All that two processes do for these tests; each writes down what it has seen."""
    ranks = join(torch.device("cpu"))
    rank = ranks.rank
    seen: dict[str, Any] = {case: stepped(case, ranks) for case in CASES}
    shared = out / "checkpoints"
    seen["undisturbed"] = trained()
    seen["stopped"] = trained(checkpoints=shared, interrupt=6)
    seen["files"] = sorted(file.name.split("-")[1] for file in shared.iterdir())
    seen["taken up"] = trained(checkpoints=shared)
    seen["not shared"] = trained(checkpoints=shared if rank == 0 else out / "elsewhere")
    seen["out of time"] = trained(dataclasses.replace(TEN, kimg=1e6, max_seconds=0.3))
    seen["collapsed"] = trained(dataclasses.replace(TEN, tick_kimg=0.016), guard=Guard(True))
    seen["best"] = trained(dataclasses.replace(TEN, kimg=0.016))
    seen["diverged"] = trained(guard=Guard(True, ever_best=False))
    seen["odd batch"] = trained(dataclasses.replace(TEN, batch=12))
    torch.save(seen, out / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("distributed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, "-m", "tests.model.training.test_distributed", out],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case: str, both: list[dict[str, Any]]) -> None:
    alone = stepped(case, Ranks())
    for name, tensors in both[0][case]["groups"].items():
        assert_equal(tensors, both[1][case]["groups"][name])  # no process drifts from the other
        for key, value in tensors.items():
            expected = alone["groups"][name][key]
            if name in ("sampler", "loop") and key != "last_penalty":
                assert torch.equal(value, expected)
            else:
                torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    assert both[0][case]["means"] == pytest.approx(alone["means"], rel=1e-7, abs=1e-9)
    assert all(math.isfinite(value) for value in alone["means"].values())


def test_only_the_first_reports_and_both_return_the_generator(both: list[dict[str, Any]]) -> None:
    first, second = (seen["undisturbed"] for seen in both)
    assert first["ticks"] == pytest.approx([0.04, 0.08])
    assert second["ticks"] == []
    assert_equal(first["weights"], second["weights"])


def test_a_signal_to_one_stops_both_after_the_same_step_and_they_go_on_exactly(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert seen["stopped"]["error"] == "Stopped: stopped by SIGTERM at 0.06 kimg"
        assert seen["stopped"]["steps"] == 8  # of 6, the next at which they agree
        assert seen["files"][-1] == "000000000008"
        assert seen["taken up"]["steps"] == 10
        assert_equal(seen["taken up"]["weights"], seen["undisturbed"]["weights"])
    assert both[0]["taken up"]["resumed"] == pytest.approx([0.064])
    assert both[1]["taken up"]["resumed"] == []


def test_a_folder_that_is_not_shared_is_told(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert "all share" in seen["not shared"]["error"]


def test_a_time_limit_ends_both_after_the_same_step(both: list[dict[str, Any]]) -> None:
    first, second = (seen["out of time"] for seen in both)
    assert 0 < first["steps"] == second["steps"] < 1e5
    assert_equal(first["weights"], second["weights"])


def test_an_alarm_ends_both_with_the_best_generator(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert seen["collapsed"]["steps"] == 4
        assert_equal(seen["collapsed"]["weights"], seen["best"]["weights"])
    assert both[0]["diverged"]["error"] == "TrainingDiverged: it has collapsed"
    assert both[1]["diverged"]["error"].startswith("TrainingDiverged: the first process")


def test_a_batch_without_whole_groups_for_each_is_refused(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert "batch must be a multiple of 8, 4 images for each, not 12" in seen["odd batch"]["error"]
    Ranks(0, 2).check(16)
    Ranks().check(7)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join(torch.device("cpu")) == Ranks(0, 1)
    assert not torch.distributed.is_initialized()


def test_several_processes_cannot_have_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must be cuda, not cuda:1"):
        join(torch.device("cuda:1"))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
