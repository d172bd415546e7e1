"""Collapse guard: tells at each tick whether a generator has lost its variety, its likeness to films or its numbers.

The idea is that of arXiv 2308.02505 and 2405.20987: MS-SSIM of synthetic pairs is read against that of real pairs of
the same class, and beside it a Fréchet distance. A mean of MS-SSIM hides a generator of few modes, and in a short
healthy training it lies far above that of real pairs; so the alarm counts the pairs that are all but one image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from model.gan.networks import Generator
from model.gan.sampling import latents, render
from model.measures.similarity import WINDOW, frechet_distance, ms_ssim_pairs, near_duplicates_above
from model.training.batches import by_class
from model.training.judge import Judge

SIDE = 64  # larger images are averaged down to this first, so that a tick costs the same at any size
REAL, SYNTHETIC = 320, 64  # images looked at, of a class
ALL_SYNTHETIC, ALL_PAIRS = 192, 768  # of all classes together: with many classes less of each, which bounds the time
NEAR_DUPLICATES = 0.2  # share of near-duplicates that is still healthy: that of five modes of equal size
WARM_UP, SHORTEST = 20.0, 2.0  # kimg, in which a generator may still be all alike
NEAR, WORSE = 1.2, 4.0  # times the lowest Fréchet distance so far: still as good; much worse


@dataclass(frozen=True)
class Reading:
    """What one tick found; the figures of a generator whose weights are not finite are NaN."""

    kimg: float
    ms_ssim: dict[str, float]  # by class, the mean of synthetic pairs: 1 is one image only
    ms_ssim_real: dict[str, float]  # the same of real pairs
    near_duplicates: dict[str, float]  # by class, the share of synthetic pairs that are all but one image
    frechet: float  # mean of the classes, in `features` of unit variance: never to be called FID
    frechet_floor: float  # the same between halves of the real images, which are fewer where a class is small
    alarm: str | None  # a sentence: the training has failed
    best: bool  # nothing is amiss, it is varied, and `frechet` over the mean of `recognised` is the lowest so far
    recognised: dict[str, float] = field(
        default_factory=dict
    )  # by class, how many the judge takes for it, if there is one
    recognised_real: dict[str, float] = field(default_factory=dict)  # the same of the real images, which it has learnt


class CollapseGuard:
    """Compares a generator with the real images uint8 (N, H, W), labels int (N,), that it learns from.

    Of labels (N, K), several findings of 1, 0 or -1 where it is not known, the class of an image is each that it has,
    and images of a class are drawn with the findings of real ones that have it.

    `classes` names the labels. Two things can be amiss: pairs of a class that are all but one image, while the Fréchet
    distance is no longer near its lowest; or that distance alone, much above its lowest. Neither is looked for until
    the images were once nearer to films than one film repeated is, so that an untrained generator raises no alarm; but
    one that is all alike after `warmup_kimg` does. An alarm takes `patience` ticks on end, or at once a weight that is
    not finite. Raises ValueError for a class without images.

    With `judge_steps` a `Judge` learns the classes for so long, and says how many synthetic images show theirs. It
    decides with the distance which generator is the best, and raises no alarm: with few films it may be a poor judge.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        warmup_kimg: float = WARM_UP,
        patience: int = 2,
        judge_steps: int = 0,
    ) -> None:
        self.classes, self.warmup_kimg, self.patience = tuple(classes), warmup_kimg, patience
        self.count = min(SYNTHETIC, max(ALL_SYNTHETIC // len(self.classes), 16))
        every = torch.from_numpy(np.asarray(labels))
        members = [some.numpy() for some in by_class(every, len(self.classes))]
        sizes = [len(some) for some in members]
        if 0 in sizes:
            raise ValueError(f"no images of class {self.classes[sizes.index(0)]!r} to compare a generator with")
        films = [_some(images, some) for some in members]
        self.drawn = [_asked(every, label, some, self.count) for label, some in enumerate(members)]

        raw = [features(some) for some in films]
        pooled = np.concatenate(raw)
        self.centre, self.spread = pooled.mean(0), pooled.std(0).clip(0.05)
        self.real = [self._scaled(some) for some in raw]
        self.floor = float(np.mean([frechet_distance(some[::2], some[1::2]) for some in self.real]))
        # One film repeated has none of the variance, which is 1 a feature.
        self.one_film = max(float(pooled.shape[1]), self.floor)

        count = max(ALL_PAIRS // len(films), 64)
        pairs = [ms_ssim_pairs(some[: max(size, 2)], count) for some, size in zip(films, sizes, strict=True)]
        self.ms_ssim_real = self._named([float(values.mean()) for values in pairs])
        self.alike = [near_duplicates_above(values) for values in pairs]
        # A generator that knows n images by heart repeats itself in 1 / n of the pairs; more, if some come more often.
        self.allowed = [min(NEAR_DUPLICATES + 2 / size, 1.0) for size in sizes]

        self.judge: Judge | None = None
        self.recognised_real: dict[str, float] = {}
        if judge_steps:
            parts = np.array_split(images, -(-len(images) // REAL))
            self.judge = Judge(np.concatenate([small(part) for part in parts]), labels, len(classes), judge_steps)
            self.recognised_real = self._named([self.judge.share(small(some), k) for k, some in enumerate(films)])

        self.lowest = math.inf  # distance of a varied generator
        self.lowest_score = math.inf  # the same over the part of images whose class is recognised
        self.streaks: dict[str, int] = {}  # what is amiss, and for how many ticks

    def check(self, generator: Generator, kimg: float) -> Reading:
        """Look at the averaged generator in eval mode, on any device, after `kimg`; always at the same latents."""
        if not all(torch.isfinite(weight).all() for weight in generator.parameters()):
            nothing = self._named([math.nan] * len(self.classes))
            broken = "a weight of the generator is not a finite number"
            return Reading(kimg, nothing, self.ms_ssim_real, nothing, math.nan, self.floor, broken, best=False)
        images = [small(_drawn(generator, label, y)) for label, y in enumerate(self.drawn)]
        pairs = [ms_ssim_pairs(some, 4 * self.count) for some in images]
        near_duplicates = [float((values > alike).mean()) for values, alike in zip(pairs, self.alike, strict=True)]
        fakes = [self._scaled(features(some)) for some in images]
        frechet = float(np.mean([frechet_distance(*both) for both in zip(self.real, fakes, strict=True)]))

        amiss = self._amiss(near_duplicates, frechet, kimg)
        self.streaks = {what: self.streaks.get(what, 0) + 1 for what in amiss}
        alarm = next((amiss[what] for what, ticks in self.streaks.items() if ticks >= self.patience), None)
        varied = all(share <= allowed for share, allowed in zip(near_duplicates, self.allowed, strict=True))
        recognised: dict[str, float] = {}
        score = frechet
        if self.judge is not None:
            recognised = self._named([self.judge.share(some, label) for label, some in enumerate(images)])
            score /= max(float(np.mean(list(recognised.values()))), 0.01)
        healthy = varied and not amiss
        best = healthy and score < self.lowest_score
        self.lowest = min(self.lowest, frechet) if healthy else self.lowest
        self.lowest_score = score if best else self.lowest_score
        return Reading(
            kimg,
            self._named([float(values.mean()) for values in pairs]),
            self.ms_ssim_real,
            self._named(near_duplicates),
            frechet,
            self.floor,
            alarm,
            best,
            recognised,
            self.recognised_real,
        )

    def state(self) -> dict[str, Any]:
        """What the ticks have left behind, as JSON knows it (where there is no lowest yet, it is None)."""
        lowest, score = (value if math.isfinite(value) else None for value in (self.lowest, self.lowest_score))
        return {"lowest": lowest, "lowest_score": score, "streaks": dict(self.streaks)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of a guard of the same images."""
        lowest, score = state["lowest"], state["lowest_score"]
        self.lowest, self.lowest_score = (math.inf if value is None else value for value in (lowest, score))
        self.streaks = dict(state["streaks"])

    def _amiss(self, near_duplicates: list[float], frechet: float, kimg: float) -> dict[str, str]:
        """All that is amiss, a sentence each."""
        amiss = {}
        learnt = self.lowest < self.one_film
        if kimg >= self.warmup_kimg or (learnt and frechet > NEAR * self.lowest):
            for name, share, allowed in zip(self.classes, near_duplicates, self.allowed, strict=True):
                if share > allowed:
                    amiss[f"variety of {name}"] = (
                        f"the generator repeats itself: {100 * share:.0f} % of pairs of class {name!r} are all but one "
                        f"image, and {100 * allowed:.0f} % would still be healthy"
                    )
        if learnt and frechet > max(WORSE * self.lowest, 2 * self.one_film):
            amiss["likeness"] = (
                f"the generator has got worse: its Fréchet distance from the real images is {frechet:.3g}, "
                f"after {self.lowest:.3g} at its best"
            )
        return amiss

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        return (values - self.centre) / self.spread

    def _named(self, values: list[float]) -> dict[str, float]:
        return dict(zip(self.classes, values, strict=True))


def warm_up(kimg: float) -> float:
    """The `warmup_kimg` of a training of `kimg`: half of it if that is less than WARM_UP, but at least SHORTEST.

    A generator that is all alike from the first tick is found in the second half. So early as SHORTEST a healthy one
    may not have parted from its mean image yet.
    """
    return max(min(WARM_UP, kimg / 2), SHORTEST)


def features(images: np.ndarray) -> np.ndarray:
    """(N, D) float64 of images (N, H, H) uint8, H a power of two; 32 numbers an image of 64 px.

    In each octave of a Laplacian pyramid (Burt and Adelson 1983) the mean log contrast of the four quarters, which
    blur lowers and noise raises, and at last the brightness in 4 x 4 places. Fixed: nothing is learnt or drawn.
    """
    x = torch.from_numpy(images).float()[:, None] / 255
    parts = []
    while x.shape[-1] > 4:
        smaller = F.avg_pool2d(x, 2)
        detail = x - F.interpolate(smaller, scale_factor=2.0)
        parts.append(F.adaptive_avg_pool2d((detail.abs() + 0.01).log(), 2).flatten(1))
        x = smaller
    return torch.cat([*parts, x.flatten(1)], dim=1).double().numpy()


def small(images: np.ndarray) -> np.ndarray:
    """(N, H, H) uint8 averaged to SIDE px if larger; enlarged if the window of MS-SSIM would not fit in."""
    x = torch.from_numpy(images)[:, None].float()
    if x.shape[-1] > SIDE:
        x = F.adaptive_avg_pool2d(x, SIDE)
    elif x.shape[-1] < WINDOW:
        x = F.interpolate(x, scale_factor=2.0)
    return x[:, 0].round().to(torch.uint8).numpy()


def _asked(labels: torch.Tensor, label: int, members: np.ndarray, count: int) -> torch.Tensor:
    """What the generator is asked for: a class (count,), or findings (count, K) of some of its images in turn."""
    if labels.dim() == 1:
        return torch.full((count,), label)
    return labels[np.resize(np.random.default_rng(0).permutation(members), count)]


def _drawn(generator: Generator, label: int, y: torch.Tensor) -> np.ndarray:
    """(N, H, H) uint8 for y (N,) or (N, K), a few at a time: what has memory for a training has it for this."""
    z = latents(label, 0, len(y), seed=0, dim=generator.config.inputs)
    return np.concatenate([render(generator, *parts) for parts in zip(z.split(8), y.split(8), strict=True)])


def _some(images: np.ndarray, members: np.ndarray) -> np.ndarray:
    """At most REAL of the images, made `small`; at least four, which is two for each half, by repetition."""
    shuffled = np.random.default_rng(0).permutation(members)[:REAL]
    return small(images[np.resize(shuffled, max(len(shuffled), 4))])
