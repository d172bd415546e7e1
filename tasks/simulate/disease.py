"""The two diseases of the simulator, as fluid that takes the place of air in the lungs."""

from typing import Literal, get_args

import numpy as np

from tasks.simulate.anatomy import Anatomy, Array, Pose
from tasks.simulate.thorax import Cavity, fractal

Label = Literal["normal", "pneumonia", "effusion"]
Both = Literal["effusion|pneumonia"]  # as a table of labels writes two findings of a film
LABELS: tuple[Label, ...] = get_args(Label)
BOTH: Both = "effusion|pneumonia"


def fluid(label: Label | Both, a: Anatomy, pose: Pose, lungs: Cavity, seed: int, severity: float = 1.0) -> Array:
    """Path through fluid that replaces air, (rows, columns) in mm, nowhere more than the air there.

    The seed draws place and extent, so that two films of one illness show the same; severity scales it. Of both each
    is drawn as it would be alone, and takes its share of the air that the other leaves.
    """
    if label == BOTH:
        one, other = (fluid(part, a, pose, lungs, seed, severity) for part in ("pneumonia", "effusion"))
        return lungs.air - (lungs.air - one) * (lungs.air - other) / np.maximum(lungs.air, np.float32(1e-6))
    rng = np.random.default_rng(seed)
    if label == "pneumonia":
        return _consolidation(a, pose, lungs, rng, severity)
    if label == "effusion":
        return _effusion(a, pose, lungs, rng, severity)
    return np.zeros_like(lungs.air)


def _consolidation(a: Anatomy, pose: Pose, lungs: Cavity, rng: np.random.Generator, severity: float) -> Array:
    """Patches of filled airspace: one lobe with a fissure for a border, or several loose, mottled ones."""
    lobar = rng.random() < 0.45
    patches = int(rng.integers(1, 3)) if lobar else int(rng.integers(2, 5))
    strength = severity * float(rng.uniform(0.30, 0.80) if lobar else rng.uniform(0.26, 0.66))
    main_side = 1.0 if rng.random() < 0.45 else -1.0
    warp = fractal(np.random.default_rng([a.texture_seed, 11]), pose, 60, 4)
    mottle = fractal(np.random.default_rng([a.texture_seed, 12]), pose, 38, 4, 0.62)
    clear = np.ones_like(lungs.air)
    for k in range(patches):
        side = main_side if k == 0 or rng.random() < 0.55 else -main_side
        down = float(rng.beta(2.6, 1.7)) * 0.80 + 0.12
        cy = down * (a.lung_height - pose.expiration)
        cx = side * a.cage * float(rng.uniform(0.38, 0.72)) * (0.72 + 0.28 * min(down / 0.6, 1))
        size = float(rng.uniform(34, 58) if lobar and k == 0 else rng.uniform(16, 34))
        squeeze = float(rng.uniform(0.75, 1.15))
        r2 = ((lungs.x - cx) / (size / squeeze)) ** 2 + ((lungs.y - cy) / (size * squeeze)) ** 2
        # the noise moves the border, so no patch is an ellipse
        patch = 1 / (1 + np.exp(np.clip((np.sqrt(r2) + 0.30 * warp - 0.9) / 0.24, -30, 30)))
        if lobar and k == 0 and rng.random() < 0.7:
            slope = side * float(rng.normal(0.05, 0.12))
            border = (lungs.y - cy - slope * (lungs.x - cx)) * (1 if rng.random() < 0.5 else -1) - 0.35 * size
            patch = patch / (1 + np.exp(np.clip(border / 1.6, -30, 30)))
        patch = patch * np.clip((0.82 if lobar else 0.62) + (0.16 if lobar else 0.27) * mottle, 0.05, 1.1)
        clear = clear * (1 - np.clip(strength * (1.0 if k == 0 else 0.8) * patch, 0, 0.92))
    return lungs.air * (1 - clear)


def _effusion(a: Anatomy, pose: Pose, lungs: Cavity, rng: np.random.Generator, severity: float) -> Array:
    """Fluid in the pleural space: it blunts the costophrenic angle and climbs the chest wall in a meniscus."""
    main_side = 1.0 if rng.random() < 0.45 else -1.0
    both = rng.random() < 0.2
    total = np.zeros_like(lungs.air)
    waves = 2.0 * fractal(np.random.default_rng([a.texture_seed, 13]), pose, 50, 3)
    for side in (main_side, -main_side) if both else (main_side,):
        amount = severity * float(rng.beta(1.5, 2.6)) * (1.0 if side == main_side else 0.5)
        gap = a.dome_gap if side > 0 else 0.0
        angle = a.lung_height - pose.expiration + gap + 0.92 * a.dome_bulge
        level = angle - 6 - 130 * amount
        rise = float(rng.uniform(20, 36)) + 22 * amount
        reach = float(rng.uniform(12, 20))
        from_wall = np.maximum(lungs.half_width - side * lungs.x, 0)
        top = level - rise * np.exp(-from_wall / np.float32(reach)) + 10 * np.exp(-(((from_wall - 45) / 30) ** 2))
        filled = 1 / (1 + np.exp(np.clip((top - lungs.y + waves) / np.float32(3.2), -30, 30)))
        # the lung just above floats and is less aerated
        haze = 0.28 / (1 + np.exp(np.clip((top - 22 - lungs.y) / np.float32(9), -30, 30)))
        here = side * lungs.x > 0
        total += np.where(here, np.maximum(filled * 0.95, haze), 0).astype(np.float32)
    return lungs.air * total
