"""Stage `quality`: are the synthetic images of a class as near to the real ones, and as varied, as real ones are?"""

from pathlib import Path
from typing import Any

import numpy as np

from model.encoder import Encoder, encode
from model.metrics import frechet_distance, ms_ssim_pairs, ms_ssim_scales
from tasks import curated, tracking
from tasks import encoder as encoder_stage
from tasks.params import Quality

MIN_IMAGES = 4  # two halves of two: below that there is no floor


def run(
    name: str, curated_folder: Path, synthetic_folder: Path, encoder_folder: Path, out: Path, params: Quality
) -> dict[str, Any]:
    """Measure the synthetic set of the model `name` against the real train split, class by class."""
    real, synthetic = curated.load(curated_folder), curated.load(synthetic_folder)
    network, _ = encoder_stage.load(encoder_folder)
    train = real.where(split="train")
    with tracking.tracked(f"quality@{name}", params.model_dump(), real.digest) as tracked:
        result: dict[str, Any] = {
            "model": name,
            "ms_ssim_scales": ms_ssim_scales(real.images.shape[1]),
            "classes": {},
        }
        for label in sorted(set(synthetic.manifest["label"])):
            pair = train.where(label=label).images, synthetic.where(label=label).images
            if min(map(len, pair)) >= MIN_IMAGES:
                result["classes"][label] = measure(*pair, network, params)
        curated.write_json(out, result)
        tracked.metrics(result["classes"])
        tracked.artifact(out.name, out.read_bytes())
    return result


def measure(real: np.ndarray, synthetic: np.ndarray, network: Encoder, params: Quality) -> dict[str, Any]:
    """Measures of synthetic (M, H, W) against real (N, H, W) uint8 images of one class, N and M at least MIN_IMAGES.

    `frechet_xray` and its floor are medians over random halves of the real images, all at the same number of
    images: synthetic against a half, and the other half against it.
    """
    rng = np.random.default_rng(params.seed)
    features_real, features_synthetic = encode(network, real), encode(network, synthetic)
    n = min(len(real) // 2, len(synthetic))
    floors, distances = [], []
    for _ in range(params.repeats):
        order = rng.permutation(len(real))
        half, other = features_real[order[:n]], features_real[order[n : 2 * n]]
        floors.append(frechet_distance(half, other))
        distances.append(frechet_distance(half, features_synthetic[rng.permutation(len(synthetic))[:n]]))
    return {
        "images": {"real": len(real), "synthetic": len(synthetic), "compared": n},
        "frechet_xray": round(float(np.median(distances)), 4),
        "frechet_xray_floor": round(float(np.median(floors)), 4),
        "ms_ssim": _mean_with_error(ms_ssim_pairs(synthetic, params.pairs, params.seed)),
        "ms_ssim_real": _mean_with_error(ms_ssim_pairs(real, params.pairs, params.seed)),
    }


def _mean_with_error(values: np.ndarray) -> dict[str, float]:
    """Mean and its standard error."""
    return {
        "mean": round(float(values.mean()), 4),
        "standard_error": round(float(values.std() / len(values) ** 0.5), 4),
    }
