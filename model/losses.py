"""Adversarial losses and the gradient penalty, each a small callable."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Loss = Callable[[Tensor, Tensor], Tensor]


class AdversarialLoss(NamedTuple):
    """Both sides of a game. Each takes the logits of real and of fake images, (B,) and (B,), to a scalar.

    Real and fake image of the same position have the same class.
    """

    discriminator: Loss
    generator: Loss


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


LOSSES: dict[str, AdversarialLoss] = {
    # relativistic pairing (arXiv 1807.00734; with R1 and R2 it is R3GAN, arXiv 2501.05441)
    "relativistic": AdversarialLoss(_relativistic_discriminator, _relativistic_generator),
    # relativistic average, hinge form (arXiv 1807.00734); BMSG-GAN's default
    "relativistic_average_hinge": AdversarialLoss(_hinge_discriminator, _hinge_generator),
    # arXiv 1406.2661
    "non_saturating": AdversarialLoss(_non_saturating_discriminator, _non_saturating_generator),
}


def gradient_penalty(discriminator: nn.Module, images: list[Tensor], labels: Tensor) -> Tensor:
    """Squared norm of D's gradient at the given images: R1 for real ones, R2 for fake (arXiv 1801.04406).

    images [(B, 1, r, r)] -> (B,): the sum over pixels, averaged over the scales as MSG-GAN does. Always in
    fp32 and with plain attention: bf16 is too coarse for second derivatives, and fused attention has none.
    """
    leaves = [image.detach().float().requires_grad_() for image in images]
    with torch.autocast(leaves[0].device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        logits = discriminator(leaves, labels)
        gradients = torch.autograd.grad(logits.sum(), leaves, create_graph=True)
        return torch.stack([g.square().sum((1, 2, 3)) for g in gradients]).mean(0)
