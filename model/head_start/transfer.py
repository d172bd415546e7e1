"""A head start: a training begins with what an earlier one has learnt, in place of noise.

The earlier training may be of another size and of other classes: a multi-scale generator draws every scale at once, so
a smaller one is a part of it, and a larger one has it as a part. What a film looks like is in the discriminator too,
and transfer without it loses most of its worth (arXiv 1805.01677), so both networks hand over.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.gan import DISCRIMINATOR
from model.gan.networks import Discriminator, Generator, NetworkConfig
from model.gan.storage import load_generator

PHANTOM = Path(__file__).resolve().parent  # the weights here, learnt from simulated films, by side and model
_SHAPE = ("width", "latent_dim", "minibatch_stddev", "phi", "class_modulation", "upsampling", "noise")
_PLACE = re.compile(r"(?P<list>blocks|joins)\.(?P<index>\d+)\.")


def packaged(name: str, side: int) -> Path:
    """The folder of the weights here for a training of the model `name`: of its size, or the next larger there is."""
    sides = sorted(int(folder.name) for folder in PHANTOM.iterdir() if folder.name.isdigit())
    return PHANTOM / str(next((there for there in sides if there >= side), sides[-1])) / name


@dataclass(frozen=True)
class Taken:
    """What a training took over."""

    share: float  # of the weights of both networks
    anew: tuple[str, ...]  # tensors that began with noise, by their names


@dataclass(frozen=True)
class HeadStart:
    """Weights of both networks of shape `network`, float32 on the CPU, by names that do not depend on the size.

    `simulated`: simulated films are among what they have learnt from, in this training or in one before it.
    """

    network: NetworkConfig
    tensors: Mapping[str, Tensor]
    simulated: bool

    @classmethod
    def load(cls, folder: str | Path, classes: Sequence[str]) -> "HeadStart":
        """From the folder of a training, for networks of these `classes`.

        A class of the same name keeps what was learnt of it; of any other one is known what all there have in common,
        the mean. Raises FileNotFoundError without networks in the folder, ValueError when they do not fit together.
        """
        folder = Path(folder)
        generator, config = load_generator(folder)
        if not (folder / DISCRIMINATOR).is_file():
            raise FileNotFoundError(f"{folder} has no {DISCRIMINATOR}: its training was by an earlier version")
        discriminator = Discriminator(generator.config)
        try:
            discriminator.load_state_dict(load_file(folder / DISCRIMINATOR))
        except (RuntimeError, OSError, SafetensorError) as error:
            raise ValueError(f"the discriminator in {folder} cannot be read: {error}") from error
        known = {name: row for row, name in enumerate(config["classes"])}
        tensors = {}
        for name, tensor in _named(generator, discriminator).items():
            if "embed." in name:
                tensor = torch.stack([tensor[known[c]] if c in known else tensor.mean(0) for c in classes])
            tensors[name] = tensor
        simulated = "simulator" in config["extra"] or bool(config["extra"].get("simulated_before"))
        return cls(generator.config, tensors, simulated)

    def obstacle(self, network: NetworkConfig) -> str:
        """Why networks of this shape cannot begin with it, e.g. "it has width 64, not 32"; "" if they can.

        Size, classes and attention may differ.
        """
        for name in _SHAPE:
            had, wanted = getattr(self.network, name), getattr(network, name)
            if had != wanted:
                return f"it has {name} {had}, not {wanted}"
        return "" if (self.network.classes > 1) == (network.classes > 1) else "one of both has a single class"

    def give(self, generator: Generator, discriminator: Discriminator) -> Taken:
        """Overwrite what fits; say what does not. Raises ValueError where there is an obstacle."""
        if obstacle := self.obstacle(generator.config):
            raise ValueError(f"the head start does not fit: {obstacle}")
        own = _named(generator, discriminator)
        fitting = {name for name in own.keys() & self.tensors.keys() if self.tensors[name].shape == own[name].shape}
        with torch.no_grad():
            for name in fitting:
                own[name].copy_(self.tensors[name])
        total = sum(tensor.numel() for tensor in own.values())
        return Taken(sum(own[name].numel() for name in fitting) / total, tuple(own.keys() - fitting))

    def digest(self) -> str:
        """SHA-256 of names and weights."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            found.update(name.encode())
            found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()


def _named(generator: Generator, discriminator: Discriminator) -> dict[str, Tensor]:
    """The weights of both, with sides in pixels where the discriminator counts from its largest image."""
    return {f"generator.{name}": tensor for name, tensor in _weights(generator)} | {
        _by_side(name, discriminator.config.resolution): tensor for name, tensor in _weights(discriminator)
    }


def _weights(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, parameter.detach()) for name, parameter in network.named_parameters()]


def _by_side(name: str, resolution: int) -> str:
    if name.startswith("from_image."):
        return f"discriminator.{resolution}px.{name}"
    if found := _PLACE.match(name):
        side = resolution >> int(found["index"]) + (found["list"] == "joins")
        return f"discriminator.{side}px.{found['list']}.{name[found.end() :]}"
    return f"discriminator.{name}"
