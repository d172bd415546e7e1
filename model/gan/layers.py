"""The layers of both networks: equalised convolutions, PixelNorm, self-attention, minibatch standard deviation."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.gan.convolutions import conv2d, up_conv2d

LEAK = 0.2  # slope of LeakyReLU, both papers
GROUP = 4  # images that share one minibatch standard deviation


class EqualizedConv2d(nn.Module):
    """Convolution with equalised learning rate (ProGAN, arXiv 1710.10196): unit weights, scaled at run time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, padding: int = 0, gain: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = math.sqrt(gain / (inputs * kernel**2))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class _FoldedConv2d(EqualizedConv2d):
    """A 3x3 convolution whose kernel is spread to 4x4 at run time."""

    spread: Tensor  # (9, 16), the scale included

    def __init__(self, inputs: int, outputs: int, weight: float) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        kernels = torch.eye(9).reshape(9, 3, 3)
        places = [F.pad(kernels, (i, 1 - i, j, 1 - j)) for i in (0, 1) for j in (0, 1)]  # of a 2x2 square
        self.register_buffer(
            "spread", torch.stack(places).sum(0).reshape(9, 16) * (self.scale * weight), persistent=False
        )


class EqualizedUpConv2d(_FoldedConv2d):
    """Nearest upsampling by two and a 3x3 convolution, in one pass: (B, C, r, r) -> (B, C', 2r, 2r).

    Upsampling repeats each pixel, so taps that fall on the same pixel can be summed beforehand. What is left
    is a transposed convolution with a 4x4 kernel: the same function in 4/9 of the multiplications.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.weight.flip(2, 3).flatten(2) @ self.spread  # (C', C, 16)
        return up_conv2d(x, taps.unflatten(2, (4, 4)).transpose(0, 1), self.bias)


class EqualizedBilinearUpConv2d(EqualizedConv2d):
    """A 3x3 convolution, then bilinear upsampling by two: (B, C, r, r) -> (B, C', 2r, 2r).

    Both are linear and nearly commute, and so the convolution costs a quarter. A pixel's neighbours share what it
    was made of, so that no grid of single pixels can arise, as it does after nearest upsampling.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return upsample(super().forward(x))


class EqualizedDownConv2d(_FoldedConv2d):
    """A 3x3 convolution and average pooling by two, in one pass: (B, C, r, r) -> (B, C', r/2, r/2).

    The average of four shifted kernels is one 4x4 kernel with stride 2. The activation so comes after the
    pooling, as in ProGAN's fused layer; MSG-GAN's tables have it before. It saves the largest feature maps.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1 / 4)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.weight.flatten(2) @ self.spread  # (C', C, 16)
        return conv2d(x, taps.unflatten(2, (4, 4)), self.bias, stride=2, padding=1)


class EqualizedLinear(nn.Module):
    """Fully connected layer with equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = math.sqrt(gain / inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class _PixelNorm(torch.autograd.Function):
    """x / sqrt(mean over channels of x^2). Written out because autograd's own backward of the mean is the
    slowest operation of a whole training step on a CPU (10 ms of 13 at 64 px); the sums over channels are
    1x1 convolutions, which are not. The generator is never differentiated twice, so one backward is enough.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mean = x.new_full((1, x.shape[1], 1, 1), 1 / x.shape[1])
        inverse = F.conv2d(x * x, mean).float().add_(1e-8).rsqrt_().to(x.dtype)  # (B, 1, H, W)
        y = x * inverse
        ctx.save_for_backward(y, inverse, mean)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, inverse, mean = ctx.saved_tensors
        return torch.addcmul(grad, y, F.conv2d(grad * y, mean), value=-1) * inverse


def pixel_norm(x: Tensor) -> Tensor:
    """Unit mean square over the channels of every pixel (ProGAN): (B, C, H, W) -> (B, C, H, W)."""
    out: Tensor = _PixelNorm.apply(x)
    return out


class ClassNorm(nn.Module):
    """PixelNorm, then a scale and a shift a channel that the class decides, from 1 and 0; of one class PixelNorm alone.

    The class so reaches the features of each scale (conditional normalisation, arXiv 1610.07629, 1809.11096).
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.embed = class_embedding(classes, 2 * channels) if classes > 1 else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = pixel_norm(x)
        if self.embed is None:
            return x
        scale, shift = embedded(self.embed, y).to(x.dtype)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, x, 1 + scale)


class Noise(nn.Module):
    """Adds noise a pixel, scaled for each channel, from 0 (StyleGAN, arXiv 1812.04948): films have grain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.addcmul(x, noise.to(x.dtype), self.strength.to(x.dtype)[:, None, None])


def upsample(x: Tensor) -> Tensor:
    """(B, C, r, r) -> (B, C, 2r, 2r), bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def on_sphere(z: Tensor) -> Tensor:
    """(B, D) -> (B, D) with mean square 1, the hypersphere of ProGAN's latents."""
    return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


class SelfAttention(nn.Module):
    """SAGAN's block: x + gamma * attention(x), keys and values pooled by two, gamma from 0.

    The 1x1 convolutions have an equalised learning rate like all others here, in place of SAGAN's spectral
    norm, and no bias. Weights come from a random stream of their own, so that a network with attention has
    the same other weights as the one without for the same seed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, half = max(channels // 8, 1), max(channels // 2, 1)
        stream = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        self.query = nn.Parameter(torch.randn(inner, channels, 1, 1, generator=stream))
        self.key = nn.Parameter(torch.randn(inner, channels, 1, 1, generator=stream))
        self.value = nn.Parameter(torch.randn(half, channels, 1, 1, generator=stream))
        self.out = nn.Parameter(torch.randn(channels, half, 1, 1, generator=stream))
        self.gamma = nn.Parameter(torch.zeros(()))
        self.scale, self.out_scale = channels**-0.5, half**-0.5

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._projections(x)
        mixed = (_softmax(query, key) @ value).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # (B, C/2, H, W)
        return x + conv2d(mixed, self.out * (self.out_scale * self.gamma))

    def weights(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, HW, HW/4): how much each pixel takes from each key, row by row; sums to 1 over the keys.

        A key stands for the 2x2 pixels that it is pooled from.
        """
        query, key, _ = self._projections(x)
        return _softmax(query, key)

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, HW, C/8), key (B, HW/4, C/8) and value (B, HW/4, C/2). One convolution for all three: x and its
        gradient are large, and so pass through memory once."""
        inner, half = len(self.query), len(self.value)
        together = conv2d(x, torch.cat([self.query, self.key, self.value]) * self.scale)
        query, pooled = together.split([inner, inner + half], 1)
        key, value = _pixels(F.max_pool2d(pooled, 2)).split([inner, half], 2)
        return _pixels(query), key, value


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    """(B, N, D), (B, M, D) -> (B, N, M), rows that sum to 1; SAGAN has no 1/sqrt(D)."""
    scores = query @ key.transpose(1, 2)
    with torch.autocast(scores.device.type, enabled=False):  # in its own precision: three times faster in bf16
        return torch.softmax(scores, dim=-1)


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C), a view when x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class _Spread(torch.autograd.Function):
    """(groups, images, N) -> (groups,): standard deviation over the images, mean over N. Written out because
    torch.var takes ten times as long on a CPU, and its derivative too. It is differentiable twice, for the penalty.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        centred, deviation = _centred(x)
        ctx.save_for_backward(x, centred, deviation)
        return deviation.mean(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, centred, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            centred, deviation = _centred(x)
        by_deviation = grad[:, None] / (deviation * centred[0].numel())
        return (centred * by_deviation[:, None]).to(x.dtype)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """(groups, images, N) -> what x differs by from the mean of its group, and the standard deviation, (groups, N)."""
    x = x.float() if x.dtype is torch.bfloat16 else x
    centred = x - x.mean(1, keepdim=True)
    return centred, centred.square().mean(1).add(1e-8).sqrt()


def minibatch_stddev(x: Tensor) -> Tensor:
    """Append one channel with the spread within groups of up to four images: (B, C, H, W) -> (B, C+1, H, W)."""
    b, _, h, w = x.shape
    group = next(g for g in range(min(GROUP, b), 0, -1) if b % g == 0)
    pixels = x.permute(0, 2, 3, 1).reshape(b // group, group, -1)  # a view where x is channels_last
    spread: Tensor = _Spread.apply(pixels)
    plane = spread.repeat_interleave(group).to(x.dtype).reshape(b, 1, 1, 1).expand(b, 1, h, w)
    plane = plane.clone(memory_format=torch.channels_last)  # else what comes of it would be laid out as NCHW
    return torch.cat([x, plane], 1)


def class_embedding(classes: int, dim: int) -> nn.Embedding:
    """From zero, so that training starts unconditional and classes part as they are learnt; with random ones
    the generator leans on the class and forgets the latent ("Collapse by Conditioning", arXiv 2201.06578).
    """
    return nn.Embedding(classes, dim, _weight=torch.zeros(classes, dim))


def embedded(embed: nn.Embedding, y: Tensor) -> Tensor:
    """The embeddings of classes (B,) int64, or of sets of findings (B, K), 1 where there: (B, D).

    Those of a set are added, but what all K have in common, their mean, counts once: so a set of one is that class,
    and one of two is no further from all others than both together. What is not known, -1, is as if not there.
    """
    if y.dim() == 1:
        return embed(y)
    there = (y == 1).to(embed.weight.dtype)
    added = (there[:, :, None] * embed.weight).sum(1)
    return added + (1 - there.sum(1, keepdim=True)) * embed.weight.mean(0)


def activate(x: Tensor) -> Tensor:
    """LeakyReLU in place, any shape."""
    return F.leaky_relu(x, LEAK, inplace=True)  # the layer before does not need its own output


def channels_last(network: nn.Module) -> None:
    """Lay the weights out as the convolutions of this file want them, on every device."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
