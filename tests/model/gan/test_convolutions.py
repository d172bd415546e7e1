"""Convolutions with backward passes of our own, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from model.gan.convolutions import conv2d, up_conv2d


def case(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (4, 1, 0), (1, 1, 0)])
@pytest.mark.parametrize("biased", [True, False])
def test_first_and_second_derivatives_are_torchs(kernel: int, stride: int, padding: int, biased: bool) -> None:
    x, weight, bias = case((2, 3, 6, 6), (5, 3, kernel, kernel), (5,))
    results = []
    for convolution in (conv2d, F.conv2d):
        y = convolution(x, weight, bias if biased else None, stride, padding).sin()  # so that x takes part twice
        first = torch.autograd.grad(y.sum(), [x, weight, *[bias] * biased], retain_graph=True)
        (by_x,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        second = torch.autograd.grad(by_x.square().sum(), [x, weight, *[bias] * biased])
        results.append([y, *first, by_x, *second])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_up_convolution_and_its_gradients_are_torchs() -> None:
    x, weight, bias = case((2, 3, 4, 4), (3, 5, 4, 4), (5,))
    results = []
    for y in (up_conv2d(x, weight, bias), F.conv_transpose2d(x, weight, bias, stride=2, padding=1)):
        results.append([y, *torch.autograd.grad(y.sin().sum(), [x, weight, bias])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("up", [False, True])
def test_autocast_decides_the_precision(up: bool) -> None:
    x, weight, bias = (t.detach().float().requires_grad_() for t in case((2, 3, 4, 4), (3, 3, 4, 4), (3,)))
    with torch.autocast("cpu", torch.bfloat16):
        y = up_conv2d(x, weight, bias) if up else conv2d(x, weight, bias, 2, 1)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (x, weight, bias))


def test_frozen_weights_get_no_gradient() -> None:
    x, weight, bias = case((2, 3, 4, 4), (5, 3, 3, 3), (5,))
    conv2d(x, weight.requires_grad_(False), bias, padding=1).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert bias.grad is not None
