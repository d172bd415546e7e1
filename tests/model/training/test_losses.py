"""Losses against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from model.training.losses import DRIFT, LOSSES, ONE_CENTRED, ZERO_CENTRED, gradient_penalty


class Linear(nn.Module):
    """D(images) = sum over scales of w_s * sum of pixels, so its gradient is w_s at every pixel."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, images: list[Tensor], y: Tensor) -> Tensor:
        return sum(w * x.sum((1, 2, 3)) for w, x in zip(self.weights, images, strict=True))


def test_penalty_is_the_squared_gradient_averaged_over_scales() -> None:
    discriminator = Linear(0.5, 0.25)
    images = [torch.randn(3, 1, 4, 4), torch.randn(3, 1, 8, 8)]
    penalty = gradient_penalty(discriminator, images, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(penalty, torch.full((3,), (16 * 0.5**2 + 64 * 0.25**2) / 2))

    penalty.mean().backward()  # d/dw of (16 w0^2 + 64 w1^2) / 2
    torch.testing.assert_close(discriminator.weights.grad, torch.tensor([16 * 0.5, 64 * 0.25]))


def test_the_penalty_of_wgan_gp_is_the_distance_of_each_scale_s_norm_from_one() -> None:
    discriminator = Linear(0.5, 0.25)  # norms 4 * 0.5 and 8 * 0.25
    images = [torch.randn(3, 1, 4, 4), torch.randn(3, 1, 8, 8)]
    y = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(gradient_penalty(discriminator, images, y, ONE_CENTRED.excess), torch.ones(3))

    discriminator = Linear(0.0, 0.5)  # norms 0 and 4
    penalty = gradient_penalty(discriminator, images, y, ONE_CENTRED.excess)
    torch.testing.assert_close(penalty, torch.full((3,), (1 + 3**2) / 2))
    penalty.mean().backward()
    torch.testing.assert_close(discriminator.weights.grad, torch.tensor([0.0, 2 * 3 * 8 / 2]))


def test_wgan_gp_is_penalised_between_each_pair_the_others_at_half_of_each() -> None:
    real = [torch.zeros(5, 1, 4, 4), torch.zeros(5, 1, 8, 8)]
    fake = [x + 1 for x in real]
    noise = torch.Generator().manual_seed(0)
    between = ONE_CENTRED.points(real, fake, noise)
    alpha = between[0][:, 0, 0, 0]
    assert all(torch.equal(x, alpha.view(-1, 1, 1, 1).expand_as(x)) for x in between)
    assert len(alpha.unique()) == 5
    assert 0 <= alpha.min() < alpha.max() <= 1
    assert not torch.equal(ONE_CENTRED.points(real, fake, noise)[0], between[0])
    for x in ZERO_CENTRED.points(real, fake, noise):
        assert x.mean((1, 2, 3)).tolist() == [0, 0, 0, 1, 1]


def test_penalty_is_in_fp32_also_inside_autocast() -> None:
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))

    class Wrapped(nn.Module):
        def forward(self, images: list[Tensor], y: Tensor) -> Tensor:
            return discriminator(images[0]).squeeze(1)

    images, y = [torch.randn(2, 1, 4, 4)], torch.zeros(2, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradient_penalty(Wrapped(), images, y)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, gradient_penalty(Wrapped(), images, y))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("relativistic", (softplus(-1.5) + softplus(0.5)) / 2, (softplus(1.5) + softplus(-0.5)) / 2),
        # real mean 0.5, fake mean 0
        ("relativistic_average_hinge", (0 + 1) / 2 + (0 + 1) / 2, (2 + 1) / 2 + (2 + 1) / 2),
        (
            "non_saturating",
            (softplus(-0.5) + softplus(0.5) + softplus(-1) + softplus(0)) / 2,
            (softplus(0.5) + softplus(-0.5)) / 2,
        ),
        ("wgan_gp", -0.5 + DRIFT * 0.5, 0.0),
    ],
)
def test_losses_by_hand(name: str, discriminator: float, generator: float) -> None:
    real, fake = torch.tensor([1.0, 0.0]), torch.tensor([-0.5, 0.5])
    assert LOSSES[name].discriminator(real, fake).item() == pytest.approx(discriminator)
    assert LOSSES[name].generator(real, fake).item() == pytest.approx(generator)


@pytest.mark.parametrize("name", LOSSES)
def test_the_two_sides_pull_apart(name: str) -> None:
    real, fake = torch.tensor([0.1, -0.2], requires_grad=True), torch.tensor([0.0, 0.1], requires_grad=True)
    gradient_real, gradient_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake), (real, fake))
    (gradient_generator,) = torch.autograd.grad(LOSSES[name].generator(real.detach(), fake), fake)
    assert (gradient_real < 0).all()
    assert (gradient_fake > 0).all()
    assert (gradient_generator < 0).all()
