"""Which synthetic images are copies of training films: four signals, calibrated on films that were held out.

Chest films are all alike at low frequencies, so brightness, contrast and slow gradients are taken away before anything
is compared. Images above 64 px are compared at 64 px: what is recognised there is a copy, and it bounds the cost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIGNALS = ("detail", "layout", "stands_out", "nearer_than_held_out")  # see `Memory.look`
FALSE_ALARMS = 0.01  # the share of held-out films that may be called copies
AIMED_AT = FALSE_ALARMS / 2  # as a threshold that is estimated may come out too low
MIN_HELD_OUT = 20  # films; below that no tail can be fitted
NEARLY_EQUAL = 0.95  # `detail` from here on is a copy without any calibration
TAIL = 1 / 3  # of the scores of held-out films, to which an exponential tail is fitted

LARGEST = 64  # side at which images are compared
NEAREST = 8  # training films that are looked at closely
CHUNK = 128  # images at a time
IDENTICAL = 1e-4  # 1 - correlation below this means nothing, and has no logarithm


class Looks(NamedTuple):
    """What is seen of M images."""

    scores: dict[str, np.ndarray]  # of every signal, (M,) float64, more is more of a copy
    nearest: dict[str, np.ndarray]  # of every signal, (M,) int64: the training film that it speaks of


class Space(NamedTuple):
    """Images in a form in which they are compared."""

    images: Tensor  # (N, S, S) float16: there may be many
    search: Tensor  # (N, C, C) float16: the same, small, for the first search
    middle: Tensor  # (N, (C - 2)²) float32: of `search` without its border, each of mean 0 and length 1
    shift: int  # by so many pixels of S an image may be moved


class Memory:
    """Training films and held-out films, uint8 (N, H, W) and (K, H, W), against which images are held.

    Raises ValueError for images of another form.
    """

    def __init__(self, train: np.ndarray, held_out: np.ndarray) -> None:
        for images in (train, held_out):
            if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1:] != train.shape[1:]:
                raise ValueError(f"uint8 images (N, H, W) of one size are needed, not {images.dtype} {images.shape}")
        if not len(train):
            raise ValueError("there are no training films")
        self.train, self.held_out = _spaces(train), _spaces(held_out)

    def look(self, images: np.ndarray, not_with: np.ndarray | None = None) -> Looks:
        """Scores of `images`, uint8 (M, H, W); `not_with` (M, K) bool: held-out films that are not to be compared.

        All correlations are the best over shifts of about 5 % of the side and over the mirror image.

        - `detail`: with the nearest training film, edges and texture at equal local contrast
        - `layout`: the same of the coarse structure at half the side
        - `stands_out`: how many times nearer, as 1 - correlation of details, the nearest training film is than the next
          ones on average (the relative distance of Carlini et al. 2023, arXiv 2301.13188)
        - `nearer_than_held_out`: how many times nearer, as 1 - correlation of layouts, the nearest training film is
          than the nearest held-out film. It is 1 where there are none.
        """
        parts: list[list[np.ndarray]] = [[np.empty(0)] * len(SIGNALS) + [np.empty(0, np.int64)] * len(SIGNALS)]
        for first in range(0, len(images), CHUNK):
            chosen = slice(first, first + CHUNK)
            barred = None if not_with is None else torch.from_numpy(not_with[chosen])
            parts.append(self._look(_spaces(images[chosen]), barred))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        scores, nearest = columns[: len(SIGNALS)], columns[len(SIGNALS) :]
        return Looks(dict(zip(SIGNALS, scores, strict=True)), dict(zip(SIGNALS, nearest, strict=True)))

    def _look(self, images: Mapping[str, Space], barred: Tensor | None) -> list[np.ndarray]:
        """The scores and then the films of `Looks`, in the order of SIGNALS."""
        detail, by_detail = _nearest(images["detail"], self.train["detail"])
        layout, by_layout = _nearest(images["layout"], self.train["layout"])
        far = _distance(detail)
        others = far[:, 1:].mean(1) if far.shape[1] > 1 else far[:, 0]
        ratio = torch.ones(len(layout))
        if len(self.held_out["layout"].images):
            held_out, _ = _nearest(images["layout"], self.held_out["layout"], barred)
            known = held_out[:, 0] > -1  # of some image all held-out films may be barred
            ratio = torch.where(known, _distance(held_out[:, 0]) / _distance(layout[:, 0]), ratio)
        values = (detail[:, 0], layout[:, 0], others / far[:, 0], ratio)
        films = (by_detail[:, 0], by_layout[:, 0]) * 2
        return [*(value.double().numpy() for value in values), *(film.numpy() for film in films)]


@dataclass(frozen=True)
class Screen:
    """Thresholds of the signals, and what they do to held-out films."""

    threshold: dict[str, float]  # a score above it is a copy's
    false_alarms: float | None  # share of held-out films, by cross-fitting; None where there are too few
    held_out: int  # films that it was calibrated on
    leaked: int  # held-out films that are nearly equal to a training film: left out of the calibration

    def reasons(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(M, signals) bool, in the order of `threshold`: which signals call which image a copy."""
        return np.stack([scores[name] > limit for name, limit in self.threshold.items()], axis=1)

    def excess(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """(M, signals): how far each score is above its threshold, as logarithms of distances; of a copy above 0."""
        limits = {name: _log(name, np.array(limit)) for name, limit in self.threshold.items()}
        return np.stack([_log(name, scores[name]) - limit for name, limit in limits.items()], axis=1)


def calibrate(memory: Memory, held_out: np.ndarray, groups: np.ndarray, folds: int = 5) -> Screen:
    """Thresholds so that at most FALSE_ALARMS of the films of unseen patients are called copies, all signals together.

    `held_out`: the films of `memory`, uint8 (K, H, W); `groups`: their patients (K,), of whom no film is compared with
    another. Each signal has its share of AIMED_AT; its threshold is the quantile of an exponential tail above the
    upper third (peaks over threshold: Pickands 1975), on a logarithmic scale. `false_alarms` is of films whose patients
    took no part in the thresholds that they were held against. With fewer than MIN_HELD_OUT films nothing can be
    calibrated: then only nearly equal images count as copies.
    """
    scores = memory.look(held_out, groups[:, None] == groups[None]).scores
    own = scores["detail"] < NEARLY_EQUAL
    scores, groups = {name: value[own] for name, value in scores.items()}, groups[own]
    leaked = int((~own).sum())
    if len(groups) < MIN_HELD_OUT:
        return Screen({"detail": NEARLY_EQUAL}, None, len(groups), leaked)
    fold = np.unique(groups, return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(fold.max() + 1)[fold] % folds
    alarms = 0
    for k in range(folds):
        apart = Screen(thresholds({n: v[fold != k] for n, v in scores.items()}), None, 0, 0)
        alarms += int(apart.reasons({n: v[fold == k] for n, v in scores.items()}).any(1).sum())
    return Screen(thresholds(scores), alarms / len(groups), len(groups), leaked)


def thresholds(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of the signals in `scores` of held-out films (K,), each with its share of AIMED_AT; see `calibrate`."""
    found = {}
    for name, values in scores.items():
        logs = _log(name, values)
        start = np.quantile(logs, 1 - TAIL)
        scale = (logs[logs > start] - start).mean() if (logs > start).any() else 0.0
        limit = start + scale * np.log(TAIL * len(scores) / AIMED_AT)
        found[name] = float(np.tanh(limit / 2) if name in ("detail", "layout") else np.exp(limit))
    return found


def _log(name: str, score: np.ndarray) -> np.ndarray:
    """A scale on which tails are exponential: the logarithm of a ratio, and twice Fisher's z of a correlation."""
    if name in ("detail", "layout"):
        return 2 * np.arctanh(np.clip(score, -1 + IDENTICAL, 1 - IDENTICAL))
    return np.log(score)


def _distance(correlation: Tensor) -> Tensor:
    return (1 - correlation).clamp_min(IDENTICAL)


def _spaces(images: np.ndarray) -> dict[str, Space]:
    """Both forms of uint8 (N, H, W), made in chunks."""
    parts = [_forms(torch.from_numpy(images[k : k + CHUNK].copy())) for k in range(0, max(len(images), 1), CHUNK)]
    detail, layout = (torch.cat(forms) for forms in zip(*parts, strict=True))
    small = torch.cat([_halved(part.float()).half() for part in detail.split(CHUNK)])
    return {
        "detail": Space(detail, small, _unit(small[:, 1:-1, 1:-1]), max(round(detail.shape[-1] * 3 / 64), 1)),
        "layout": Space(layout, layout, _unit(layout[:, 1:-1, 1:-1]), max(round(layout.shape[-1] * 2 / 32), 1)),
    }


def _forms(images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, H, W) uint8 -> edges and texture at equal local contrast (N, S, S), coarse structure (N, S/2, S/2)."""
    x = images.float()
    while x.shape[-1] > LARGEST:
        x = _halved(x)
    side = x.shape[-1]
    fine = x - _blurred(x, 3 * side / 64)
    power = fine.square()
    # Without the floor, of half the image's contrast and one grey level, the noise of empty corners would be texture.
    floor = 0.25 * power.mean((1, 2), keepdim=True) + 1
    small = _halved(x)
    return (fine / (_blurred(power, 3 * side / 64) + floor).sqrt()).half(), (small - _blurred(small, side / 8)).half()


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x[:, None], 2)[:, 0] if len(x) else x[:, ::2, ::2]


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian of (N, S, S), the border repeated."""
    radius = max(round(3 * sigma), 1)
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    padded = F.pad(x[:, None], (radius,) * 4, mode="replicate") if len(x) else x[:, None]
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))[:, 0] if len(x) else x


def _nearest(images: Space, films: Space, barred: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Correlations (M, k) with the nearest films, the nearest first, and their numbers; -1 with those `barred`."""
    found = _search(images.search, films.middle)
    if barred is not None:
        found[barred] = -1
    numbers = found.topk(min(NEAREST, found.shape[1]), dim=1).indices
    exact = _correlation(images, films, numbers)
    if barred is not None:
        exact[barred.gather(1, numbers)] = -1
    exact, order = exact.sort(1, descending=True)
    return exact, numbers.gather(1, order)


def _search(images: Tensor, middle: Tensor) -> Tensor:
    """(M, C, C), (N, (C - 2)²) -> (M, N): correlation with the films' middles, the image moved by up to a pixel."""
    best = torch.full((len(images), len(middle)), -1.0)
    for window in _windows(torch.stack([images, images.flip(2)]), 1):
        for side in window:
            torch.maximum(best, _unit(side) @ middle.T, out=best)
    return best


def _windows(images: Tensor, shift: int) -> Iterator[Tensor]:
    """All parts of (..., C, C) that are 2 * `shift` pixels smaller."""
    size = images.shape[-1] - 2 * shift
    for down in range(2 * shift + 1):
        for right in range(2 * shift + 1):
            yield images[..., down : down + size, right : right + size]


def _unit(images: Tensor) -> Tensor:
    """(N, h, w) -> (N, h * w) of mean 0 and length 1; of a flat image all zeros."""
    flat = images.flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-3)


def _correlation(images: Space, films: Space, numbers: Tensor) -> Tensor:
    """Normalised cross-correlation of each image's middle with the films `numbers` (M, k): the best place, (M, k).

    Over all shifts at once by the Fourier transform, normalised by the films' own windows (Lewis 1995).
    """
    side, shift, size = images.images.shape[-1], images.shift, images.images.shape[-1] - 2 * images.shift
    middle = images.images[:, shift:-shift, shift:-shift]
    both = _unit(torch.cat([middle, middle.flip(2)])).view(2, -1, 1, size, size)
    template = torch.fft.rfft2(both, s=(side, side)).conj()  # (2, M, 1, S, S/2 + 1), its corner at 0, 0

    film = films.images[numbers].float()  # (M, k, S, S)
    product = torch.fft.irfft2(template * torch.fft.rfft2(film), s=(side, side))
    product = product[..., : 2 * shift + 1, : 2 * shift + 1]
    sums, squares = (F.avg_pool2d(x.flatten(0, 1)[:, None], size, 1)[:, 0] for x in (film, film.square()))
    length = ((squares - sums.square()) * size**2).clamp_min(1e-6).sqrt().view(*numbers.shape, *product.shape[-2:])
    found: Tensor = (product / length).amax((0, 3, 4)).clamp(-1, 1)
    return found
