"""The training loop: one generator pass feeds both updates; a tick does everything that is not a step."""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import augment
from model.checkpoint import Checkpoints, Groups, State, Stopped, load_optimizer, optimizer_tensors, stop_requests
from model.guard import CollapseGuard, Reading
from model.layers import GROUP
from model.losses import LOSSES, gradient_penalty
from model.networks import Discriminator, Generator, NetworkConfig, attention_gammas

FORMAT = 1  # to be raised when a checkpoint holds other things: older ones are then not found any more
MEANS = ("loss_generator", "loss_discriminator", "penalty", "logit_real", "logit_fake")
Row = dict[str, Any]  # of a history: numbers, and "alarm", a sentence, in the last row of a training that failed


class TrainingDiverged(RuntimeError):
    """Losses or weights are no longer finite numbers."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are for some hundreds to thousands of films at 64 px on two CPU cores."""

    kimg: float = 8.0  # length: thousands of real images shown
    max_seconds: float | None = None  # stop earlier after this time; such a run cannot be repeated exactly
    batch: int = 8  # twice the updates of 16, at 1.1 to 1.2 times the cost of an image
    learning_rate: float = 0.002  # of both networks; Adam
    betas: tuple[float, float] = (0.0, 0.99)
    loss: str = "relativistic"  # a key of model.losses.LOSSES
    gamma: float = 10.0  # weight of the gradient penalty is gamma / 2
    penalty_interval: int = 16  # steps from one penalty to the next ("lazy", arXiv 1912.04958)
    penalty_on: str = "both"  # "real": R1; "both": R1 and R2
    augment_probability: float = 0.0  # of each operation on each image; short trainings lose variety by it
    ema_kimg: float = 5.0  # half-life of the averaged generator
    ema_rampup: float = 0.05  # the half-life is at most this part of the images seen so far
    precision: str = "auto"  # of all but the penalty: "bf16", "fp32", or "auto": bf16 where the device has it
    tick_kimg: float = 1.0
    device: str = "auto"  # "auto": cuda where there is one
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("kimg", "batch", "learning_rate", "penalty_interval", "tick_kimg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        choices = {"loss": tuple(LOSSES), "precision": ("auto", "bf16", "fp32"), "penalty_on": ("real", "both")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if not 0 <= self.augment_probability <= 1:
            raise ValueError(f"augment_probability must be from 0 to 1, not {self.augment_probability}")


@dataclass(frozen=True)
class Tick:
    """State of a training, reported every `tick_kimg`. Losses and logits are means since the last tick."""

    kimg: float
    seconds: float  # since the start of training
    images_per_second: float  # real images shown, since the last tick
    eta_seconds: float
    loss_generator: float
    loss_discriminator: float
    penalty: float  # mean squared gradient norm, without its weight, where last measured
    logit_real: float
    logit_fake: float
    gammas: dict[str, float]
    generator: Generator = field(repr=False)  # the EMA, in eval mode, on the training device
    reading: Reading | None = None  # of the collapse guard
    alarm: str | None = None  # why training ends here, with the best generator so far

    def row(self) -> Row:
        """The tick as a row of a history."""
        row: Row = {name: getattr(self, name) for name in ("kimg", "seconds", "images_per_second", *MEANS)}
        row |= {f"gamma.{name}": value for name, value in self.gammas.items()}
        if self.reading is not None:
            row |= {"frechet": self.reading.frechet, "frechet_floor": self.reading.frechet_floor}
            for name in ("ms_ssim", "ms_ssim_real"):
                row |= {f"{name}.{label}": value for label, value in getattr(self.reading, name).items()}
        return row | ({"alarm": self.alarm} if self.alarm else {})


class BalancedSampler:
    """Real minibatches in which every class is equally frequent; within a class no image repeats before all
    have been shown. A rare class so repeats its images.

    Classes come in runs of GROUP, so that each minibatch standard deviation is taken within one class: mixed
    with another class, a class whose images are all alike would still look varied, and so collapse.
    """

    def __init__(self, labels: Tensor, classes: int, generator: torch.Generator) -> None:
        self.members = [torch.nonzero(labels == label).flatten() for label in range(classes)]
        if empty := [label for label, members in enumerate(self.members) if len(members) == 0]:
            raise ValueError(f"no images of class {empty[0]} to train on")
        self.generator = generator
        self.decks = [torch.empty(0, dtype=torch.int64) for _ in self.members]
        self.turn = torch.empty(0, dtype=torch.int64)

    def next(self, batch: int) -> tuple[Tensor, Tensor]:
        """Indices of images and their labels, (batch,) int64 each, on the CPU."""
        while len(self.turn) < batch:
            order = torch.randperm(len(self.members), generator=self.generator)
            self.turn = torch.cat([self.turn, order.repeat_interleave(GROUP)])
        labels, self.turn = self.turn[:batch], self.turn[batch:]
        indices = torch.empty_like(labels)
        for label in labels.unique().tolist():
            here = labels == label
            indices[here] = self._deal(label, int(here.sum()))
        return indices, labels

    def _deal(self, label: int, count: int) -> Tensor:
        deck, members = self.decks[label], self.members[label]
        while len(deck) < count:
            shuffled = members[torch.randperm(len(members), generator=self.generator)]
            deck = torch.cat([deck, shuffled])
        self.decks[label] = deck[count:]
        return deck[:count]

    def state(self) -> dict[str, Tensor]:
        """What decides about the batches to come."""
        decks = {f"deck.{label}": deck for label, deck in enumerate(self.decks)}
        return {"turn": self.turn, "random": self.generator.get_state(), **decks}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.turn = state["turn"]
        self.generator.set_state(state["random"])
        self.decks = [state[f"deck.{label}"] for label in range(len(self.decks))]


def pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """(B, 1, R, R) -> the image at every scale by average pooling, smallest first."""
    scales = [images]
    for _ in range(levels - 1):
        scales.insert(0, F.avg_pool2d(scales[0], 2))
    return scales


class Trainer:
    """Everything that a training carries from step to step."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, network: NetworkConfig, config: TrainConfig) -> None:
        _check(images, labels, network)
        self.network, self.config = network, config
        self.device = torch.device(_device(config.device))
        self.bf16 = _bf16(config, self.device)
        self.images = torch.from_numpy(np.array(images)).to(self.device)  # a copy: memory maps are read-only
        seeds = torch.Generator().manual_seed(config.seed)
        init, order, noise = torch.randint(2**62, (3,), generator=seeds).tolist()
        self.sampler = BalancedSampler(
            torch.from_numpy(np.array(labels, np.int64)), network.classes, torch.Generator().manual_seed(order)
        )
        self.noise = torch.Generator(self.device).manual_seed(noise)  # latents and augmentation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init)
            self.generator = Generator(network).to(self.device)
            self.discriminator = Discriminator(network).to(self.device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizer_g, self.optimizer_d = (
            torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=config.betas, fused=True)
            for net in (self.generator, self.discriminator)
        )
        self.loss = LOSSES[config.loss]
        self.steps = 0
        self.last_penalty = torch.zeros((), device=self.device)
        self.pending: dict[str, list[Tensor]] = {name: [] for name in MEANS}  # scalars of the steps since the last tick
        self.history: list[Row] = []
        self.best: dict[str, Tensor] = {}  # weights of the EMA that the guard found best

    @property
    def kimg(self) -> float:
        return self.steps * self.config.batch / 1000

    def step(self) -> dict[str, Tensor]:
        """One update of both networks. Returns scalars that still live on the device, and keeps them for the tick."""
        real, y = self._real_batch()
        z = torch.randn(len(y), self.network.latent_dim, generator=self.noise, device=self.device)
        with self._autocast():
            fake = self.generator(z, y)
        real, fake = self._augment(real), self._augment(fake)
        seen = [image.detach() for image in fake]

        stats = self._update_discriminator(real, seen, y)
        stats["loss_generator"] = self._update_generator(fake, y, stats.pop("real_logits"))
        self.steps += 1
        self._update_ema()
        for name, values in self.pending.items():
            values.append(stats[name])
        return stats

    def means(self) -> tuple[dict[str, float], str | None]:
        """Mean of every scalar since the last call, the only place where a step's numbers leave the device; and
        a sentence if one of them, or a weight, is not finite."""
        means = {name: torch.stack(values).double().mean().item() for name, values in self.pending.items()}
        self.pending = {name: [] for name in MEANS}
        broken = [name for name in MEANS if not math.isfinite(means[name])]
        weights = torch.stack([p.sum() for net in (self.ema, self.discriminator) for p in net.parameters()])
        if not broken and torch.isfinite(weights).all():
            return means, None
        return means, (
            f"training diverged by {self.kimg:.2f} kimg: "
            f"{', '.join(broken) or 'a weight'} is not finite; lower learning_rate or raise gamma"
        )

    def state(self) -> State:
        """Everything that decides how the training goes on, and its history: all but the data and the settings."""
        groups: Groups = {
            **{name: getattr(self, name).state_dict() for name in ("generator", "discriminator", "ema")},
            "optimizer_g": optimizer_tensors(self.optimizer_g),
            "optimizer_d": optimizer_tensors(self.optimizer_d),
            "sampler": self.sampler.state(),
            "loop": {"noise": self.noise.get_state(), "last_penalty": self.last_penalty},
            "pending": {name: torch.stack(values) for name, values in self.pending.items() if values},
            "best": self.best,
        }
        return groups, {"steps": self.steps, "history": self.history}

    def load_state(self, groups: Groups, facts: dict[str, Any]) -> None:
        """Go on from `state`, of a trainer with the same data and settings."""
        for name in ("generator", "discriminator", "ema"):
            getattr(self, name).load_state_dict(groups[name])
        load_optimizer(self.optimizer_g, groups["optimizer_g"])
        load_optimizer(self.optimizer_d, groups["optimizer_d"])
        self.sampler.load_state(groups["sampler"])
        self.noise.set_state(groups["loop"]["noise"])
        self.last_penalty = groups["loop"]["last_penalty"].to(self.device)
        self.pending |= {name: list(values.to(self.device)) for name, values in groups["pending"].items()}
        self.best = groups["best"]
        self.steps, self.history = facts["steps"], facts["history"]

    def _real_batch(self) -> tuple[list[Tensor], Tensor]:
        indices, y = (t.to(self.device, non_blocking=True) for t in self.sampler.next(self.config.batch))
        images = self.images[indices][:, None].float() / 127.5 - 1
        return pyramid(images, len(self.network.scales)), y

    def _augment(self, images: list[Tensor]) -> list[Tensor]:
        probability = self.config.augment_probability
        if probability == 0:
            return images
        return augment.draw(len(images[0]), probability, self.network.resolution, self.noise)(images)

    def _update_discriminator(self, real: list[Tensor], fake: list[Tensor], y: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            real_logits, fake_logits = self._logits(real, fake, y)
        loss = self.loss.discriminator(real_logits, fake_logits)
        total = loss
        if self.steps % self.config.penalty_interval == 0:
            penalty = self._penalty(real, fake, y)
            total = loss + penalty * (self.config.gamma / 2 * self.config.penalty_interval)
            self.last_penalty = penalty.detach()
        self.optimizer_d.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer_d.step()
        return {
            "loss_discriminator": loss.detach(),
            "logit_real": real_logits.detach().mean(),
            "logit_fake": fake_logits.detach().mean(),
            "penalty": self.last_penalty,
            "real_logits": real_logits.detach(),
        }

    def _logits(self, real: list[Tensor], fake: list[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """One pass for both, unless a group of minibatch_stddev would then hold real and fake images."""
        if len(y) % GROUP:
            return self.discriminator(real, y), self.discriminator(fake, y)
        both = [torch.cat(pair) for pair in zip(real, fake, strict=True)]
        real_logits, fake_logits = self.discriminator(both, y.repeat(2)).chunk(2)
        return real_logits, fake_logits

    def _penalty(self, real: list[Tensor], fake: list[Tensor], y: Tensor) -> Tensor:
        """R1, or half of R1 + R2 at the price of R1: the first half of the batch real, the rest fake."""
        if self.config.penalty_on == "both":
            half = (len(y) + 1) // 2
            mixed = [torch.cat([r[:half], f[half:]]) for r, f in zip(real, fake, strict=True)]
            return gradient_penalty(self.discriminator, mixed, y).mean()
        return gradient_penalty(self.discriminator, real, y).mean()

    def _update_generator(self, fake: list[Tensor], y: Tensor, real_logits: Tensor) -> Tensor:
        """The same fakes, still attached to G. The logits of the real images are those of D's own pass: one
        update old, and free."""
        self.discriminator.requires_grad_(False)
        with self._autocast():
            fake_logits = self.discriminator(fake, y)
        loss = self.loss.generator(real_logits, fake_logits)
        self.optimizer_g.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer_g.step()
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _update_ema(self) -> None:
        half_life = min(self.config.ema_kimg, self.kimg * self.config.ema_rampup)
        keep = 0.5 ** (self.config.batch / 1000 / half_life) if half_life > 0 else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - keep)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def train(
    images: np.ndarray,
    labels: np.ndarray,
    network: NetworkConfig,
    config: TrainConfig,
    on_tick: Callable[[Tick], None] | None = None,
    *,
    guard: CollapseGuard | None = None,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_resume: Callable[[float, list[Row]], None] | None = None,
) -> Generator:
    """Train on images uint8 (N, H, W) with labels int (N,); return the EMA generator: eval, fp32, on the CPU.

    The same seed gives the same weights on a CPU with the same number of threads. Raises ValueError for data
    that do not fit the network, TrainingDiverged when losses or weights stop being finite.

    With a `guard`, a training that collapses or diverges ends with the best generator so far, if there is one;
    its last tick has the reason in `alarm`.

    With a folder `checkpoints` an interrupted training goes on by itself: the folder gets a checkpoint at ticks and
    every `checkpoint_seconds`, and the newest one with the same `fingerprint` is taken up; `on_resume` hears its kimg
    and the history up to there. However often it was killed, weights and history (but its times) are bit for bit
    those of an undisturbed training, on a CPU; a training that `max_seconds` ended cannot be that exact. SIGTERM and
    SIGINT write a checkpoint at the end of the step and raise Stopped. Checkpoints of a finished training are of no
    use, and the caller's to remove.
    """
    trainer = Trainer(images, labels, network, config)
    started = last = time.perf_counter()
    store = None
    if checkpoints is not None:
        store = Checkpoints(checkpoints, fingerprint(images, labels, network, config), checkpoint_seconds)
        if found := store.load():
            groups, facts = found
            trainer.load_state(groups, facts)
            started, last = started - facts["seconds"], last - facts["seconds_since_tick"]
            if guard is not None and facts["guard"] is not None:
                guard.load_state(facts["guard"])
            if on_resume is not None:
                on_resume(trainer.kimg, list(trainer.history))
    total_steps = math.ceil(config.kimg * 1000 / config.batch)
    tick_steps = max(round(config.tick_kimg * 1000 / config.batch), 1)
    with stop_requests(store is not None) as signals:
        while True:
            trainer.step()

            share = trainer.steps / total_steps
            if config.max_seconds is not None:
                share = max(share, (time.perf_counter() - started) / config.max_seconds)
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

            if store and (signals or store.due(ticking)):
                now = time.perf_counter()
                groups, facts = trainer.state()
                facts |= {"seconds": now - started, "seconds_since_tick": now - last}
                saved = store.save(trainer.steps, groups, facts | {"guard": guard.state() if guard else None})
                if signals:
                    raise Stopped(signals[0], trainer.kimg, saved)


def fingerprint(images: np.ndarray, labels: np.ndarray, network: NetworkConfig, config: TrainConfig) -> str:
    """16 hex digits that two trainings share if one can go on from a checkpoint of the other.

    Of the settings all count but `max_seconds`, which changes the length alone; the device counts as what it is here.
    """
    device = torch.device(_device(config.device))
    settings = {**asdict(config), "device": device.type, "bf16": _bf16(config, device), "max_seconds": None}
    del settings["precision"]
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(network), settings], sort_keys=True).encode())
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
        if reading.best:
            trainer.best = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    if alarm and not trainer.best:
        raise TrainingDiverged(alarm)
    tick = Tick(
        kimg=trainer.kimg,
        seconds=now - started,
        images_per_second=images / (now - last),
        eta_seconds=max((now - started) * (1 / share - 1), 0.0),
        gammas=attention_gammas(trainer.generator, trainer.discriminator),
        generator=trainer.ema,
        reading=reading,
        alarm=alarm,
        **means,
    )
    trainer.history.append(tick.row())
    return tick


def _bf16(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 instructions: a CPU without them emulates bf16, many times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check(images: np.ndarray, labels: np.ndarray, network: NetworkConfig) -> None:
    side = network.resolution
    if images.ndim != 3 or images.shape[1:] != (side, side) or images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 (N, {side}, {side}) for this network, not {images.dtype} {images.shape}"
        )
    if len(images) == 0:
        raise ValueError("no images to train on")
    if len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images")
    if labels.min() < 0 or labels.max() >= network.classes:
        raise ValueError(f"labels must be from 0 to {network.classes - 1}, not {labels.min()} to {labels.max()}")
