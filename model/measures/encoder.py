"""The encoder behind `frechet_xray`: features of radiographs, learnt offline from the real train split.

Self-supervised by auto-encoding transformations (Zhang et al. 2019, arXiv 1901.04596): the network sees a film
before and after a random change and estimates what was done to it. What it must notice for that, blur, noise,
contrast and position, is what a poor generator gets wrong. Trained on the labels instead, the same network hardly sees
noise (docs/benchmarks.md). Its distances are never to be called FID.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 64
CHANGES = ("blur", "noise", "contrast", "brightness", "shift_y", "shift_x")


@dataclass(frozen=True)
class EncoderConfig:
    steps: int = 300
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 0


class Encoder(nn.Module):
    """(B, 1, H, W) in [0, 1] -> (B, FEATURES); H and W at least 16."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, FEATURES, FEATURES)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, o), nn.SiLU())
                for i, o in pairwise(widths)
            )
        )
        # Reads the change off the two feature vectors; of no use afterwards.
        self.head = nn.Sequential(nn.Linear(2 * FEATURES, 64), nn.SiLU(), nn.Linear(64, len(CHANGES)))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images * 2 - 1).mean((2, 3))


def train_encoder(images: np.ndarray, config: EncoderConfig) -> tuple[Encoder, list[float]]:
    """Train on images (N, H, W) uint8; returns the encoder in eval mode and the loss of every step.

    The loss is the mean squared error of the estimated changes, each scaled to unit variance: 1.0 is knowing nothing.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = Encoder()
    optimiser = torch.optim.AdamW(encoder.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    pixels, losses = torch.from_numpy(np.array(images)), []
    for _ in range(config.steps):
        chosen = torch.randint(len(pixels), (config.batch,), generator=generator)
        before = pixels[chosen].float()[:, None] / 255
        after, amounts = random_change(before, generator)
        estimate = encoder.head(torch.cat([encoder(before), encoder(after)], dim=1))
        loss = F.mse_loss(estimate, amounts)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
    return encoder.eval(), [float(loss) for loss in losses]


def random_change(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change images (B, 1, H, W) in [0, 1] at random: the images, and by how much (B, len(CHANGES)), unit variance."""
    n, _, height, width = images.shape
    uniform = torch.rand(n, len(CHANGES), generator=generator)
    blur, noise, contrast, brightness, shift_y, shift_x = (  # in the order of CHANGES
        uniform[:, k].view(-1, 1, 1, 1) for k in range(len(CHANGES))
    )
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    changed = torch.lerp(images, smooth, blur)
    changed = (changed - 0.5) * (0.7 + 0.6 * contrast) + 0.5 + 0.3 * (brightness - 0.5)
    shift = torch.zeros(n, 2, 3)
    shift[:, 0, 0] = shift[:, 1, 1] = 1
    shift[:, 0, 2], shift[:, 1, 2] = 0.25 * (shift_x.flatten() - 0.5), 0.25 * (shift_y.flatten() - 0.5)
    grid = F.affine_grid(shift, [n, 1, height, width], align_corners=False)
    changed = F.grid_sample(changed, grid, padding_mode="border", align_corners=False)
    # After the shift, whose interpolation would smooth the noise away.
    changed = changed + 0.08 * noise * torch.randn(images.shape, generator=generator)
    return changed.clamp(0, 1), (uniform - 0.5) * 12**0.5


@torch.no_grad()
def encode(network: nn.Module, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """Features (N, D) float64 of images (N, H, W) uint8, by a network that takes (B, 1, H, W) in [0, 1]."""
    parts = [torch.from_numpy(images[k : k + batch]).float()[:, None] / 255 for k in range(0, len(images), batch)]
    return torch.cat([network(part) for part in parts]).double().numpy()
