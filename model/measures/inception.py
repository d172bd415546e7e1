"""The Inception network of the published FID: Inception v3 (arXiv 1512.00567) with the weights of 2015-12-05.

Heusel et al. 2017 (arXiv 1706.08500) compute FID on it, and every published figure since. The weights are used as the
PyTorch port of pytorch-fid names them. That network is not torchvision's: its average pooling leaves the padding out,
its last block pools by maximum, and it knows 1,008 classes.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, CLASSES = 299, 1008
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Conv(NamedTuple):
    """A convolution with batch norm and ReLU: its name in the weights, and what it makes of its input.

    With stride 1 it is padded to keep the side; with stride 2, or where `valid`, not at all.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False


# One after the other; a tuple is two convolutions of the same input, side by side.
Route = list[Conv | tuple[Conv, Conv]]
WIDE, TALL, SQUARE = (1, 7), (7, 1), (3, 3)


def _block_35(pool: int) -> list[Route]:
    """Of the 35x35 maps, Mixed_5b to Mixed_5d."""
    return [
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, SQUARE), Conv("branch3x3dbl_3", 96, SQUARE)],
        [Conv("branch_pool", pool)],
    ]


def _block_17(inner: int) -> list[Route]:
    """Of the 17x17 maps, Mixed_6b to Mixed_6e: 7x7 windows as a row and a column."""
    double = [Conv(f"branch7x7dbl_{k}", inner, TALL if k % 2 == 0 else WIDE) for k in range(2, 5)]
    return [
        [Conv("branch1x1", 192)],
        [Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, WIDE), Conv("branch7x7_3", 192, TALL)],
        [Conv("branch7x7dbl_1", inner), *double, Conv("branch7x7dbl_5", 192, WIDE)],
        [Conv("branch_pool", 192)],
    ]


def _block_8() -> list[Route]:
    """Of the 8x8 maps, Mixed_7b and Mixed_7c: paths that fork at their end."""
    return [
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384), _fork("branch3x3_2")],
        [Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, SQUARE), _fork("branch3x3dbl_3")],
        [Conv("branch_pool", 192)],
    ]


def _fork(name: str) -> tuple[Conv, Conv]:
    return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))


REDUCE_35: list[Route] = [
    [Conv("branch3x3", 384, SQUARE, 2)],
    [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, SQUARE), Conv("branch3x3dbl_3", 96, SQUARE, 2)],
]
REDUCE_17: list[Route] = [
    [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, SQUARE, 2)],
    [
        *(Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, WIDE), Conv("branch7x7x3_3", 192, TALL)),
        Conv("branch7x7x3_4", 192, SQUARE, 2),
    ],
]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, conv: Conv) -> None:
        super().__init__()
        padding = (0, 0) if conv.valid or conv.stride > 1 else (conv.kernel[0] // 2, conv.kernel[1] // 2)
        self.conv = nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Paths side by side, their results joined: (B, C, H, W) -> (B, C', H', W').

    `pool`: "average" or "maximum" goes ahead of the path that ends in `branch_pool`; "reduce" halves the side, as all
    paths do, and its result joins last as it is.
    """

    def __init__(self, channels: int, paths: list[Route], pool: str) -> None:
        super().__init__()
        self.paths, self.pool = paths, pool
        self.channels = channels if pool == "reduce" else 0
        for path in paths:
            width = channels
            for step in path:
                for conv in _together(step):
                    self.add_module(conv.name, ConvNorm(width, conv))
                width = sum(conv.channels for conv in _together(step))
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        results = [self._walk(path, x) for path in self.paths]
        return torch.cat([*results, F.max_pool2d(x, 3, stride=2)] if self.pool == "reduce" else results, dim=1)

    def _walk(self, path: Route, x: Tensor) -> Tensor:
        if _together(path[0])[0].name == "branch_pool":
            x = self._pooled(x)
        for step in path:
            x = torch.cat([self.get_submodule(conv.name)(x) for conv in _together(step)], dim=1)
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "maximum":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _together(step: Conv | tuple[Conv, Conv]) -> tuple[Conv, ...]:
    return (step,) if isinstance(step, Conv) else step


STEM = (
    Conv("Conv2d_1a_3x3", 32, SQUARE, 2),
    Conv("Conv2d_2a_3x3", 32, SQUARE, valid=True),
    Conv("Conv2d_2b_3x3", 64, SQUARE),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, SQUARE, valid=True),
)
HALVED_AFTER = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
BLOCKS: tuple[tuple[str, list[Route], str], ...] = (
    *((f"Mixed_5{k}", _block_35(pooled), "average") for k, pooled in (("b", 32), ("c", 64), ("d", 64))),
    ("Mixed_6a", REDUCE_35, "reduce"),
    *((f"Mixed_6{k}", _block_17(inner), "average") for k, inner in (("b", 128), ("c", 160), ("d", 160), ("e", 192))),
    ("Mixed_7a", REDUCE_17, "reduce"),
    ("Mixed_7b", _block_8(), "average"),
    ("Mixed_7c", _block_8(), "maximum"),
)


class Inception(nn.Module):
    """(B, 1, H, W) in [0, 1] -> (B, 2048): the pool features of FID. A grey image is one of three equal channels."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for conv in STEM:
            self.add_module(conv.name, ConvNorm(channels, conv))
            channels = conv.channels
        for name, paths, pool in BLOCKS:
            block = Block(channels, paths, pool)
            self.add_module(name, block)
            channels = block.channels
        self.fc = nn.Linear(channels, CLASSES)  # in the weights, of no use here

    def forward(self, images: Tensor) -> Tensor:
        x = images.expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1
        for conv in STEM:
            x = self.get_submodule(conv.name)(x)
            if conv.name in HALVED_AFTER:
                x = F.max_pool2d(x, 3, stride=2)
        for name, _, _ in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def load_inception(path: Path) -> Inception:
    """The network with the published weights in `path`, in eval mode.

    Raises ValueError for any other file: what is not these weights gives no FID. OSError when it can't be read.
    """
    if hashlib.sha256(path.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise ValueError("its SHA-256 is not that of the published weights")
    network = Inception()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # The port is older than the counters of batch norm, which eval mode doesn't look at.
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **weights})
    return network.eval()
