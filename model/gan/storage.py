"""A generator on disk: `generator.safetensors` and `config.json`. Nothing is ever unpickled.

Beside it may lie the discriminator that it was trained with, for a training that goes on from both.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from model.gan import CONFIG, DISCRIMINATOR, WEIGHTS
from model.gan.networks import Discriminator, Generator, NetworkConfig

# What generators were before their config.json had a word for it.
FORMER = {"class_modulation": False, "upsampling": "nearest", "noise": False}


def save_generator(
    folder: str | Path,
    generator: Generator,
    classes: list[str],
    extra: dict[str, Any] | None = None,
    discriminator: Discriminator | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights and configuration, each to a temporary name first, so that neither is ever half there.

    `classes` names the labels 0, 1, ...; `extra` is any JSON (training parameters, a digest of the data); `dtype` is
    that of the weights on disk, which are loaded as float32.
    """
    if len(classes) != generator.config.classes:
        raise ValueError(f"{len(classes)} class names for a generator of {generator.config.classes} classes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS, _weights(generator, dtype))
    if discriminator is not None:
        _write(folder / DISCRIMINATOR, _weights(discriminator, dtype))
    config = {"network": asdict(generator.config), "classes": list(classes), "extra": extra or {}}
    _write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_generator(folder: str | Path) -> tuple[Generator, dict[str, Any]]:
    """(generator in eval mode on the CPU, config.json as a dict with "network", "classes", "extra").

    Raises FileNotFoundError without a model in the folder, ValueError when it does not fit together.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: it is not the folder of a trained generator")
    try:
        config = json.loads((folder / CONFIG).read_text())
        network = NetworkConfig(**FORMER | config["network"])
        generator = Generator(network)
        weights = load_file(folder / WEIGHTS)
        generator.load_state_dict(weights)
        if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise ValueError(f"{broken[0]} holds numbers that are not finite")
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(f"the generator in {folder} cannot be read: {error}") from error
    return generator.eval().requires_grad_(False), config


def _weights(network: nn.Module, dtype: torch.dtype) -> bytes:
    state = network.state_dict()
    return save({name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()})


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
