"""One step: one generator pass feeds the updates of both networks."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.gan.layers import GROUP
from model.gan.networks import Discriminator, Generator, NetworkConfig
from model.head_start.transfer import HeadStart
from model.training import augment
from model.training.auxiliary import AuxiliaryClassifier
from model.training.batches import BalancedSampler, pyramid
from model.training.checkpoint import Groups, State, load_optimizer, optimizer_tensors
from model.training.config import TrainConfig
from model.training.device import keep_freed_memory
from model.training.distributed import Ranks
from model.training.losses import LOSSES, gradient_penalty

MEANS = ("loss_generator", "loss_discriminator", "penalty", "logit_real", "logit_fake", "augment_probability")
Row = dict[str, Any]  # of a history: numbers, and "alarm", a sentence, in the last row of a training that failed


class Trainer:
    """Everything that a training carries from step to step, the same in each of the `ranks`."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        network: NetworkConfig,
        config: TrainConfig,
        ranks: Ranks = Ranks(),
        head_start: HeadStart | None = None,
    ) -> None:
        _check(images, labels, network)
        ranks.check(config.batch)
        self.network, self.config, self.ranks = network, config, ranks
        self.device = config.torch_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.bf16 = config.bf16()
        self.images = torch.from_numpy(np.array(images)).to(self.device)  # a copy: memory maps are read-only
        seeds = torch.Generator().manual_seed(config.seed)
        init, order, noise, auxiliary = torch.randint(2**62, (4,), generator=seeds).tolist()
        self.sampler = BalancedSampler(
            torch.from_numpy(np.array(labels, np.int64)), network.classes, torch.Generator().manual_seed(order)
        )
        self.noise = torch.Generator(self.device).manual_seed(noise)  # latents, augmentation, places of the penalty
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init)
            self.generator = Generator(network).to(self.device)
            self.discriminator = Discriminator(network).to(self.device)
            if head_start is not None:
                head_start.give(self.generator, self.discriminator)
        self.auxiliary = None
        if config.auxiliary and network.classes > 1:
            of_films = self.sampler.labels
            self.auxiliary = AuxiliaryClassifier(self.images, of_films, network.classes, auxiliary, ranks)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizer_g, self.optimizer_d = (
            torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=config.betas, fused=True)
            for net in (self.generator, self.discriminator)
        )
        self.loss = LOSSES[config.loss]
        self.probability = augment.AdaptiveProbability(
            config.augment_probability,
            config.augment_target,
            (config.augment_kimg or config.kimg / 10) * 1000,
            self.device,
        )
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
        z = torch.randn(self.config.batch, self.network.inputs, generator=self.noise, device=self.device)
        with self._autocast():
            fake = self.generator(self.ranks.part(z), y)
        real, fake = self._augment(real), self._augment(fake)
        seen = [image.detach() for image in fake]

        stats = self._update_discriminator(real, seen, y)
        if self.auxiliary is not None:
            self.auxiliary.step()
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
            "augment": self.probability.state(),
            "loop": {"noise": self.noise.get_state(), "last_penalty": self.last_penalty},
            **(self.auxiliary.state() if self.auxiliary else {}),
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
        if self.auxiliary is not None:
            self.auxiliary.load_state(groups)
        self.sampler.load_state(groups["sampler"])
        self.probability.load_state(groups["augment"])
        self.noise.set_state(groups["loop"]["noise"])
        self.last_penalty = groups["loop"]["last_penalty"].to(self.device)
        self.pending |= {name: list(values.to(self.device)) for name, values in groups["pending"].items()}
        self.best = groups["best"]
        self.steps, self.history = facts["steps"], facts["history"]

    def _real_batch(self) -> tuple[list[Tensor], Tensor]:
        indices, y = (
            self.ranks.part(t).to(self.device, non_blocking=True) for t in self.sampler.next(self.config.batch)
        )
        images = self.images[indices][:, None].float() / 127.5 - 1
        return pyramid(images, len(self.network.scales)), y

    def _augment(self, images: list[Tensor]) -> list[Tensor]:
        if self.config.augment_probability == self.config.augment_target == 0:
            return images
        config, side = self.config, self.network.resolution
        drawn = augment.draw(config.batch, self.probability.value, side, self.noise, config.augment_mirror)
        return augment.Augmentation(*(self.ranks.part(t) for t in vars(drawn).values()))(images)

    def _update_discriminator(self, real: list[Tensor], fake: list[Tensor], y: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            of_real, of_fake = self._features(real, fake)
            logits = self.discriminator.logits
            real_logits, fake_logits = (self.ranks.whole(logits(of, y)) for of in (of_real, of_fake))
            loss = total = self.loss.discriminator(real_logits, fake_logits)
            if self.config.mismatch and self._told_the_class:
                others = self._other_classes(y) if y.dim() == 1 else self._one_flipped(y)
                wrong = self.ranks.whole(logits(of_real, others))
                total = total + self.config.mismatch * self.loss.discriminator(real_logits, wrong)
        if self.steps % self.config.penalty_interval == 0:
            penalty = self._penalty(real, fake, y)
            total = total + penalty * (self.loss.penalty.weight * self.config.gamma * self.config.penalty_interval)
            self.last_penalty = penalty.detach()
        self._descend(total, self.optimizer_d, self.discriminator)
        used = self.probability.value.clone()
        if self.config.augment_target > 0:
            self.probability.update(real_logits.detach(), fake_logits.detach())
        return {
            "loss_discriminator": loss.detach(),
            "logit_real": real_logits.detach().mean(),
            "logit_fake": fake_logits.detach().mean(),
            "penalty": self.last_penalty,
            "augment_probability": used,
            "real_logits": real_logits.detach(),
        }

    def _features(self, real: list[Tensor], fake: list[Tensor]) -> tuple[Tensor, Tensor]:
        """One pass for both, unless a group of minibatch_stddev would then hold real and fake images."""
        if len(real[0]) % GROUP:
            return self.discriminator.features(real), self.discriminator.features(fake)
        both = self.discriminator.features([torch.cat(pair) for pair in zip(real, fake, strict=True)])
        of_real, of_fake = both.chunk(2)
        return of_real, of_fake

    @property
    def _told_the_class(self) -> bool:
        """Whether there are several classes and the warm-up is over."""
        return self.network.classes > 1 and self.kimg >= self.config.warmup_kimg

    def _other_classes(self, y: Tensor) -> Tensor:
        """(B,) int64: of each image a class that it is not, all with the same probability."""
        step = torch.randint(1, self.network.classes, (self.config.batch,), generator=self.noise, device=self.device)
        return (y + self.ranks.part(step)) % self.network.classes

    def _one_flipped(self, y: Tensor) -> Tensor:
        """(B, K): of each image its findings, but for one of those that are known, drawn evenly, which is wrong."""
        drawn = torch.rand(self.config.batch, self.network.classes, generator=self.noise, device=self.device)
        place = (self.ranks.part(drawn) * (y >= 0)).argmax(1, keepdim=True)
        return y.scatter(1, place, 1 - y.gather(1, place).clamp_min(0))

    def _penalty(self, real: list[Tensor], fake: list[Tensor], y: Tensor) -> Tensor:
        penalty = self.loss.penalty
        if self.config.penalty_on == "real":
            fake = real
        zero = torch.zeros(self.config.batch, 1, 1, 1, device=self.device)
        (between,) = penalty.points([zero], [zero + 1], self.noise)  # where from real, 0, to fake, 1; of all ranks
        points = [torch.lerp(r, f, self.ranks.part(between)) for r, f in zip(real, fake, strict=True)]
        return self.ranks.whole(gradient_penalty(self.discriminator, points, y, penalty.excess)).mean()

    def _update_generator(self, fake: list[Tensor], y: Tensor, real_logits: Tensor) -> Tensor:
        """The same fakes, still attached to G. The logits of the real images are those of D's own pass: one
        update old, and free."""
        self.discriminator.requires_grad_(False)
        with self._autocast():
            fake_logits = self.ranks.whole(self.discriminator(fake, y))
        loss = total = self.loss.generator(real_logits, fake_logits)
        if self.auxiliary is not None and self._told_the_class:
            of_class = self.ranks.whole(self.auxiliary.losses(fake[-1], y))
            total = loss + self.config.auxiliary * of_class.mean()
        self._descend(total, self.optimizer_g, self.generator)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _descend(self, loss: Tensor, optimizer: Optimizer, network: nn.Module) -> None:
        """One step of a network's optimiser; its class embeddings stay at zero during the warm-up."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not self._told_the_class:
            for classes in (module for module in network.modules() if isinstance(module, nn.Embedding)):
                classes.weight.grad = None  # Adam passes it over, and has no state of it before the warm-up is over
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        self.ranks.add_up([p.grad for p in parameters if p.grad is not None])
        optimizer.step()

    def _update_ema(self) -> None:
        half_life = min(self.config.ema_kimg, self.kimg * self.config.ema_rampup)
        keep = 0.5 ** (self.config.batch / 1000 / half_life) if half_life > 0 else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.generator.parameters()), 1 - keep)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


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
    if labels.ndim == 2:
        if labels.shape[1] != network.classes or labels.min() < -1 or labels.max() > 1:
            raise ValueError(f"findings must be 1, 0 or -1 (N, {network.classes}), not {labels.shape} of other values")
    elif labels.min() < 0 or labels.max() >= network.classes:
        raise ValueError(f"labels must be from 0 to {network.classes - 1}, not {labels.min()} to {labels.max()}")
