"""The downstream classifier: a small residual network, trained in cycles on given batches until validation says stop.

With validation images the best weights of all points that were looked at are kept, and the probabilities calibrated.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 64  # pixels: larger images are halved first
EVALUATIONS = 10  # points of a cycle at which validation is looked at, evenly spread, the last step among them
TEMPERATURES = np.geomspace(0.1, 20, 107)  # 5 % apart


@dataclass(frozen=True)
class ClassifierConfig:
    """A cycle is `steps` optimiser steps under a one-cycle schedule. There are `max_cycles` at most."""

    steps: int = 250
    patience: int = 1  # cycles without a lower validation loss, after which a training ends
    max_cycles: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one, halving the side: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(channels_in, channels_out, 1, stride=2, bias=False)
        self.norm_first, self.norm_second = nn.BatchNorm2d(channels_out), nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm_first(self.first(x)))
        return F.relu(self.norm_second(self.second(y)) + self.skip(x))


class Halving(nn.Module):
    """(B, C, H, W) -> (B, DETAILS + 1, H/2, W/2): the first channel averaged, beside it what a convolution finds."""

    DETAILS = 15

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, self.DETAILS, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(self.DETAILS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.avg_pool2d(x[:, :1], 2), F.relu(self.norm(self.convolution(x)))], dim=1)


class Classifier(nn.Module):
    """(B, 1, H, W) in [0, 1] -> logits (B, classes); H and W at least 16.

    `side`: of the images it is for. Each doubling above SIDE has a narrow layer that halves them again: the others see
    the image as it is at SIDE, with its finer details beside it, and an image costs little more than there.
    """

    def __init__(self, classes: int, side: int = SIDE) -> None:
        super().__init__()
        doublings = max(side // SIDE, 1).bit_length() - 1
        widths = [1, *[Halving.DETAILS + 1] * doublings]
        self.blocks = nn.Sequential(
            *(Halving(width) for width in widths[:-1]),
            nn.Conv2d(widths[-1], 16, 3, stride=2, padding=1),
            ResidualBlock(16, 32),
            ResidualBlock(32, 64),
            ResidualBlock(64, 128),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images * 2 - 1).mean((2, 3)))


@dataclass(frozen=True)
class Trained:
    """A network in eval mode that gives logits, and the temperature of its probabilities."""

    network: nn.Module
    temperature: float
    step: int  # that the weights are from
    curve: tuple[tuple[int, float], ...]  # the step and the validation loss of every point that was looked at
    gaining: bool  # it ended at `max_cycles` while validation did not yet say stop
    several: bool = False  # each logit is of a finding by itself, and not of one class of all


def train_classifier(
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    classes: int,
    config: ClassifierConfig,
    class_weights: np.ndarray | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    build: Callable[[int], nn.Module] = Classifier,
    first: Iterator[tuple[np.ndarray, np.ndarray]] | None = None,
) -> Trained:
    """Train on `batches` of images (B, H, W) uint8 and labels (B,) int64, on the GPU if there is one.

    Labels (B, classes) are of several findings, 1, 0 or -1 where it is not known: a sigmoid each (`of_findings`), and
    `class_weights` are of the films that have it.

    `class_weights` (classes,) weigh the cross-entropy. `build` makes the network for a number of classes. The start
    depends on the seed alone, so that arms of an experiment that share a seed start from the same weights.

    `validation` is images (V, H, W) uint8 and labels (V,): of EVALUATIONS points of each cycle the weights with the
    lowest `calibrated_loss` are kept, in which every class counts the same, and the temperature is fitted in which
    every image does. The next cycle starts from them with a fresh optimiser: a warm restart (arXiv 1608.03983). When
    `patience` cycles on end have brought no lower loss, the training ends.

    `first`: a first cycle on other batches, one of `max_cycles`. It hands on its best weights, which are never the
    result: those of at least one cycle on `batches` are. Without validation images there is one cycle on `batches`,
    whose last weights are kept, at temperature 1.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build(classes)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it
    weights = None if class_weights is None else torch.from_numpy(class_weights).float().to(device)
    best = _Best(validation, classes)
    cycles = waited = 0
    if first is not None:
        _cycle(network, first, config, weights, best)
        best.forget()
        cycles = 1
    going_on = True
    while going_on:
        before = best.loss
        _cycle(network, batches, config, weights, best)
        cycles += 1
        waited = 0 if best.loss < before else waited + 1
        going_on = validation is not None and waited < config.patience and cycles < config.max_cycles
    return best.trained(network.eval(), gaining=waited < config.patience)


def _cycle(
    network: nn.Module,
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    config: ClassifierConfig,
    weights: Tensor | None,
    best: "_Best",
) -> None:
    """One schedule from its warm-up to its end; the network is then the best so far."""
    device = next(network.parameters()).device
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    looks = {round(config.steps * k / EVALUATIONS) for k in range(1, EVALUATIONS + 1)}
    network.train()
    for step, (images, labels) in zip(range(1, config.steps + 1), batches, strict=False):
        pixels = torch.from_numpy(images).to(device).float()[:, None] / 255
        said, wanted = network(pixels), torch.from_numpy(labels).to(device)
        if wanted.dim() == 2:
            loss = of_findings(said, wanted, weights=weights).mean()
        else:
            loss = F.cross_entropy(said, wanted, weight=weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in looks:
            best.look(network, step)
            network.train()
    best.restore(network, config.steps)


def of_findings(said: Tensor, wanted: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of images, the mean over their known findings: logits (B, K), (B, K) of 1, 0, -1 -> (B,).

    `smoothing` draws the targets towards a half, as that of labels does; `weights` (K,) weigh what is there.
    """
    sure = (wanted >= 0).to(said.dtype)
    targets = (wanted == 1).to(said.dtype) * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(said, targets, reduction="none", pos_weight=weights)
    return (losses * sure).sum(1) / sure.sum(1).clamp_min(1)


class _Best:
    """The weights of a training that were best on validation, and all that was read there."""

    def __init__(self, validation: tuple[np.ndarray, np.ndarray] | None, classes: int) -> None:
        self.images, self.labels = validation or (np.empty(0, np.uint8), np.empty(0, np.int64))
        self.several = self.labels.ndim == 2
        self.every = np.ones(len(self.labels))
        if self.several:
            self.every = (self.labels >= 0).astype(float)
            counts = [np.maximum((self.labels == value).sum(0), 1) for value in (0, 1)]
            self.balance = self.every / np.where(self.labels == 1, counts[1], counts[0])
        else:
            self.balance = 1 / np.bincount(self.labels, minlength=classes)[self.labels]
        self.loss, self.step, self.logits = np.inf, 0, np.empty(0)
        self.state: dict[str, Tensor] = {}
        self.before = 0  # steps of the cycles that have ended
        self.curve: list[tuple[int, float]] = []

    def look(self, network: nn.Module, step: int) -> None:
        """Read validation at a step of the present cycle."""
        if not len(self.labels):
            return
        found = logits(network.eval(), self.images)
        loss, _ = calibrated_loss(found, self.labels, self.balance)
        self.curve.append((self.before + step, loss))
        if loss < self.loss:
            self.loss, self.step, self.logits = loss, self.before + step, found
            self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def restore(self, network: nn.Module, steps: int) -> None:
        """End a cycle of so many steps."""
        self.before += steps
        if self.state:
            network.load_state_dict(self.state)

    def forget(self) -> None:
        """Nothing that was read is to be the result."""
        self.loss, self.state = np.inf, {}

    def trained(self, network: nn.Module, gaining: bool) -> Trained:
        if not self.state:
            return Trained(network, 1.0, self.before, (), gaining=False, several=self.several)
        _, temperature = calibrated_loss(self.logits, self.labels, self.every)
        return Trained(network, temperature, self.step, tuple(self.curve), gaining, self.several)


def calibrated_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The lowest cross-entropy that a temperature can give to logits (N, K), and that temperature (Guo et al. 2017).

    `weights` (N,) of the images. The best temperature is taken out, so that the loss ranks what a network knows and
    not how sure it is. A target is short of certain, as in Platt's scaling (1999): (n + 1) / (n + K) for the n images
    of a class, or a network without an error would be calibrated to certainty. Of several findings, labels and
    `weights` (N, K), it is the binary one, and K is 2.
    """
    if labels.ndim == 2:
        return _of_sigmoids(logits, labels, weights)
    classes = logits.shape[1]
    counts = np.bincount(labels, minlength=classes)
    targets = np.repeat((1 / (counts[labels] + classes))[:, None], classes, axis=1)
    targets[np.arange(len(labels)), labels] *= counts[labels] + 1
    said, wanted = torch.from_numpy(logits).double(), torch.from_numpy(targets)
    by_image = (F.cross_entropy(said / temperature, wanted, reduction="none").numpy() for temperature in TEMPERATURES)
    losses = [np.average(losses, weights=weights) for losses in by_image]
    best = int(np.argmin(losses))
    return float(losses[best]), float(TEMPERATURES[best])


def _of_sigmoids(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """`calibrated_loss` of several findings; where nothing is known of any, 0 and a temperature of 1."""
    if not weights.any():
        return 0.0, 1.0
    there, absent = ((labels == value).sum(0) for value in (1, 0))
    targets = np.where(labels == 1, (there + 1) / (there + 2), 1 / (absent + 2))
    said, wanted = torch.from_numpy(logits).double(), torch.from_numpy(targets)
    by_image = (
        F.binary_cross_entropy_with_logits(said / temperature, wanted, reduction="none").numpy()
        for temperature in TEMPERATURES
    )
    losses = [np.average(losses, weights=weights) for losses in by_image]
    best = int(np.argmin(losses))
    return float(losses[best]), float(TEMPERATURES[best])


@torch.no_grad()
def logits(network: nn.Module, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Logits (N, classes) float64 of images (N, H, W) uint8; the network should be in eval mode."""
    device = next(network.parameters()).device
    starts = range(0, len(images), batch)
    parts = (torch.from_numpy(images[k : k + batch]).to(device).float()[:, None] / 255 for k in starts)
    return torch.cat([network(part) for part in parts]).double().cpu().numpy()


def predict(trained: Trained, images: np.ndarray) -> np.ndarray:
    """Calibrated class probabilities (N, classes) float64 of images (N, H, W) uint8, N at least 1.

    Those of several findings do not add up to 1.
    """
    said = torch.from_numpy(logits(trained.network, images) / trained.temperature)
    return (said.sigmoid() if trained.several else said.softmax(1)).numpy()
