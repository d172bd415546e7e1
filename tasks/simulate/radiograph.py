"""From a thorax to the picture a digital detector delivers: Beer-Lambert, scatter, blur, noise, presentation."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.simulate import skeleton, thorax, tubes
from tasks.simulate.anatomy import Anatomy, Array, Pose
from tasks.simulate.disease import Both, Label, fluid

MAX_VALUE = 4095  # 12 bits


@dataclass(frozen=True)
class Exposure:
    """One shot and how the device works it up; independent of the patient's disease."""

    kvp: float
    photons: float  # a pixel, unattenuated
    scatter: float  # share of the local mean primary that arrives as scatter, after the grid
    blur: float  # focus and detector, mm
    detail: float  # gain of structures against large areas
    brightness: float  # where the lungs come to lie
    contrast: float
    margins: tuple[float, float, float, float]  # collimated away at left, top, right, bottom, mm
    skew: float  # of the collimator, radians
    marker: str  # lead letter, "" for none
    noise_seed: int


def path_lengths(
    a: Anatomy, pose: Pose, label: Label | Both, illness: int = 0, severity: float = 1.0
) -> tuple[Array, Array]:
    """Line integrals (rows, columns) in mm: of soft tissue of water's density, and of cortical bone.

    The same anatomy, pose and illness seed under another label gives the same patient with another disease.
    """
    rows, cols = pose.shape
    # soft organs have no edge sharper than two pixels: half the resolution is enough for them
    half = replace(pose, shape=((rows + 1) // 2, (cols + 1) // 2), spacing=2 * pose.spacing)
    tissue, air, share, flat = (
        cv2.resize(cv2.GaussianBlur(layer, (0, 0), 0.6), (cols, rows), interpolation=cv2.INTER_CUBIC)
        for layer in _soft_parts(a, half, label, illness, severity)
    )
    tree = tubes.vessels(a, pose, np.random.default_rng([a.texture_seed, 1]))
    soft = tissue - (1 - a.lung_density) * air + 1.0 * tree * share
    rng = np.random.default_rng([a.texture_seed, 4])
    parts = [skeleton.ribs(a, pose, rng), *skeleton.shoulders(a, pose, rng)]
    bone = flat + cv2.GaussianBlur(tubes.splat(pose, parts), (0, 0), 0.6)
    return np.maximum(soft, 0), bone * np.clip(tissue / 60, 0, 1)


def _soft_parts(
    a: Anatomy, pose: Pose, label: Label | Both, illness: int, severity: float
) -> tuple[Array, Array, Array, Array]:
    """Paths through tissue and the lungs' air, the share of the vessels that air outlines, and the broad bones; mm."""
    x, y = pose.grid()
    flat = skeleton.spine(a, pose, x, y) + skeleton.blades(a, pose, x, y)
    # no organ is an ellipse: bend the space the soft parts are drawn in
    bends = np.random.default_rng([a.texture_seed, 6])
    x = x + 2.2 * thorax.fractal(bends, pose, 110, 3)
    y = y + 2.2 * thorax.fractal(bends, pose, 110, 3)
    lungs = thorax.lungs(a, pose, x, y)
    air = lungs.air - fluid(label, a, pose, lungs, illness, severity)
    share = np.clip((lungs.air / (lungs.hull + 1) - 0.2) / 0.4, 0.25, 1) * np.clip(air / (lungs.air + 1), 0, 1)
    # small vessels and septa that no tree resolves
    grain = thorax.fractal(np.random.default_rng([a.texture_seed, 2]), pose, 12, 4, 0.8)
    muscle = thorax.fractal(np.random.default_rng([a.texture_seed, 3]), pose, 70, 5, 0.55)
    tissue = thorax.body(a, pose, x, y)
    inside = np.clip(tissue / 60, 0, 1)
    tissue = tissue + inside * (thorax.breasts(a, pose, x, y) + 1.8 * muscle - 0.95 * thorax.gases(a, pose, x, y))
    tissue = tissue + (0.010 * a.vessels) * air * grain
    return (
        tissue.astype(np.float32),
        air.astype(np.float32),
        share.astype(np.float32),
        flat.astype(np.float32),
    )


def render(
    a: Anatomy, pose: Pose, shot: Exposure, label: Label | Both, illness: int = 0, severity: float = 1.0
) -> NDArray[np.uint16]:
    """One film for presentation, (rows, columns), 0 to 4095, more attenuation is brighter."""
    return present(expose(*path_lengths(a, pose, label, illness, severity), pose, shot), pose, shot)


def _large(image: Array, sigma: float) -> Array:
    """Gaussian blur of many pixels, done on a small copy."""
    factor = max(int(sigma / 3), 1)
    rows, cols = image.shape
    small = cv2.resize(image, (max(cols // factor, 4), max(rows // factor, 4)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (cols, rows), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def expose(soft: Array, bone: Array, pose: Pose, shot: Exposure) -> Array:
    """Photons counted a pixel, (rows, columns). Attenuation falls with kVp; noise is Poisson's."""
    relative = (100 / shot.kvp) ** 0.35
    attenuation = 0.0186 * relative * soft + 0.036 * relative**2.2 * bone
    primary = np.exp(-attenuation)
    primary = cv2.GaussianBlur(primary, (0, 0), shot.blur / pose.spacing)
    arriving = primary + shot.scatter * _large(np.minimum(primary, 0.5), 28 / pose.spacing)
    counts = np.maximum(arriving * np.float32(shot.photons), 1)
    # a Poisson count of this many photons is a normal one
    noise = np.random.default_rng(shot.noise_seed).standard_normal(counts.shape, dtype=np.float32)
    return np.maximum(counts + np.sqrt(counts) * noise, 1).astype(np.float32)


def present(counts: Array, pose: Pose, shot: Exposure) -> NDArray[np.uint16]:
    """The picture FOR PRESENTATION, (rows, columns), 0 to 4095, more attenuation is brighter.

    Logarithm, gain of detail against large areas, a range set by the exposed body, and an S-shaped curve.
    """
    density = np.log(np.float32(shot.photons)) - np.log(counts)
    density = np.maximum(density, -0.05)
    body = density > 0.55
    large = _large(np.clip(density, 0.6, None), 22 / pose.spacing)
    middle = _large(density, 4.0 / pose.spacing)
    held = np.clip(density - large, -0.9, 0.9)
    worked = large + shot.detail * held + 0.35 * shot.detail * np.clip(density - middle, -0.35, 0.35)
    inner = worked[pose.shape[0] // 8 : -pose.shape[0] // 8, pose.shape[1] // 8 : -pose.shape[1] // 8]
    seen = inner[body[pose.shape[0] // 8 : -pose.shape[0] // 8, pose.shape[1] // 8 : -pose.shape[1] // 8]]
    low, high = np.percentile(seen[::7], [3, 99.3]) if seen.size > 1000 else (0.6, 4.0)
    level = (worked - low) / (high - low)
    value = 1 / (1 + np.exp(np.clip(-shot.contrast * (level - shot.brightness), -30, 30)))
    zero, one = (
        1 / (1 + np.exp(shot.contrast * (0.28 + shot.brightness))),
        1 / (1 + np.exp(-shot.contrast * (1.1 - shot.brightness))),
    )
    value = (value - zero) / (one - zero) * np.clip((density - 0.02) / 0.5, 0, 1)
    value = np.clip(_lead(value, pose, shot), 0, 1) * _collimator(pose, shot)
    return np.rint(40 + value * (MAX_VALUE - 95)).astype(np.uint16)


def _lead(value: Array, pose: Pose, shot: Exposure) -> Array:
    """A lead letter in the upper corner: L on the patient's left, R on the right."""
    if not shot.marker:
        return value
    rows, cols = pose.shape
    stamp = np.zeros(pose.shape, np.uint8)
    at = (int(cols * (0.89 if shot.marker == "L" else 0.06)), int(rows * 0.13))
    cv2.putText(
        stamp,
        shot.marker,
        at,
        cv2.FONT_HERSHEY_SIMPLEX,
        16 / pose.spacing / 22,
        255,
        max(round(2.2 / pose.spacing), 1),
        cv2.LINE_AA,
    )
    return np.maximum(value, stamp.astype(np.float32) * np.float32(0.97 / 255))


def _collimator(pose: Pose, shot: Exposure) -> Array:
    """1 in the open field, 0 behind the blades (the device blackens them), with a soft edge."""
    rows, cols = pose.shape
    if not any(shot.margins):
        return np.ones(pose.shape, np.float32)
    left, top, right, bottom = (m / pose.spacing for m in shot.margins)
    u, v = np.arange(cols, dtype=np.float32)[None, :], np.arange(rows, dtype=np.float32)[:, None]
    lean = np.float32(np.tan(shot.skew))
    across, down = u + lean * (v - rows / 2), v - lean * (u - cols / 2)
    edges = (across - left, down - top, cols - 1 - right - across, rows - 1 - bottom - down)
    open_field = np.ones(pose.shape, np.float32)
    for margin, distance in zip((left, top, right, bottom), edges, strict=True):
        if margin:
            open_field *= np.clip(distance + 0.5, 0, 1)
    return open_field


def draw_exposure(rng: np.random.Generator, pose: Pose) -> Exposure:
    """A random shot; a bedside film has a softer beam, more scatter and no grid."""
    bedside = pose.anteroposterior
    margins = rng.uniform(0, 16, 4) * (rng.random(4) < 0.6) if rng.random() < 0.3 else np.zeros(4)
    left, top, right, bottom = (float(m) for m in margins)
    return Exposure(
        kvp=float(round(rng.uniform(78, 100) if bedside else rng.uniform(105, 130))),
        photons=float(np.exp(rng.uniform(np.log(2.5e4), np.log(1.2e5)))),
        scatter=float(rng.uniform(0.10, 0.20) if bedside else rng.uniform(0.05, 0.12)),
        blur=float(rng.uniform(0.3, 0.75)),
        detail=float(rng.uniform(1.3, 2.3)),
        brightness=float(rng.uniform(0.22, 0.58)),
        contrast=float(rng.uniform(1.7, 4.2)),
        margins=(left, top, right, bottom),
        skew=float(rng.normal(0, 0.008)),
        marker=str(rng.choice(["L", "R", ""], p=[0.45, 0.40, 0.15])),
        noise_seed=int(rng.integers(2**62)),
    )
