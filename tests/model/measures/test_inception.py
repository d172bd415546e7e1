"""The layers of the FID network against the published facts; its pooling by hand; nothing but its weights is loaded."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from model.measures import inception
from model.measures.encoder import encode
from model.measures.inception import Block, Conv, Inception, load_inception

# Name, input channels, output channels and kernel of every convolution, from the description of the port
# (pytorch-fid, torchvision's names); the sizes are those of Szegedy et al. 2015, table 1 and figures 5 to 7.
STEM = "1a_3x3 3 32 3x3, 2a_3x3 32 32 3x3, 2b_3x3 32 64 3x3, 3b_1x1 64 80 1x1, 4a_3x3 80 192 3x3"
A = (
    "branch1x1 {c} 64 1x1, branch5x5_1 {c} 48 1x1, branch5x5_2 48 64 5x5, branch3x3dbl_1 {c} 64 1x1, "
    "branch3x3dbl_2 64 96 3x3, branch3x3dbl_3 96 96 3x3, branch_pool {c} {n} 1x1"
)
B = "branch3x3 288 384 3x3, branch3x3dbl_1 288 64 1x1, branch3x3dbl_2 64 96 3x3, branch3x3dbl_3 96 96 3x3"
C = (
    "branch1x1 768 192 1x1, branch7x7_1 768 {n} 1x1, branch7x7_2 {n} {n} 1x7, branch7x7_3 {n} 192 7x1, "
    "branch7x7dbl_1 768 {n} 1x1, branch7x7dbl_2 {n} {n} 7x1, branch7x7dbl_3 {n} {n} 1x7, branch7x7dbl_4 {n} {n} 7x1, "
    "branch7x7dbl_5 {n} 192 1x7, branch_pool 768 192 1x1"
)
D = (
    "branch3x3_1 768 192 1x1, branch3x3_2 192 320 3x3, branch7x7x3_1 768 192 1x1, branch7x7x3_2 192 192 1x7, "
    "branch7x7x3_3 192 192 7x1, branch7x7x3_4 192 192 3x3"
)
E = (
    "branch1x1 {c} 320 1x1, branch3x3_1 {c} 384 1x1, branch3x3_2a 384 384 1x3, branch3x3_2b 384 384 3x1, "
    "branch3x3dbl_1 {c} 448 1x1, branch3x3dbl_2 448 384 3x3, branch3x3dbl_3a 384 384 1x3, "
    "branch3x3dbl_3b 384 384 3x1, branch_pool {c} 192 1x1"
)
BLOCKS = {
    "Mixed_5b": A.format(c=192, n=32),
    "Mixed_5c": A.format(c=256, n=64),
    "Mixed_5d": A.format(c=288, n=64),
    "Mixed_6a": B,
    "Mixed_6b": C.format(n=128),
    "Mixed_6c": C.format(n=160),
    "Mixed_6d": C.format(n=160),
    "Mixed_6e": C.format(n=192),
    "Mixed_7a": D,
    "Mixed_7b": E.format(c=1280),
    "Mixed_7c": E.format(c=2048),
}


def published() -> dict[str, tuple[int, ...]]:
    """Shape of every weight in the published file."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    stem = ", ".join(f"Conv2d_{line}" for line in STEM.split(", "))
    lines = [("", stem), *((f"{block}.", text) for block, text in BLOCKS.items())]
    for prefix, text in lines:
        for line in text.split(", "):
            name, channels, out, kernel = line.split()
            shapes[f"{prefix}{name}.conv.weight"] = (int(out), int(channels), *map(int, kernel.split("x")))
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{prefix}{name}.bn.{part}"] = (int(out),)
    return shapes


@pytest.fixture(scope="module")
def network() -> Inception:
    torch.manual_seed(0)
    return Inception().eval()


def test_names_and_shapes_are_those_of_the_published_weights(network: Inception) -> None:
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {name: shape for name, shape in ours.items() if not name.endswith("num_batches_tracked")} == published()
    assert sum(name.endswith("conv.weight") for name in ours) == 94


def test_features_have_the_published_form(network: Inception) -> None:
    sides = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: sides.update({name: tuple(out.shape[1:])})
        )
        for name in ("Conv2d_1a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    ]
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64)).astype(np.uint8)
    assert encode(network, images, batch=1).shape == (2, 2048)
    for hook in hooks:
        hook.remove()
    assert sides == {
        "Conv2d_1a_3x3": (32, 149, 149),
        "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }


def test_average_pooling_leaves_the_padding_out_and_the_last_block_takes_the_maximum(network: Inception) -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    average, maximum = (Block(1, [[Conv("branch_pool", 1)]], pool)._pooled(x) for pool in ("average", "maximum"))
    assert average[0, 0, 0, 0] == (0 + 1 + 3 + 4) / 4
    assert maximum[0, 0].tolist() == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]
    pools = {name: network.get_submodule(name).pool for name in BLOCKS}
    assert {name for name, pool in pools.items() if pool == "maximum"} == {"Mixed_7c"}
    assert {name for name, pool in pools.items() if pool == "reduce"} == {"Mixed_6a", "Mixed_7a"}


def test_only_the_published_file_is_loaded(network: Inception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    weights = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    torch.save(weights, file)
    with pytest.raises(ValueError, match="SHA-256"):
        load_inception(file)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(encode(load_inception(file), images), encode(network, images))
