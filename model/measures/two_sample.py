"""The classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv 1610.06545): can a network tell two sets of films?

A small network learns to tell real images from others and is judged on held-out ones of both, by its AUROC: 0.5 cannot
tell, 1 tells surely. Cross-validation over patients lets all images serve. It sees what the features of an encoder do
not, which was trained for something else: the texture that a generator leaves behind, a faint grid.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FOLDS = 4
CROP = 32  # side of what a network learns from: what gives an image away is mostly texture, and that is everywhere
ALIGN = 4  # crops begin at multiples of it, so that a grid of two or four pixels lies the same way in all of them
CHUNK_PIXELS = 1 << 19  # of each fold, scored at once: about 100 MB of features
WIDTHS = (2, 16, 32, 32)


@dataclass(frozen=True)
class TwoSampleConfig:
    """`batch` is of each fold, half of it from each side."""

    steps: int = 100
    batch: int = 16
    learning_rate: float = 5e-3
    seed: int = 0


class Networks(nn.Module):
    """A network a fold, side by side as groups of the same convolutions: (B, FOLDS, H, W) in [0, 1] -> (B, FOLDS).

    They share no weights, and each sees its own channel alone; together they take half the time. What a network sees
    is the image and its difference from the mean of 3x3 pixels, as the logarithm of grey levels: a grid of two levels
    would be lost beside the edges of bones, which are some sixty levels high.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in pairwise(FOLDS * width for width in WIDTHS):
            layers += [nn.Conv2d(i, o, 3, stride=2, padding=1, groups=FOLDS, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Conv2d(FOLDS * WIDTHS[-1], FOLDS, 1, groups=FOLDS)

    def forward(self, images: Tensor) -> Tensor:
        smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        detail = 255 * (images - smooth)
        seen = torch.stack([4 * images - 2, detail.sign() * detail.abs().log1p()], dim=2).flatten(1, 2)
        return self.head(self.layers(seen.contiguous(memory_format=torch.channels_last))).flatten(1)


def deal(patients: np.ndarray, strata: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """In which of `parts` each image is, (N,), at random: no patient of `patients` (N,) is in two of them.

    The patients of each of `strata` (N,) are dealt evenly; a patient belongs to that of the first image.
    """
    _, first, patient_of = np.unique(patients, return_index=True, return_inverse=True)
    part = np.empty(len(first), dtype=int)
    for stratum in np.unique(strata[first]):
        members = rng.permutation(np.flatnonzero(strata[first] == stratum))
        part[members] = np.arange(len(members)) % parts
    return part[patient_of]


def held_out_scores(
    images: np.ndarray, others: np.ndarray, patients: np.ndarray, labels: np.ndarray, config: TwoSampleConfig
) -> tuple[np.ndarray, np.ndarray]:
    """How surely each image is called one of the others by a network that has learnt from no image of its patient.

    `images` (N, H, W) uint8, H and W at least 8, of which bool `others` (N,) are the others; `patients` (N,), and
    `labels` (N,) int from 0. The networks learn from as many images of a class on one side as on the other, so that
    the class says nothing. Returns logits (N,) and the fold of each image (N,): every fold has a scale of its own. The
    same seed gives the same. Raises ValueError when a fold leaves no class with images of both sides.
    """
    rng = np.random.default_rng(config.seed)
    folds = deal(patients, 2 * labels + others, FOLDS, rng)
    chosen = np.stack([_batches(np.flatnonzero(folds != k), others, labels, config, rng) for k in range(FOLDS)], axis=2)
    # A place of its own for every crop; an image that is smaller than a crop is taken whole.
    top, left = (
        ALIGN * rng.integers(max(side - CROP, 0) // ALIGN + 1, size=(*chosen.shape, 1, 1)) for side in images.shape[1:]
    )
    rows, columns = (np.arange(min(CROP, side)) for side in images.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        networks = Networks()
    networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it
    optimiser = torch.optim.AdamW(networks.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    for some, y, x in zip(chosen, top, left, strict=True):
        crops = images[some[..., None, None], y + rows[:, None], x + columns]
        logits = networks(torch.from_numpy(crops).float() / 255)
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(others[some]).float())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return _scores(networks.eval(), images, folds), folds


def _batches(
    train: np.ndarray, others: np.ndarray, labels: np.ndarray, config: TwoSampleConfig, rng: np.random.Generator
) -> np.ndarray:
    """Of the images `train`, (steps, batch): real ones in the first half of a batch, others in the second."""
    of_side = [train[others[train] == side] for side in (False, True)]
    counts = [np.bincount(labels[some], minlength=labels.max() + 1) for some in of_side]
    learnt = np.minimum(*counts) > 0
    if not learnt.any():
        raise ValueError("no class has images of both sides to learn from")
    halves = []
    for some, count in zip(of_side, counts, strict=True):
        members = some[learnt[labels[some]]]
        weights = (sum(counts) / np.maximum(count, 1))[labels[members]]
        halves.append(rng.choice(members, (config.steps, config.batch // 2), p=weights / weights.sum()))
    return np.concatenate(halves, axis=1)


@torch.no_grad()
def _scores(networks: Networks, images: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Logits (N,) of whole images (N, H, W), each by the network of its fold."""
    scores = np.empty(len(images))
    members = [np.flatnonzero(folds == k) for k in range(FOLDS)]
    rows = max(1, CHUNK_PIXELS // images[0].size)
    for start in range(0, max(map(len, members)), rows):
        some = [of_fold[start : start + rows] for of_fold in members]
        batch = np.zeros((max(map(len, some)), FOLDS, *images.shape[1:]), dtype=np.uint8)
        for k, of_fold in enumerate(some):
            batch[: len(of_fold), k] = images[of_fold]
        logits = networks(torch.from_numpy(batch).float() / 255).double().numpy()
        for k, of_fold in enumerate(some):
            scores[of_fold] = logits[: len(of_fold), k]
    return scores


def auroc(
    scores: np.ndarray,
    others: np.ndarray,
    folds: np.ndarray,
    patients: np.ndarray,
    seed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """Of pairs of a real image and another, the share whose other has the higher of `scores` (N,); ties count half.

    Only pairs of one of `folds` (N,) and of two of `patients` (N,). The interval is a bootstrap of patients, for the
    networks as they are: (value, low, high). Raises ValueError when there is no pair.
    """
    real, other = np.flatnonzero(~others), np.flatnonzero(others)
    paired = (folds[real][:, None] == folds[other]) & (patients[real][:, None] != patients[other])
    if not paired.any():
        raise ValueError("no real image and no other one are of the same fold and of two patients")
    won = paired * (1 + np.sign(scores[other] - scores[real][:, None])) / 2
    _, patient_of = np.unique(patients, return_inverse=True)
    n = int(patient_of.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)[:, patient_of]
    weights = np.concatenate([np.ones((1, len(patients))), drawn])
    wins, pairs = (((weights[:, real] @ matrix) * weights[:, other]).sum(1) for matrix in (won, paired))
    values = wins[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(values, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(values[0]), float(low), float(high)
