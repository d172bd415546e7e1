"""Generator and discriminator of MSG-GAN, and of MSG-SAGAN: the same with self-attention.

MSG-GAN (arXiv 1903.06048): the generator emits an image at every scale, the discriminator takes them all,
so that gradients reach every scale directly. Attention is SAGAN's block (arXiv 1805.08318) at the chosen
resolutions; its gate gamma starts at 0, where MSG-SAGAN and MSG-GAN are the same function.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAK = 0.2  # slope of LeakyReLU, both papers
GROUP = 4  # images that share one minibatch standard deviation


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that fixes the shape of both networks."""

    resolution: int = 64  # side of the largest image, a power of two from 8 to 1024
    width: int = 64  # channels at 32 px and below; halved with every doubling above
    latent_dim: int = 128  # latents live on the hypersphere of radius sqrt(latent_dim)
    classes: int = 1  # 1: unconditional
    attention_resolutions: tuple[int, ...] = ()  # (): MSG-GAN; (32,): MSG-SAGAN
    minibatch_stddev: str = "last"  # "last": at 4x4 only, as the public code; "every": each block, as table 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention_resolutions", tuple(sorted(set(self.attention_resolutions))))
        if self.resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"resolution must be a power of two from 8 to 1024, not {self.resolution}")
        for name in ("width", "latent_dim", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if strays := set(self.attention_resolutions) - set(self.scales):
            raise ValueError(f"attention_resolutions must be among {self.scales}, not {sorted(strays)}")
        if self.minibatch_stddev not in ("last", "every"):
            raise ValueError(f'minibatch_stddev must be "last" or "every", not "{self.minibatch_stddev}"')

    @property
    def scales(self) -> tuple[int, ...]:
        """Sides of the images in pixels, 4 first."""
        return tuple(4 * 2**i for i in range(self.resolution.bit_length() - 2))

    def channels(self, side: int) -> int:
        """Feature channels at a side (table 6 of MSG-GAN, which has width 512)."""
        return max(self.width * 32 // max(side, 32), 1)


class EqualizedConv2d(nn.Module):
    """Convolution with equalised learning rate (ProGAN, arXiv 1710.10196): unit weights, scaled at run time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, padding: int = 0, gain: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = math.sqrt(gain / (inputs * kernel**2))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


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
        return F.conv_transpose2d(x, taps.unflatten(2, (4, 4)).transpose(0, 1), self.bias, stride=2, padding=1)


class EqualizedDownConv2d(_FoldedConv2d):
    """A 3x3 convolution and average pooling by two, in one pass: (B, C, r, r) -> (B, C', r/2, r/2).

    The average of four shifted kernels is one 4x4 kernel with stride 2. The activation so comes after the
    pooling, as in ProGAN's fused layer; MSG-GAN's tables have it before. It saves the largest feature maps.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1 / 4)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.weight.flatten(2) @ self.spread  # (C', C, 16)
        return F.conv2d(x, taps.unflatten(2, (4, 4)), self.bias, stride=2, padding=1)


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


def _on_sphere(z: Tensor) -> Tensor:
    """(B, D) -> (B, D) with mean square 1."""
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
        query = _pixels(F.conv2d(x, self.query * self.scale))  # (B, HW, C/8)
        key = _pixels(F.max_pool2d(F.conv2d(x, self.key * self.scale), 2))  # (B, HW/4, C/8)
        value = _pixels(F.max_pool2d(F.conv2d(x, self.value * self.scale), 2))  # (B, HW/4, C/2)
        scores = query @ key.transpose(1, 2)  # (B, HW, HW/4); SAGAN has no 1/sqrt(d)
        with torch.autocast(x.device.type, enabled=False):  # in its own precision: three times faster in bf16
            weights = torch.softmax(scores, dim=-1)
        mixed = (weights @ value).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # (B, C/2, H, W)
        return x + self.gamma.to(x.dtype) * F.conv2d(mixed, self.out * self.out_scale)


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C), a view when x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def minibatch_stddev(x: Tensor) -> Tensor:
    """Append one channel with the spread within groups of up to four images: (B, C, H, W) -> (B, C+1, H, W)."""
    b, _, h, w = x.shape
    group = next(g for g in range(min(GROUP, b), 0, -1) if b % g == 0)
    spread = x.float().reshape(b // group, group, -1).var(1, correction=0).add(1e-8).sqrt().mean(1)  # (B/g,)
    plane = spread.repeat_interleave(group).to(x.dtype).reshape(b, 1, 1, 1).expand(b, 1, h, w)
    return torch.cat([x, plane], 1)


def _class_embedding(classes: int, dim: int) -> nn.Embedding:
    """From zero, so that training starts unconditional and classes part as they are learnt; with random ones
    the generator leans on the class and forgets the latent ("Collapse by Conditioning", arXiv 2201.06578).
    """
    return nn.Embedding(classes, dim, _weight=torch.zeros(classes, dim))


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _LEAK, inplace=True)  # the layer before does not need its own output


def _channels_last(network: nn.Module) -> None:
    """Lay the weights out as the convolutions of this file want them, on every device."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _GeneratorBlock(nn.Module):
    """Twice the side: upsample, two 3x3 convolutions, each with LeakyReLU and PixelNorm; then attention."""

    def __init__(self, config: NetworkConfig, side: int) -> None:
        super().__init__()
        channels = config.channels(side)
        self.up = EqualizedUpConv2d(config.channels(side // 2), channels)
        self.conv = EqualizedConv2d(channels, channels, 3, padding=1)
        self.attention = SelfAttention(channels) if side in config.attention_resolutions else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(_activate(self.up(x)))
        x = pixel_norm(_activate(self.conv(x)))
        out: Tensor = self.attention(x)
        return out


class Generator(nn.Module):
    """Latents and classes to images at every scale, values about [-1, 1]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, latent = config.channels(4), config.latent_dim
        conditional = config.classes > 1
        self.embed = _class_embedding(config.classes, latent) if conditional else None
        self.start = EqualizedLinear(latent * (1 + conditional), width * 16, gain=2.0)
        self.conv = EqualizedConv2d(width, width, 3, padding=1)
        self.attention = SelfAttention(width) if 4 in config.attention_resolutions else nn.Identity()
        self.blocks = nn.ModuleList(_GeneratorBlock(config, side) for side in config.scales[1:])
        self.to_image = nn.ModuleList(EqualizedConv2d(config.channels(side), 1, 1, gain=1.0) for side in config.scales)
        _channels_last(self)

    def forward(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> list[Tensor]:
        """z (B, latent_dim) float32, y (B,) int64 -> [(B, 1, r, r) float32 for r = 4 .. resolution].

        z is put on the hypersphere here, so no caller can forget it. `truncation` below 1 shrinks it from
        there towards the origin, where only class and biases speak: less variety, more typical images.
        """
        z = _on_sphere(z) * truncation
        if self.embed is not None:
            z = torch.cat([z, self.embed(y)], 1)
        x = self.start(z).reshape(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        x = pixel_norm(_activate(x))
        x = self.attention(pixel_norm(_activate(self.conv(x))))
        images = [self.to_image[0](x).float()]
        for block, to_image in zip(self.blocks, self.to_image[1:], strict=True):
            x = block(x)
            images.append(to_image(x).float())
        return images


class _DiscriminatorBlock(nn.Module):
    """Half the side: two 3x3 convolutions, the second with average pooling; attention between them."""

    def __init__(self, config: NetworkConfig, side: int, inputs: int) -> None:
        super().__init__()
        channels = config.channels(side)
        self.stddev = config.minibatch_stddev == "every"
        self.first = EqualizedConv2d(inputs + self.stddev, channels, 3, padding=1)
        self.attention = SelfAttention(channels) if side in config.attention_resolutions else nn.Identity()
        self.second = EqualizedDownConv2d(channels, config.channels(side // 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.stddev:
            x = minibatch_stddev(x)
        x = self.attention(_activate(self.first(x)))
        return _activate(self.second(x))


class Discriminator(nn.Module):
    """Images at every scale and their classes to one logit each.

    The image of each smaller scale joins by plain concatenation (phi_simple, the best for this backbone);
    the class enters as a projection (arXiv 1802.05637).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        top, width = config.channels(config.resolution), config.channels(4)
        self.from_image = EqualizedLinear(1, top, gain=2.0)  # a 1x1 convolution
        self.blocks = nn.ModuleList(
            _DiscriminatorBlock(config, side, config.channels(side) + (side < config.resolution))
            for side in reversed(config.scales[1:])
        )
        self.last_conv = EqualizedConv2d(width + 2, width, 3, padding=1)
        self.attention = SelfAttention(width) if 4 in config.attention_resolutions else nn.Identity()
        self.flatten = EqualizedConv2d(width, width, 4)
        self.logit = EqualizedLinear(width, 1)
        self.embed = _class_embedding(config.classes, width) if config.classes > 1 else None
        _channels_last(self)

    def forward(self, images: list[Tensor], y: Tensor) -> Tensor:
        """[(B, 1, r, r) for r = 4 .. resolution], (B,) int64 -> (B,) float32 logits."""
        # As a linear layer over the last axis: convolving one channel would give NCHW strides, and mixed
        # strides cost more time than all that follows.
        x = self.from_image(images[-1].permute(0, 2, 3, 1))  # (B, R, R, C)
        x = F.leaky_relu(x, _LEAK).permute(0, 3, 1, 2)  # not in place: x is a view, which autograd would copy
        for block, image in zip(self.blocks, reversed(images[:-1]), strict=True):
            x = block(x)
            x = torch.cat([x, image.to(x.dtype)], 1)
        x = self.attention(_activate(self.last_conv(minibatch_stddev(x))))
        h = _activate(self.flatten(x)).flatten(1)  # (B, width)
        logits = self.logit(h).squeeze(1).float()
        if self.embed is not None:
            logits = logits + (self.embed(y) * h.float()).sum(1) / math.sqrt(h.shape[1])
        return logits


def attention_gammas(generator: Generator, discriminator: Discriminator) -> dict[str, float]:
    """The gates of all attention blocks by name, e.g. {"generator.32": 0.12}. A dead block stays at 0."""
    gammas: dict[str, float] = {}
    sides = generator.config.attention_resolutions  # in the order of the generator's blocks
    for prefix, network, order in (("generator", generator, sides), ("discriminator", discriminator, sides[::-1])):
        blocks = [module for module in network.modules() if isinstance(module, SelfAttention)]
        for side, block in zip(order, blocks, strict=True):
            gammas[f"{prefix}.{side}"] = block.gamma.item()
    return gammas
