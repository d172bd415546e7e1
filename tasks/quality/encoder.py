"""Stage `encoder`: learn the features of `frechet_xray` once, from the real train split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.measures.encoder import FEATURES, EncoderConfig, train_encoder
from model.measures.encoder import Encoder as EncoderNetwork
from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.params import Encoder

USED = (
    f"An encoder of {FEATURES} features, learnt from this train split without labels: for frechet_xray, kid_xray, "
    "precision, recall, density and coverage; never to be read as the published FID."
)
WEIGHTS, CONFIG = "encoder.safetensors", "config.json"


def run(curated_folder: Path, out: Path, params: Encoder) -> dict[str, Any]:
    """Train the encoder on `curated_folder` and write its weights and config to `out`; return the config."""
    images = image_set.load(curated_folder)
    encoder, losses = train_encoder(images.where(split="train").images, EncoderConfig(params.steps, seed=params.seed))
    tail = losses[-max(1, len(losses) // 10) :]
    config = {
        "data_digest": images.digest,
        "steps": params.steps,
        "seed": params.seed,
        "loss": round(float(np.mean(tail)), 4),
    }
    with written_whole(out) as folder:
        folder.mkdir()
        save_file(encoder.state_dict(), folder / WEIGHTS)
        write_json(folder / CONFIG, config)
    return config


def load(folder: Path) -> tuple[EncoderNetwork, str]:
    """The encoder in `folder`, and the digest of the data that it learnt from. Raises UserError."""
    network = EncoderNetwork()
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no encoder ({type(error).__name__}); make it with `xraysynth encoder`"
        ) from None
    return network.eval(), config["data_digest"]
