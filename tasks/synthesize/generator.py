"""The generator in a model folder: read and checked, the digest of its weights, and the set that it learnt from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.gan import CONFIG, WEIGHTS
from tasks import image_set
from tasks.errors import UserError

if TYPE_CHECKING:
    from model.gan.networks import Generator


def read_generator(model_folder: Path) -> tuple["Generator", dict[str, Any]]:
    """The generator of a model folder and its config. Raises UserError where there is none that can be used."""
    from model.gan.storage import load_generator  # with torch, which a digest does without

    try:
        generator, config = load_generator(model_folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{' '.join(str(error).split())}; train one with `xraysynth train`") from None
    classes = config.get("classes")
    if (
        not isinstance(classes, list)
        or len(classes) != generator.config.classes
        or not all(isinstance(name, str) and image_set.CLASS_NAME.fullmatch(name) for name in classes)
        or not isinstance(config.get("extra"), dict)
    ):
        raise UserError(
            f"{model_folder / CONFIG} does not describe the generator beside it; train one with `xraysynth train`"
        )
    return generator, config


def sets_of_generator(config: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """By class, how many of the train films that have it have which set of findings; empty of single classes."""
    found: dict[str, dict[str, int]] = config["extra"].get("sets", {})
    return found


def learnt_from(model_folder: Path, curated_folder: Path) -> bool:
    """Whether the generator learnt from this curated set, if there is one. Raises UserError like `read_generator`."""
    digest = read_generator(model_folder)[1]["extra"].get("data_digest")
    return (curated_folder / "dataset.json").is_file() and image_set.load(curated_folder).digest == digest


def weights_digest(model_folder: Path) -> str:
    """SHA-256 of the generator's weights, hexadecimal."""
    try:
        return hashlib.sha256((model_folder / WEIGHTS).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{model_folder} has no {WEIGHTS}; train one with `xraysynth train`") from None
