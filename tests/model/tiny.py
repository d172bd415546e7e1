"""Networks, settings and films small enough for a test that trains."""

import numpy as np

from model.gan.networks import NetworkConfig
from model.training.config import TrainConfig

TINY = NetworkConfig(resolution=8, width=8, latent_dim=8)
# In fp32, whatever the machine has: a test that looks at bf16 says so.
SHORT = TrainConfig(kimg=0.08, batch=8, tick_kimg=0.04, device="cpu", precision="fp32")


def films(count: int, mean: float = 60, side: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(mean, 10, (count, side, side)).clip(0, 255).astype(np.uint8)


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)
