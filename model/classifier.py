"""The downstream classifier: a small residual network, trained for a given number of steps on given batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ClassifierConfig:
    steps: int = 250
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


class Classifier(nn.Module):
    """(B, 1, H, W) in [0, 1] -> logits (B, classes); H and W at least 16."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            ResidualBlock(16, 32),
            ResidualBlock(32, 64),
            ResidualBlock(64, 128),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images * 2 - 1).mean((2, 3)))


def train_classifier(
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    classes: int,
    config: ClassifierConfig,
    class_weights: np.ndarray | None = None,
) -> Classifier:
    """Train on `batches` of images (B, H, W) uint8 and labels (B,) int64; returns the network in eval mode.

    `class_weights` (classes,) weigh the cross-entropy. The start depends on the seed alone, so that arms of an
    experiment that share a seed start from the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Classifier(classes)
    network.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs lack it
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    weights = None if class_weights is None else torch.from_numpy(class_weights).float()
    network.train()
    for _, (images, labels) in zip(range(config.steps), batches, strict=False):
        pixels = torch.from_numpy(images).float()[:, None] / 255
        loss = F.cross_entropy(network(pixels), torch.from_numpy(labels), weight=weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def predict(network: Classifier, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Class probabilities (N, classes) float64 of images (N, H, W) uint8."""
    parts = [torch.from_numpy(images[k : k + batch]).float()[:, None] / 255 for k in range(0, len(images), batch)]
    return torch.cat([network(part).softmax(1) for part in parts]).double().numpy()
