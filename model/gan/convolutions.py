"""Convolutions with the forward passes of torch, and backward passes that give the same numbers in less time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 0) -> Tensor:
    """F.conv2d whose gradient by x can be differentiated once more in less time, as a gradient penalty does.

    Of that derivative torch computes the part by the weights as a convolution whose kernel is as large as the image.
    Here it is what it also is, the weight gradient of a common convolution: a penalty at 64 px takes a third less.
    With create_graph there is a gradient by x alone, and none by weight or bias. Under autocast, where no penalty is
    taken, it is F.conv2d itself, which costs less in Python.
    """
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return F.conv2d(x, weight, bias, stride, padding)
    out: Tensor = _Conv2d.apply(x, weight, bias, stride, padding)
    return out


def up_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.conv_transpose2d with stride 2 and padding 1: (B, C, r, r), (C, C', 4, 4) -> (B, C', 2r, 2r).

    It is differentiable once. Its gradient by the weights is taken from the convolution that it transposes, in a
    quarter of the time.
    """
    out: Tensor = _UpConv2d.apply(x, weight, bias)
    return out


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            return _GradientByX.apply(grad, x, weight, ctx.geometry), None, None, None, None
        return *_gradients(grad, x, weight, ctx.geometry, ctx.needs_input_grad[:3]), None, None


class _GradientByX(torch.autograd.Function):
    """Linear in the gradient that comes in and in the weight; x counts by its shape alone."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.geometry = geometry
        return _gradients(grad, x, weight, geometry, (True, False, False))[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_x: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight = ctx.saved_tensors
        by_weight = _gradients(grad, by_x, weight, ctx.geometry, (False, True, False))[1]
        return F.conv2d(by_x, weight, None, *ctx.geometry), None, by_weight, None


class _UpConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        ctx.save_for_backward(x.to(y.dtype), weight.to(y.dtype))  # as autocast had them
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        by_weight = _gradients(x, grad, weight, (2, 1), (False, True, False))[1]  # x and grad change places
        return F.conv2d(grad, weight, stride=2, padding=1), by_weight, grad.sum((0, 2, 3))


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple[int, int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of F.conv2d by x, weight and bias, as far as `wanted`; geometry is stride and padding."""
    stride, padding = geometry
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted
    )
    return gradients
