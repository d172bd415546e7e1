"""Differentiable augmentation (arXiv 2006.10738), the same at every scale, for real and fake alike.

Of its operations those that mean something in one channel: translation, cutout, brightness, contrast; and mirror
images if asked for, as a chest has a left and a right. Every operation is applied to each image with one probability,
fixed or adaptive; below about 0.8 the generator still learns the distribution without augmentation (arXiv 2006.06676).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SHIFT = 1 / 8  # translation: at most this part of the side, both ways
CUTOUT = 0.4  # side of the square that is blanked, as a part of the image's side
BRIGHTNESS = 0.25  # added, at most, both ways; images span [-1, 1]
CONTRAST = 0.3  # contrast between 1 - CONTRAST and 1 + CONTRAST
MOST = 0.8  # highest probability that adaptation reaches
SMOOTHING = 128  # images over which it averages, exponentially


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a batch, in units that hold at every scale."""

    shift: Tensor  # (B, 2) down and right, parts of the side
    hole: Tensor  # (B, 2) top left corner of the hole, parts of the side; 2 or more: outside, no hole
    brightness: Tensor  # (B,)
    contrast: Tensor  # (B,)
    mirrored: Tensor  # (B,) bool: left and right change places

    def __call__(self, images: list[Tensor]) -> list[Tensor]:
        """[(B, 1, r, r)] -> the same shapes. Differentiable; in fp32 whatever autocast says."""
        with torch.autocast(images[0].device.type, enabled=False):
            return [self._one_scale(image.float()) for image in images]

    def _one_scale(self, x: Tensor) -> Tensor:
        x = torch.where(self.mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * self.contrast.view(-1, 1, 1, 1) + mean + self.brightness.view(-1, 1, 1, 1)
        side = x.shape[-1]
        down, right = (_shift_matrix(self.shift[:, axis], side) for axis in (0, 1))  # (B, r, r) each
        x = (down @ x[:, 0] @ right.transpose(1, 2))[:, None]  # what comes in from outside is mid-grey, 0
        rows, columns = (_covered(self.hole[:, axis], side) for axis in (0, 1))  # (B, r) each
        return x * (1 - rows[:, None, :, None] * columns[:, None, None, :])


class AdaptiveProbability:
    """ADA's rule (arXiv 2006.06676): the more surely D tells real from fake, the more is augmented.

    r = E[sign(D(real) - D(fake))], 0 when D tells nothing, 1 when it is always right. It is taken of pairs, unlike
    ADA's E[sign(D(real))], since relativistic losses leave the logits no absolute zero; for the same D it is then
    higher: where ADA reads 0.6, pairs of normally distributed logits read 0.77. `value` rises while r is above
    `target` and falls below it, from 0 to 1 in `images`; it stays within [0, MOST].

    All tensors are on the device and change in place, so that no step waits for their values.
    """

    def __init__(self, start: float, target: float, images: float, device: torch.device) -> None:
        self.target, self.images = target, images
        self.value = torch.tensor(start, device=device)
        self.r = torch.zeros((), device=device)

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Take up the logits (B,) and (B,) of one step."""
        batch = len(real)
        self.r.lerp_(torch.sign(real - fake).mean(), min(batch / SMOOTHING, 1.0))
        self.value.add_(torch.sign(self.r - self.target), alpha=batch / self.images).clamp_(0, MOST)

    def state(self) -> dict[str, Tensor]:
        """What decides about the steps to come."""
        return {"value": self.value, "r": self.r}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.value.copy_(state["value"])
        self.r.copy_(state["r"])


def draw(
    batch: int,
    probability: float | Tensor,
    side: int,
    generator: torch.Generator,
    mirror: bool = False,
    holes: bool = True,
) -> Augmentation:
    """Random augmentation of `batch` images whose largest scale has `side` pixels.

    The probability, a number or a tensor () on the generator's device, is that of each operation; of the mirror, where
    it is asked for, half of it. Shifts are whole pixels at the largest scale, so that it is not blurred.
    """
    device = generator.device
    u = torch.rand(batch, 6, generator=generator, device=device) * 2 - 1  # [-1, 1)
    on = torch.rand(batch, 4, generator=generator, device=device) < probability
    shift = (u[:, 0:2] * SHIFT * side).round() / side
    corner = (u[:, 2:4] + 1) / 2 - CUTOUT / 2  # the hole's centre is anywhere in the image
    mirrored = torch.zeros(batch, dtype=torch.bool, device=device)
    if mirror:
        mirrored = torch.rand(batch, generator=generator, device=device) < probability / 2
    return Augmentation(
        shift=shift * on[:, 0:1],
        hole=torch.where(on[:, 1:2] & holes, corner, torch.full_like(corner, 2.0)),
        brightness=u[:, 4] * BRIGHTNESS * on[:, 2],
        contrast=1 + u[:, 5] * CONTRAST * on[:, 3],
        mirrored=mirrored,
    )


def _shift_matrix(shift: Tensor, side: int) -> Tensor:
    """(B,) parts of the side -> (B, r, r): row i picks pixel i - shift, linearly between two pixels.

    A product with two such matrices, unlike grid_sample, has a deterministic backward on every device.
    """
    i = torch.arange(side, device=shift.device, dtype=shift.dtype)
    distance = i[:, None] - i[None, :] - shift.view(-1, 1, 1) * side
    return (1 - distance.abs()).clamp(min=0)


def _covered(start: Tensor, side: int) -> Tensor:
    """(B,) -> (B, r): the part of each pixel's extent that lies in [start, start + CUTOUT]."""
    left = torch.arange(side, device=start.device, dtype=start.dtype) / side
    start = start[:, None]
    overlap = torch.minimum(left + 1 / side, start + CUTOUT) - torch.maximum(left, start)
    return (overlap * side).clamp(0, 1)
