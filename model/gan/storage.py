"""A generator on disk: `generator.safetensors` and `config.json`. Nothing is ever unpickled."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from model.gan import CONFIG, WEIGHTS
from model.gan.networks import Generator, NetworkConfig

# What generators were before their config.json had a word for it.
FORMER = {"class_modulation": False, "upsampling": "nearest", "noise": False}


def save_generator(
    folder: str | Path, generator: Generator, classes: list[str], extra: dict[str, Any] | None = None
) -> None:
    """Write weights and configuration, each to a temporary name first, so that neither is ever half there.

    `classes` names the labels 0, 1, ...; `extra` is any JSON (training parameters, a digest of the data).
    """
    if len(classes) != generator.config.classes:
        raise ValueError(f"{len(classes)} class names for a generator of {generator.config.classes} classes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    _write(folder / WEIGHTS, save(tensors))
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


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
