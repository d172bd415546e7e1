"""The loop: it learns, repeats itself, reports, stops when it must, and resumes as if it had not been stopped."""

import dataclasses
import math
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import kills
from benchmarks.kills import Signal
from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import sample
from model.training import loop
from model.training.checkpoint import Stopped
from model.training.guard import CollapseGuard, Reading
from model.training.loop import Row, Tick, TrainConfig, TrainingDiverged, fingerprint, train
from model.training.losses import LOSSES
from model.training.trainer import Trainer
from tests.model.tiny import SHORT, TINY, films, labels
from tests.test_staleness import modules


@pytest.mark.parametrize("loss", LOSSES)
def test_it_moves_towards_the_data(loss: str) -> None:
    config = dataclasses.replace(SHORT, kimg=0.8, loss=loss, learning_rate=0.01, ema_kimg=0.1, penalty_interval=4)
    generator = train(films(64, mean=40), labels(64), TINY, config)
    before = sample(Trainer(films(64), labels(64), TINY, config).ema, 0, 64, seed=0).mean()
    after = sample(generator, 0, 64, seed=0).mean()
    assert abs(after - 40) < 0.35 * abs(before - 40)


@pytest.mark.parametrize(("attention", "augment"), [((), 0.0), ((8,), 0.6)])
def test_the_same_seed_gives_the_same_weights(attention: tuple[int, ...], augment: float) -> None:
    network = dataclasses.replace(TINY, attention_resolutions=attention)
    config = dataclasses.replace(SHORT, augment_probability=augment)
    first, again, other = (
        train(films(20), labels(20), network, dataclasses.replace(config, seed=seed)).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["start.weight"], other["start.weight"])


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(films(8), labels(8), TINY, SHORT)
    assert torch.equal(torch.rand(3), expected)


def test_ticks_tell_what_a_user_wants_to_know() -> None:
    ticks: list[Tick] = []
    network = dataclasses.replace(TINY, attention_resolutions=(8,))
    generator = train(films(20), labels(20), network, SHORT, ticks.append)
    assert [tick.kimg for tick in ticks] == pytest.approx([0.04, 0.08])
    assert ticks[0].eta_seconds > 0
    assert ticks[-1].eta_seconds == 0
    assert all(tick.images_per_second > 0 and math.isfinite(tick.loss_generator) for tick in ticks)
    assert ticks[-1].gammas.keys() == {"generator.8", "discriminator.8"}
    assert ticks[-1].gammas["generator.8"] != 0
    assert math.isfinite(ticks[0].penalty)
    assert ticks[0].penalty >= 0
    assert ticks[0].augment_probability == 0
    assert not generator.training
    assert all(p.dtype == torch.float32 for p in generator.parameters())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the training takes for the time, in seconds: each step takes a tenth of one."""
    now, original = [0.0], Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        now[0] += 0.1
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


@pytest.mark.usefixtures("clock")
def test_a_time_limit_ends_it_early() -> None:
    ticks: list[Tick] = []
    train(films(20), labels(20), TINY, dataclasses.replace(SHORT, kimg=1e6, max_seconds=0.35), ticks.append)
    assert [(tick.kimg, tick.seconds) for tick in ticks] == [pytest.approx((0.032, 0.4))]


@pytest.mark.parametrize("where", ["generator", "discriminator"])
def test_nan_stops_the_training_with_a_reason(where: str) -> None:
    def poison(tick: Tick) -> None:
        raise AssertionError("a diverged training must not tick")

    original = Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            next(getattr(self, where).parameters()).fill_(math.nan)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(TrainingDiverged, match="not finite"):
            train(films(20), labels(20), TINY, SHORT, poison)


@pytest.mark.parametrize("settings", [{}, {"loss": "wgan_gp", "augment_target": 0.6}])
@pytest.mark.parametrize(
    ("counts", "batch"),
    [
        ((8,), 8),
        ((8,), 12),  # larger than the set
        ((3,), 7),  # no group of minibatch_stddev fits
        ((1,), 8),
        ((1,), 1),
        ((40, 2), 8),
        ((9, 1, 1), 6),
    ],
)
@pytest.mark.parametrize("alike", [False, True])
def test_tiny_sets_train(counts: tuple[int, ...], batch: int, alike: bool, settings: dict) -> None:
    images = np.full((sum(counts), 8, 8), 90, np.uint8) if alike else films(sum(counts))
    network = dataclasses.replace(TINY, classes=len(counts), attention_resolutions=(8,))
    config = dataclasses.replace(
        SHORT, kimg=12 * batch / 1000, tick_kimg=4 * batch / 1000, batch=batch, penalty_interval=2, **settings
    )
    rows: list[Row] = []
    guard = CollapseGuard(images, labels(*counts), [str(label) for label in range(len(counts))])
    generator = train(images, labels(*counts), network, config, lambda tick: rows.append(tick.row()), guard=guard)
    assert len(rows) == 3
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert sample(generator, len(counts) - 1, 3, 0).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("images", "y", "message"),
    [
        (films(4, side=16), labels(4), "uint8"),
        (films(4).astype(np.float32), labels(4), "uint8"),
        (films(0), labels(0), "no images"),
        (films(4), labels(3), "3 labels for 4"),
        (films(4), labels(2, 2), "labels must be"),
    ],
)
def test_data_that_do_not_fit_are_named(images: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(images, y, TINY, SHORT)


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(ValueError, match="class 1"):
        train(films(4), labels(4), dataclasses.replace(TINY, classes=2), SHORT)


class Killed(BaseException):
    """In place of SIGKILL: nothing in the code catches it."""


Weights = dict[str, torch.Tensor]


def trained(
    data: tuple[np.ndarray, np.ndarray],
    network: NetworkConfig,
    config: TrainConfig,
    folder: Path | None = None,
    kills: Iterable[int] = (),
    **options: Any,
) -> tuple[Weights, list[Row]]:
    """Weights and history, without its times, of a training that is killed before the given steps and started again."""
    history: list[Row] = []

    def on_resume(kimg: float, earlier: list[Row]) -> None:
        history[:] = earlier

    def run() -> Generator:
        guard = CollapseGuard(*data, [str(label) for label in range(network.classes)])
        options.setdefault("checkpoint_seconds", 0.0)
        return train(
            *data,
            network,
            config,
            lambda tick: history.append(tick.row()),
            guard=guard,
            checkpoints=folder,
            on_resume=on_resume,
            **options,
        )

    for kill in kills:
        with killed_before(kill):
            run()
        history.clear()
    weights = run().state_dict()
    return weights, [
        {name: row[name] for name in row if name not in ("seconds", "images_per_second")} for row in history
    ]


@contextmanager
def killed_before(at: int) -> Iterator[None]:
    """A training in this block ends before step `at`."""
    original = Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        if self.steps == at:
            raise Killed
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(Killed):
            yield


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each step, whatever it costs."""
    monkeypatch.setattr("model.training.checkpoint.COST", math.inf)


def assert_equal(ours: tuple[Weights, list[Row]], expected: tuple[Weights, list[Row]]) -> None:
    assert ours[1] == expected[1]
    assert ours[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(ours[0][name], value), name


ADAPTIVE = {"augment_probability": 0.4, "augment_target": 0.05, "augment_kimg": 0.2, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("kills", "settings", "counts"),
    [
        ([1], {}, (20,)),
        ([7, 10, 11, 19], {}, (20,)),  # in the middle of a tick, at one, just after one, in the last step
        ([3, 13], {"augment_probability": 0.6, "penalty_interval": 3}, (20, 3)),
        ([5, 6], {"batch": 6, "penalty_on": "real"}, (2, 1, 1)),  # decks that are dealt again in each batch
        ([4], {"precision": "bf16", "loss": "relativistic_average_hinge"}, (9, 9)),
        ([5, 14], {"loss": "wgan_gp", "penalty_interval": 3}, (20,)),
        # in the warm-up, which step 10 ends, just after it, and later; the probability falls and rises on the way
        ([6, 10, 11, 15], {"warmup_kimg": 0.08, **ADAPTIVE}, (20, 3)),
    ],
)
@pytest.mark.usefixtures("every_step")
def test_a_killed_training_ends_as_an_undisturbed_one(
    kills: list[int], settings: dict, counts: tuple[int, ...], tmp_path: Path
) -> None:
    network = dataclasses.replace(TINY, classes=len(counts), attention_resolutions=(8,))
    config = dataclasses.replace(SHORT, kimg=0.16, **settings)
    data = films(sum(counts)), labels(*counts)
    assert_equal(trained(data, network, config, tmp_path, kills), trained(data, network, config))


@pytest.mark.usefixtures("every_step")
def test_what_came_after_the_last_checkpoint_is_done_again(tmp_path: Path) -> None:
    """Checkpoints at ticks only, steps 5, 10, ...: the steps since then, and their ticks, are repeated."""
    data, config = (films(20), labels(20)), dataclasses.replace(SHORT, kimg=0.16)
    undisturbed = trained(data, TINY, config)
    assert_equal(trained(data, TINY, config, tmp_path, [4, 9, 14], checkpoint_seconds=1e6), undisturbed)


@pytest.mark.usefixtures("every_step")
def test_a_damaged_checkpoint_costs_time_and_no_exactness(tmp_path: Path) -> None:
    data, config = (films(20), labels(20)), dataclasses.replace(SHORT, kimg=0.16)
    with killed_before(8):
        trained(data, TINY, config, tmp_path)
    max(tmp_path.iterdir()).write_bytes(b"torn")
    undisturbed = trained(data, TINY, config)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert_equal(trained(data, TINY, config, tmp_path), undisturbed)


@pytest.mark.usefixtures("every_step")
def test_only_the_same_training_is_gone_on_with(tmp_path: Path) -> None:
    """Checkpoints of another seed lie in the same folder."""
    data, config = (films(20), labels(20)), SHORT
    with killed_before(8):
        trained(data, TINY, dataclasses.replace(config, seed=1), tmp_path)
    assert_equal(trained(data, TINY, config, tmp_path), trained(data, TINY, config))


def test_the_fingerprint_names_data_labels_network_and_settings() -> None:
    y = labels(2, 2)
    network = dataclasses.replace(TINY, classes=2)
    plain = dataclasses.replace(SHORT, precision="fp32")
    same = fingerprint(films(4), y, network, plain)
    assert same == fingerprint(films(4), y.astype(np.int32), network, dataclasses.replace(plain, max_seconds=9.0))
    changes: list[dict[str, Any]] = [{"kimg": 9.0}, {"batch": 4}, {"seed": 1}, {"gamma": 1.0}, {"precision": "bf16"}]
    others = [
        fingerprint(films(4, seed=1), y, network, plain),
        fingerprint(films(4), y[::-1], network, plain),
        fingerprint(films(4), y, dataclasses.replace(network, width=9), plain),
        *(fingerprint(films(4), y, network, dataclasses.replace(plain, **change)) for change in changes),
    ]
    assert len({same, *others}) == len(others) + 1


def test_what_other_code_or_another_torch_began_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def now() -> str:
        return fingerprint(films(4), labels(4), TINY, SHORT)

    before = now()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.0")
        assert now() != before
    monkeypatch.setattr(loop, "MODEL", shutil.copytree(loop.MODEL, tmp_path / "model"))
    assert now() == before
    for name, counts in (("measures/inception.py", False), ("memorisation.py", False), ("gan/layers.py", True)):
        with (loop.MODEL / name).open("a") as file:
            file.write("LEAK = 0.1\n")
        assert (now() != before) == counts


def test_the_code_that_counts_is_what_a_training_runs() -> None:
    named = {file for name in loop.CODE for file in sorted((loop.MODEL / name).glob("*.py")) or [loop.MODEL / name]}
    runs = modules("model/training/loop.py", set())
    assert {f"model/{file.relative_to(loop.MODEL)}" for file in named if file.name != "__init__.py"} == runs


@pytest.mark.usefixtures("every_step")
def test_times_are_those_of_all_parts_together(tmp_path: Path, clock: list[float]) -> None:
    """A tenth of a second a step: ten of them are in the limit, seven of which are made before the kill."""
    config = dataclasses.replace(SHORT, kimg=1e6, max_seconds=0.95)
    ticks: list[Tick] = []
    with killed_before(7):
        train(films(20), labels(20), TINY, config, checkpoints=tmp_path, checkpoint_seconds=0.0)
    clock[0] += 1e6  # until somebody starts it again
    train(films(20), labels(20), TINY, config, ticks.append, checkpoints=tmp_path)
    assert ticks[-1].kimg == pytest.approx(0.08)
    assert ticks[-1].seconds == pytest.approx(1.0)


@pytest.mark.usefixtures("at_a_prompt")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_the_step_and_a_checkpoint(number: int, tmp_path: Path) -> None:
    data, config = (films(20), labels(20)), dataclasses.replace(SHORT, kimg=0.16)
    original = Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        if self.steps == 6:
            os.kill(os.getpid(), number)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(Stopped, match=r"SIG(TERM|INT) at 0\.06 kimg$") as stop:
            trained(data, TINY, config, tmp_path)
    assert stop.value.number == number
    assert max(tmp_path.iterdir()).name[17:29] == "000000000007"
    assert_equal(trained(data, TINY, config, tmp_path), trained(data, TINY, config))


def test_sigkill_changes_nothing(tmp_path: Path) -> None:
    """In a process of its own. At any moment, and SIGTERM as well: `benchmarks/kills.py`."""
    kills.training_killed(tmp_path, 60, [Signal(signal.SIGKILL, 22, 0.004)])


class Planted(CollapseGuard):
    """A guard that finds the second tick best and, later, what it is told to find."""

    def __init__(self, alarm_at: int) -> None:
        super().__init__(films(8), labels(8), ["a"])
        self.ticks, self.alarm_at = 0, alarm_at

    def check(self, generator: Generator, kimg: float) -> Reading:
        self.ticks += 1
        alarm = "it repeats itself" if self.ticks == self.alarm_at else None
        return dataclasses.replace(super().check(generator, kimg), alarm=alarm, best=self.ticks == 2)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "ticks": self.ticks}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.ticks = state["ticks"]


def test_an_alarm_ends_the_training_with_the_best_generator() -> None:
    ticks: list[Tick] = []
    weights: list[Weights] = []

    def on_tick(tick: Tick) -> None:
        ticks.append(tick)
        weights.append({name: value.clone() for name, value in tick.generator.state_dict().items()})

    config = dataclasses.replace(SHORT, kimg=0.4)
    generator = train(films(8), labels(8), TINY, config, on_tick, guard=Planted(alarm_at=4))
    assert [tick.alarm for tick in ticks] == [None, None, None, "it repeats itself"]
    assert ticks[-1].row()["alarm"] == "it repeats itself"
    assert "ms_ssim.a" in ticks[0].row()
    for name, value in generator.state_dict().items():
        assert torch.equal(value, weights[1][name])
    assert not torch.equal(weights[1]["start.weight"], weights[3]["start.weight"])


@pytest.mark.usefixtures("every_step")
def test_the_guard_and_its_best_generator_survive_a_kill(tmp_path: Path) -> None:
    def run(folder: Path | None) -> Weights:
        config = dataclasses.replace(SHORT, kimg=0.4)
        guard = Planted(alarm_at=4)
        options: dict[str, Any] = {"guard": guard, "checkpoints": folder, "checkpoint_seconds": 0.0}
        return train(films(8), labels(8), TINY, config, **options).state_dict()

    with killed_before(13):  # between the second tick and the fourth
        run(tmp_path)
    ours = run(tmp_path)
    for name, value in run(None).items():
        assert torch.equal(ours[name], value)


def test_an_alarm_without_an_earlier_generator_is_an_error() -> None:
    with pytest.raises(TrainingDiverged, match="it repeats itself"):
        train(films(8), labels(8), TINY, SHORT, guard=Planted(alarm_at=1))


def test_a_diverged_training_falls_back_on_the_best_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.step

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        if self.steps == 12:
            with torch.no_grad():
                next(self.discriminator.parameters()).fill_(math.nan)
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    ticks: list[Tick] = []
    config = dataclasses.replace(SHORT, kimg=0.4)
    generator = train(films(8), labels(8), TINY, config, ticks.append, guard=Planted(alarm_at=99))
    assert "not finite" in str(ticks[-1].alarm)
    assert len(ticks) == 3
    assert all(torch.isfinite(value).all() for value in generator.state_dict().values())
