"""The training loop: steps, and ticks, which do everything that is not a step."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from model.gan.networks import Discriminator, Generator, NetworkConfig, attention_gammas
from model.head_start.transfer import HeadStart
from model.training.checkpoint import Checkpoints, Stopped, stop_requests
from model.training.config import TrainConfig
from model.training.distributed import join
from model.training.guard import CollapseGuard, Reading
from model.training.trainer import MEANS, Row, Trainer

__all__ = ["Row", "Tick", "TrainConfig", "Trainer", "TrainingDiverged", "fingerprint", "train"]

MODEL = Path(__file__).resolve().parents[1]
CODE = ("training", "gan", "head_start", "measures/similarity.py", "classifier.py")  # all that a training runs
AGREE = 4  # steps from one agreement of several processes on whether to stop to the next


class TrainingDiverged(RuntimeError):
    """Losses or weights are no longer finite numbers."""


@dataclass(frozen=True)
class Tick:
    """State of a training, reported every `tick_kimg`. Losses, logits and the like are means since the last tick."""

    kimg: float
    seconds: float  # since the start of training
    images_per_second: float  # real images shown, since the last tick
    eta_seconds: float
    loss_generator: float
    loss_discriminator: float
    penalty: float  # without its weight, where last measured
    logit_real: float
    logit_fake: float
    augment_probability: float
    gammas: dict[str, float]
    generator: Generator = field(repr=False)  # the EMA, in eval mode, on the training device
    discriminator: Discriminator = field(repr=False)
    reading: Reading | None = None  # of the collapse guard
    alarm: str | None = None  # why training ends here, with the best generator so far

    def row(self) -> Row:
        """The tick as a row of a history."""
        row: Row = {name: getattr(self, name) for name in ("kimg", "seconds", "images_per_second", *MEANS)}
        row |= {f"gamma.{name}": value for name, value in self.gammas.items()}
        if self.reading is not None:
            row |= {"frechet": self.reading.frechet, "frechet_floor": self.reading.frechet_floor}
            for name in ("ms_ssim", "ms_ssim_real", "near_duplicates", "recognised", "recognised_real"):
                row |= {f"{name}.{label}": value for label, value in getattr(self.reading, name).items()}
        return row | ({"alarm": self.alarm} if self.alarm else {})


def train(
    images: np.ndarray,
    labels: np.ndarray,
    network: NetworkConfig,
    config: TrainConfig,
    on_tick: Callable[[Tick], None] | None = None,
    *,
    head_start: HeadStart | None = None,
    guard: CollapseGuard | None = None,
    checkpoints: Path | None = None,
    checkpoint_key: str | None = None,
    checkpoint_seconds: float = 60.0,
    on_resume: Callable[[float, list[Row]], None] | None = None,
) -> Generator:
    """Train on images uint8 (N, H, W) with labels int (N,); return the EMA generator: eval, fp32, on the CPU.

    Labels (N, K) are of several findings at once: 1 where there, 0 where not, -1 where that is not known.

    The same seed gives the same weights on a CPU with the same number of threads. Raises ValueError for data
    that do not fit the network, TrainingDiverged when losses or weights stop being finite.

    With a `head_start` the networks begin with its weights, as far as they fit.

    With a `guard`, a training that collapses or diverges ends with the best generator so far, if there is one;
    its last tick has the reason in `alarm`.

    With a folder `checkpoints` an interrupted training is resumed by itself: the folder gets a checkpoint at ticks and
    every `checkpoint_seconds`, and the newest one with the same `fingerprint` (`checkpoint_key` to a caller who has it
    already) is taken up; `on_resume` hears its kimg and the history up to there. However often it was killed, weights
    and history (but its times) are bit for bit those of an undisturbed training, on a CPU; a training that
    `max_seconds` ended cannot be that exact. SIGTERM and SIGINT write a checkpoint at the end of the step and raise
    Stopped. Checkpoints of a finished training are of no use, and the caller's to remove.

    Started by torchrun, each process calls this alike, trains its part of every batch (`Ranks`), and gets the same
    generator; only the first calls the guard, `on_tick` and `on_resume`, and writes. All must see the folder of
    checkpoints. A signal to any of them stops all after the same step, at most AGREE steps later.
    """
    trainer = Trainer(images, labels, network, config, join(config.torch_device()), head_start)
    store = None
    if checkpoints is not None:
        key = checkpoint_key or fingerprint(images, labels, network, config, head_start)
        store = Checkpoints(checkpoints, key, checkpoint_seconds)
    if not trainer.ranks.first:
        on_tick = guard = on_resume = None
    return _loop(trainer, store, on_tick, guard, on_resume)


def _loop(
    trainer: Trainer,
    store: Checkpoints | None,
    on_tick: Callable[[Tick], None] | None,
    guard: CollapseGuard | None,
    on_resume: Callable[[float, list[Row]], None] | None,
) -> Generator:
    config, ranks = trainer.config, trainer.ranks
    started = last = time.perf_counter()
    if store and (found := store.load()):
        groups, facts = found
        trainer.load_state(groups, facts)
        started, last = started - facts["seconds"], last - facts["seconds_since_tick"]
        if guard is not None and facts["guard"] is not None:
            guard.load_state(facts["guard"])
        if on_resume is not None:
            on_resume(trainer.kimg, list(trainer.history))
    if ranks.most(trainer.steps) != -ranks.most(-trainer.steps):  # none writes before all have read
        raise RuntimeError("the processes have found different checkpoints: their folder must be one that all share")
    total_steps = math.ceil(config.kimg * 1000 / config.batch)
    tick_steps = max(round(config.tick_kimg * 1000 / config.batch), 1)
    with stop_requests(store is not None) as signals:
        while True:
            trainer.step()

            agreeing = ranks.size == 1 or trainer.steps % AGREE == 0 or trainer.steps % tick_steps == 0
            share = trainer.steps / total_steps
            if config.max_seconds is not None and agreeing:
                share = max(share, ranks.most((time.perf_counter() - started) / config.max_seconds))
            ticking = share >= 1 or trainer.steps % tick_steps == 0
            if ticking:
                tick = _tick(trainer, guard, share, started, last)
                if on_tick is not None:
                    on_tick(tick)
                if tick.alarm:
                    trainer.ema.load_state_dict(trainer.best)
                if tick.alarm or share >= 1:
                    return trainer.ema.cpu()
                last = time.perf_counter()

            stop = int(ranks.most(signals[0] if signals else 0)) if agreeing else 0
            if store and (stop or (ranks.first and store.due(ticking))):
                saved = False
                if ranks.first:
                    now = time.perf_counter()
                    groups, facts = trainer.state()
                    facts |= {"seconds": now - started, "seconds_since_tick": now - last}
                    saved = store.save(trainer.steps, groups, facts | {"guard": guard.state() if guard else None})
                if stop:
                    raise Stopped(stop, trainer.kimg, bool(ranks.most(saved)))


def fingerprint(
    images: np.ndarray,
    labels: np.ndarray,
    network: NetworkConfig,
    config: TrainConfig,
    head_start: HeadStart | None = None,
) -> str:
    """16 hex digits that two trainings share if one can go on from a checkpoint of the other.

    Of the settings all count but `max_seconds`, which changes the length alone; the device counts as what it is here.
    CODE and the version of torch count too: what they had begun others would end otherwise.
    """
    settings = {**asdict(config), "device": config.torch_device().type, "bf16": config.bf16(), "max_seconds": None}
    del settings["precision"]
    what = [torch.__version__, asdict(network), settings, head_start and head_start.digest()]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for name in CODE:
        for file in sorted((MODEL / name).glob("*.py")) or [MODEL / name]:
            digest.update(file.read_bytes())
    digest.update(np.ascontiguousarray(labels, np.int64).data)
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:16]


def _tick(trainer: Trainer, guard: CollapseGuard | None, share: float, started: float, last: float) -> Tick:
    """Sum up the steps since the `last` tick and look at the EMA, both times by the performance counter.

    Raises TrainingDiverged for an alarm without an earlier generator to fall back on.
    """
    images = len(trainer.pending["penalty"]) * trainer.config.batch
    means, alarm = trainer.means()
    now = time.perf_counter()  # after the sync that reading the means implies
    reading = None
    if guard is not None and alarm is None:
        reading = guard.check(trainer.ema, trainer.kimg)
        alarm = reading.alarm
    if trainer.ranks.most(reading is not None and reading.best):
        trainer.best = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    if trainer.ranks.most(alarm is not None) and alarm is None:
        alarm = "the first process has raised an alarm"
    if alarm and not trainer.best:
        raise TrainingDiverged(alarm)
    tick = Tick(
        kimg=trainer.kimg,
        seconds=now - started,
        images_per_second=images / (now - last),
        eta_seconds=max((now - started) * (1 / share - 1), 0.0),
        gammas=attention_gammas(trainer.generator, trainer.discriminator),
        generator=trainer.ema,
        discriminator=trainer.discriminator,
        reading=reading,
        alarm=alarm,
        **means,
    )
    trainer.history.append(tick.row())
    return tick
