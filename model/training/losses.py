"""Adversarial losses and their gradient penalties, each a small callable."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DRIFT = 0.001  # weight of ProGAN's term that keeps a critic's logits near 0 (arXiv 1710.10196, appendix A.1)

Images = list[Tensor]  # [(B, 1, r, r)], one a scale
Loss = Callable[[Tensor, Tensor], Tensor]


class Penalty(NamedTuple):
    """What is asked of D's gradient. Real and fake image of the same position have the same class."""

    points: Callable[[Images, Images, torch.Generator], Images]  # of real and fake images: where it is measured
    excess: Callable[[Tensor], Tensor]  # gradient at one scale (B, 1, r, r) -> (B,), 0 where all is well
    weight: float  # of its mean over the batch, times gamma


class AdversarialLoss(NamedTuple):
    """Both sides of a game. Each takes the logits of real and of fake images, (B,) and (B,), to a scalar.

    Real and fake image of the same position have the same class.
    """

    discriminator: Loss
    generator: Loss
    penalty: Penalty


def _relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(fake - real).mean()


def _relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(real - fake).mean()


def _hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return (F.relu(1 - (real - fake.mean())) + F.relu(1 + (fake - real.mean()))).mean()


def _hinge_generator(real: Tensor, fake: Tensor) -> Tensor:
    return (F.relu(1 + (real - fake.mean())) + F.relu(1 - (fake - real.mean()))).mean()


def _non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    return (F.softplus(fake) + F.softplus(-real)).mean()


def _non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-fake).mean()


def _critic(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean() + DRIFT * real.square().mean()


def _critics_generator(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean()


def _half_of_each(real: Images, fake: Images, noise: torch.Generator) -> Images:
    """The first half of the batch real, the rest fake: R1 + R2 at the price of R1."""
    half = (len(real[0]) + 1) // 2
    return [torch.cat([r[:half], f[half:]]) for r, f in zip(real, fake, strict=True)]


def _between(real: Images, fake: Images, noise: torch.Generator) -> Images:
    """A random point between the real and the fake image of each position, the same at every scale."""
    alpha = torch.rand(len(real[0]), 1, 1, 1, generator=noise, device=noise.device)
    return [torch.lerp(r, f, alpha) for r, f in zip(real, fake, strict=True)]


def _squared_norm(gradient: Tensor) -> Tensor:
    return gradient.square().sum((1, 2, 3))


def _squared_distance_from_one(gradient: Tensor) -> Tensor:
    return (torch.linalg.vector_norm(gradient, dim=(1, 2, 3)) - 1).square()  # its derivative at 0 is 0, not NaN


# Of arXiv 1801.04406. Half of the batch is real and half is fake, so R1 and R2 weigh gamma / 4 each.
ZERO_CENTRED = Penalty(_half_of_each, _squared_norm, 1 / 2)
ONE_CENTRED = Penalty(_between, _squared_distance_from_one, 1.0)  # gamma is the paper's lambda, 10 (arXiv 1704.00028)

LOSSES: dict[str, AdversarialLoss] = {
    # relativistic pairing (arXiv 1807.00734; with R1 and R2 it is R3GAN, arXiv 2501.05441)
    "relativistic": AdversarialLoss(_relativistic_discriminator, _relativistic_generator, ZERO_CENTRED),
    # relativistic average, hinge form (arXiv 1807.00734); BMSG-GAN's default
    "relativistic_average_hinge": AdversarialLoss(_hinge_discriminator, _hinge_generator, ZERO_CENTRED),
    # arXiv 1406.2661
    "non_saturating": AdversarialLoss(_non_saturating_discriminator, _non_saturating_generator, ZERO_CENTRED),
    # arXiv 1704.00028; MSG-GAN's own
    "wgan_gp": AdversarialLoss(_critic, _critics_generator, ONE_CENTRED),
}


def gradient_penalty(
    discriminator: nn.Module,
    images: Images,
    labels: Tensor,
    excess: Callable[[Tensor], Tensor] = _squared_norm,
) -> Tensor:
    """`excess` of D's gradient at the given images [(B, 1, r, r)] -> (B,), averaged over the scales as MSG-GAN does.

    The squared norm, a sum over pixels, is R1 at real images and R2 at fake ones. Always in fp32: bf16 is too
    coarse for second derivatives.
    """
    leaves = [image.detach().float().requires_grad_() for image in images]
    with torch.autocast(leaves[0].device.type, enabled=False):
        logits = discriminator(leaves, labels)
        gradients = torch.autograd.grad(logits.sum(), leaves, create_graph=True)
        return torch.stack([excess(gradient) for gradient in gradients]).mean(0)
