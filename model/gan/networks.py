"""Generator and discriminator of MSG-GAN, and of MSG-SAGAN: the same with self-attention.

MSG-GAN (arXiv 1903.06048): the generator emits an image at every scale, the discriminator takes them all,
so that gradients reach every scale directly. Attention is SAGAN's block (arXiv 1805.08318) at the chosen
resolutions; its gate gamma starts at 0, where MSG-SAGAN and MSG-GAN are the same function.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.gan.layers import (
    ClassNorm,
    EqualizedBilinearUpConv2d,
    EqualizedConv2d,
    EqualizedDownConv2d,
    EqualizedLinear,
    EqualizedUpConv2d,
    Noise,
    SelfAttention,
    activate,
    channels_last,
    class_embedding,
    embedded,
    minibatch_stddev,
    on_sphere,
)


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that fixes the shape of both networks."""

    resolution: int = 64  # side of the largest image, a power of two from 8 to 1024
    width: int = 64  # channels at 32 px and below; halved with every doubling above
    latent_dim: int = 128  # latents live on the hypersphere of radius sqrt(latent_dim)
    classes: int = 1  # 1: unconditional
    attention_resolutions: tuple[int, ...] = ()  # (): MSG-GAN; (32,): MSG-SAGAN
    minibatch_stddev: str = "every"  # "every": each block, as table 7; "last": at 4x4 only, as the public code
    phi: str = "simple"  # how the smaller images join D: "simple", "lin_cat" or "cat_lin", see Join
    class_modulation: bool = True  # the class enters G at every scale; else with the latent alone
    upsampling: str = "bilinear"  # of G: "bilinear", or "nearest", which leaves a grid
    noise: bool = False  # noise a pixel enters each block of G, which then draws ribs as grain

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention_resolutions", tuple(sorted(set(self.attention_resolutions))))
        if self.resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"resolution must be a power of two from 8 to 1024, not {self.resolution}")
        for name in ("width", "latent_dim", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if strays := set(self.attention_resolutions) - set(self.scales):
            raise ValueError(f"attention_resolutions must be among {self.scales}, not {sorted(strays)}")
        choices = {
            "minibatch_stddev": ("last", "every"),
            "phi": ("simple", "lin_cat", "cat_lin"),
            "upsampling": ("nearest", "bilinear"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    @property
    def scales(self) -> tuple[int, ...]:
        """Sides of the images in pixels, 4 first."""
        return tuple(4 * 2**i for i in range(self.resolution.bit_length() - 2))

    @property
    def modulated_classes(self) -> int:
        """Classes that G's normalisations know."""
        return self.classes if self.class_modulation else 1

    @property
    def inputs(self) -> int:
        """Random numbers an image of G is made of: the latent, then the noise of every pixel."""
        return self.latent_dim + self.noise * sum(side**2 for side in self.scales[1:])

    def channels(self, side: int) -> int:
        """Feature channels at a side (table 6 of MSG-GAN, which has width 512)."""
        return max(self.width * 32 // max(side, 32), 1)


class _GeneratorBlock(nn.Module):
    """Twice the side: upsample, two 3x3 convolutions, each with LeakyReLU, PixelNorm and the class; then attention."""

    def __init__(self, config: NetworkConfig, side: int) -> None:
        super().__init__()
        channels = config.channels(side)
        up = EqualizedUpConv2d if config.upsampling == "nearest" else EqualizedBilinearUpConv2d
        self.up = up(config.channels(side // 2), channels)
        self.noise = Noise(channels) if config.noise else None
        self.norm = ClassNorm(channels, config.modulated_classes)
        self.conv = EqualizedConv2d(channels, channels, 3, padding=1)
        self.second_norm = ClassNorm(channels, config.modulated_classes)
        self.attention = SelfAttention(channels) if side in config.attention_resolutions else nn.Identity()

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        x = self.up(x)
        if self.noise is not None:
            x = self.noise(x, noise)
        x = self.norm(activate(x), y)
        x = self.second_norm(activate(self.conv(x)), y)
        out: Tensor = self.attention(x)
        return out


class Generator(nn.Module):
    """Latents and classes to images at every scale, values about [-1, 1]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, latent = config.channels(4), config.latent_dim
        conditional = config.classes > 1
        self.embed = class_embedding(config.classes, latent) if conditional else None
        self.start = EqualizedLinear(latent * (1 + conditional), width * 16, gain=2.0)
        self.norm = ClassNorm(width, config.modulated_classes)
        self.conv = EqualizedConv2d(width, width, 3, padding=1)
        self.second_norm = ClassNorm(width, config.modulated_classes)
        self.attention = SelfAttention(width) if 4 in config.attention_resolutions else nn.Identity()
        self.blocks = nn.ModuleList(_GeneratorBlock(config, side) for side in config.scales[1:])
        self.to_image = nn.ModuleList(EqualizedConv2d(config.channels(side), 1, 1, gain=1.0) for side in config.scales)
        channels_last(self)

    def forward(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> list[Tensor]:
        """z (B, config.inputs) float32, y (B,) int64 -> [(B, 1, r, r) float32 for r = 4 .. resolution].

        For sets of findings y is (B, classes), see `embedded`; so it is in D.
        The first latent_dim numbers of z are the latent, the others the noise. The latent is put on the hypersphere
        here, so no caller can forget it. `truncation` below 1 shrinks it from there towards the origin, where only
        class and biases speak: less variety, more typical images. Above 1 it is moved outward, where no latent of
        training was: more variety, less like films.
        """
        sides = self.config.scales[1:]
        z, *noise = z.split([self.config.latent_dim, *(side**2 for side in sides if self.config.noise)], 1)
        z = on_sphere(z) * truncation
        if self.embed is not None:
            z = torch.cat([z, embedded(self.embed, y)], 1)
        x = self.start(z).reshape(len(z), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        x = self.norm(activate(x), y)
        x = self.attention(self.second_norm(activate(self.conv(x)), y))
        images = [self.to_image[0](x).float()]
        for k, (side, block, to_image) in enumerate(zip(sides, self.blocks, self.to_image[1:], strict=True)):
            x = block(x, y, noise[k].unflatten(1, (1, side, side)) if noise else z)
            images.append(to_image(x).float())
        return images


class Join(nn.Module):
    """MSG-GAN's phi: features (B, C, r, r) and the image of their side (B, 1, r, r) -> (B, `outputs`, r, r).

    simple: concatenation. lin_cat: a 1x1 convolution takes the image to C/2 channels first. cat_lin: a 1x1
    convolution brings the concatenation back to C channels. Both are linear (MSG-GAN, section 3).
    """

    def __init__(self, phi: str, channels: int) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.image = EqualizedConv2d(1, half, 1, gain=1.0) if phi == "lin_cat" else None
        self.both = EqualizedConv2d(channels + 1, channels, 1, gain=1.0) if phi == "cat_lin" else None
        self.outputs = {"simple": channels + 1, "lin_cat": channels + half, "cat_lin": channels}[phi]

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        if self.image is not None:
            image = self.image(image)
        x = torch.cat([x, image.to(x.dtype)], 1)
        return x if self.both is None else self.both(x)


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
        x = self.attention(activate(self.first(x)))
        return activate(self.second(x))


class Discriminator(nn.Module):
    """Images at every scale and their classes to one logit each.

    The image of each smaller scale joins by phi, of which the simple one is the best for this backbone (MSG-GAN);
    the class enters as a projection (arXiv 1802.05637).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        top, width = config.channels(config.resolution), config.channels(4)
        self.from_image = EqualizedConv2d(1, top, 1)
        joins = [Join(config.phi, config.channels(side)) for side in reversed(config.scales[:-1])]
        inputs = [top, *(join.outputs for join in joins)]
        self.joins = nn.ModuleList(joins)
        self.blocks = nn.ModuleList(
            _DiscriminatorBlock(config, side, n) for side, n in zip(reversed(config.scales[1:]), inputs, strict=False)
        )
        self.last_conv = EqualizedConv2d(inputs[-1] + 1, width, 3, padding=1)
        self.attention = SelfAttention(width) if 4 in config.attention_resolutions else nn.Identity()
        self.flatten = EqualizedConv2d(width, width, 4)
        self.logit = EqualizedLinear(width, 1)
        self.embed = class_embedding(config.classes, width) if config.classes > 1 else None
        channels_last(self)

    def features(self, images: list[Tensor]) -> Tensor:
        """[(B, 1, r, r) for r = 4 .. resolution] -> (B, width), of which `logits` makes the logit for any class."""
        # One channel has the strides of NCHW unless copied so. What it meets would be laid out like it, and mixed
        # strides cost more time than all that follows.
        images = [image.clone(memory_format=torch.channels_last) for image in images]
        x = activate(self.from_image(images[-1]))
        for block, join, image in zip(self.blocks, self.joins, reversed(images[:-1]), strict=True):
            x = join(block(x), image)
        x = self.attention(activate(self.last_conv(minibatch_stddev(x))))
        return activate(self.flatten(x)).flatten(1)

    def logits(self, features: Tensor, y: Tensor) -> Tensor:
        """(B, width), (B,) int64 -> (B,) float32."""
        logits: Tensor = self.logit(features).squeeze(1).float()
        if self.embed is not None:
            logits = logits + (embedded(self.embed, y) * features.float()).sum(1) / math.sqrt(features.shape[1])
        return logits

    def forward(self, images: list[Tensor], y: Tensor) -> Tensor:
        """[(B, 1, r, r) for r = 4 .. resolution], (B,) int64 -> (B,) float32 logits."""
        return self.logits(self.features(images), y)


def attention_gammas(generator: Generator, discriminator: Discriminator) -> dict[str, float]:
    """The gates of all attention blocks by name, e.g. {"generator.32": 0.12}. A dead block stays at 0."""
    gammas: dict[str, float] = {}
    sides = generator.config.attention_resolutions  # in the order of the generator's blocks
    for prefix, network, order in (("generator", generator, sides), ("discriminator", discriminator, sides[::-1])):
        blocks = [module for module in network.modules() if isinstance(module, SelfAttention)]
        for side, block in zip(order, blocks, strict=True):
            gammas[f"{prefix}.{side}"] = block.gamma.item()
    return gammas
