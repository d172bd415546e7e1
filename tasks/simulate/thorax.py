"""A parametric 3-D thorax and its line integrals: soft tissue by analytic chords, bone and vessels by tubes.

Coordinates are millimetres in the patient: x to the patient's left (right in the displayed film), y down from the
top of the lungs, z to the front. Every solid is a closed form of (x, y) that gives its extent along z, so a film
costs a few hundred array operations instead of a march through voxels. Sizes are those of adult anatomy texts,
rounded; nothing here is measured from patients.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from tasks.simulate.anatomy import Anatomy, Array, Pose


@dataclass(frozen=True)
class Cavity:
    """What the diseases need to know of the lungs on one film; arrays (rows, columns), mm."""

    x: Array
    y: Array
    hull: Array  # path from rib cage to rib cage
    air: Array  # path through lung
    half_width: Array  # of the cage at this height
    dome: Array  # y of the diaphragm's crest at this x


def cage_half_width(a: Anatomy, y: Array) -> Array:
    """Inner half-width of the cage at height y: narrow at the top, full at the diaphragm."""
    t = np.clip(y / np.float32(0.98 * a.lung_height), 0, 1)
    flare = 1 + 0.03 * np.clip(y / np.float32(a.lung_height) - 0.8, 0, 1)
    top = np.float32(0.42 * a.cage)
    return ((top + (a.cage - top) * (1 - (1 - t) ** 2.3) ** 0.66) * flare).astype(np.float32)


def cage_half_depth(a: Anatomy, y: Array) -> Array:
    """Inner half-depth of the cage at height y."""
    t = np.clip(y / np.float32(0.7 * a.lung_height), 0, 1)
    return (a.depth * (0.42 + 0.58 * (1 - (1 - t) ** 2) ** 0.8)).astype(np.float32)


def _root(x: Array) -> Array:
    return np.sqrt(np.maximum(x, 0))


def _soft_step(x: Array, width: float) -> Array:
    """0 to 1 around x = 0 over about four widths (mm)."""
    return 1 / (1 + np.exp(np.clip(-x / np.float32(width), -30, 30)))


def ellipsoid(
    x: Array, y: Array, centre: tuple[float, float], axes: tuple[float, float, float], angle: float = 0
) -> Array:
    """Chord along z of an ellipsoid with semi-axes (x, y, z), turned in the plane of the film; mm."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x - np.float32(centre[0]), y - np.float32(centre[1])
    p, q = (c * u + s * v) / np.float32(axes[0]), (c * v - s * u) / np.float32(axes[1])
    return 2 * np.float32(axes[2]) * _root(1 - p * p - q * q)


def capsule(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> Array:
    """Chord along z of a limb: a cone of round section from `start` to `end`; mm."""
    dx, dy = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    gap = (x - start[0] - t * dx) ** 2 + (y - start[1] - t * dy) ** 2
    return 2 * _root((np.float32(r0) + t * np.float32(r1 - r0)) ** 2 - gap)


def fractal(rng: np.random.Generator, pose: Pose, coarse: float, octaves: int, decay: float = 0.6) -> Array:
    """Smooth noise (rows, columns), about unit deviation, from `coarse` mm down by octaves."""
    rows, cols = pose.shape
    total, power = np.zeros(pose.shape, np.float32), 0.0
    for octave in range(octaves):
        cell = coarse / 2**octave / pose.spacing
        if cell < 2:
            break
        small = rng.standard_normal((int(rows / cell) + 4, int(cols / cell) + 4), dtype=np.float32)
        # the same crop of a slightly larger picture whatever the film's size: no seam at its edges
        big = cv2.resize(small, (int(small.shape[1] * cell), int(small.shape[0] * cell)), interpolation=cv2.INTER_CUBIC)
        total += np.float32(decay**octave) * big[:rows, :cols]
        power += decay ** (2 * octave)
    return total / np.float32(0.72 * np.sqrt(max(power, 1e-6)))


def body(a: Anatomy, pose: Pose, x: Array, y: Array) -> Array:
    """Path through the body from skin to skin, lungs counted as tissue; mm."""
    shoulder = np.float32(a.cage + a.wall + 18)
    flank = cage_half_width(a, np.maximum(y, 0.45 * np.float32(a.lung_height))) + np.float32(a.wall)
    neck = np.float32(50 + 0.4 * a.wall)
    slope = np.clip((y + 84) / 84, 0, 1)
    slope = slope * slope * (3 - 2 * slope)
    below = np.clip((y - 10) / np.float32(0.5 * a.lung_height), 0, 1)
    half = neck + (shoulder - neck) * slope
    half = half + (flank - half) * below
    thorax = a.depth + 15 + 0.45 * a.wall
    root = 62 + 0.3 * a.wall
    deep = root + (thorax - root) * np.clip((y + 45) / 120, 0, 1)
    across = np.minimum(np.abs(x) / half, 1)
    torso = 2 * deep * _root(1 - across ** (3.2 - 0.9 * below))
    neck_column = ellipsoid(x, np.zeros_like(x), (0, 0), (float(neck), 1e4, 64 + 0.3 * a.wall))
    whole = np.maximum(torso, np.where(y < 30, neck_column, 0))
    for side in (-1.0, 1.0):
        joint = (side * (a.cage + a.wall * 0.7 + 22), 28.0)
        elbow = (side * (a.cage + a.wall * 0.9 + 46 + 75 * pose.arms), 300.0)
        arm = capsule(x, y, joint, elbow, 42 + 0.35 * a.wall, 38 + 0.3 * a.wall)
        whole = np.maximum(whole, arm) + 0.35 * np.minimum(whole, arm)
    return whole


def breasts(a: Anatomy, pose: Pose, x: Array, y: Array) -> Array:
    """Added path through the breasts, with the crescent of their lower border; mm."""
    if not a.breast:
        return np.zeros_like(x)
    total = np.zeros_like(x)
    lift = a.depth * np.sin(pose.turn)
    for side in (-1.0, 1.0):
        centre = (side * 0.60 * a.cage + lift, 0.80 * a.lung_height)
        width = 0.40 * a.cage + 0.45 * a.breast
        upper = ellipsoid(x, y, centre, (width, 0.62 * width + 30, 0.5 * a.breast), side * -0.2)
        lower = ellipsoid(x, y, centre, (width, 0.5 * width + 0.2 * a.breast, 0.5 * a.breast), side * -0.2)
        total += np.where(y < centre[1], upper, lower)
    return total * (0.35 + total / (2.2 * a.breast))  # soft at the upper edge


def lungs(a: Anatomy, pose: Pose, x: Array, y: Array) -> Cavity:
    """Air-bearing lung: the cage, less what stands below the diaphragm, less heart and mediastinum."""
    a = replace(a, heart=a.heart * (1 + 0.0022 * pose.expiration) * (1.08 if pose.anteroposterior else 1.0))
    half, depth = cage_half_width(a, y), cage_half_depth(a, y)
    side = np.where(x < 0, np.float32(-1), np.float32(1))
    across = np.abs(x)
    surface = depth * _root(1 - np.minimum(across / half, 1) ** 2.6) ** 0.85
    top = np.float32(0.36 * a.cage)  # x of the lung's highest point
    inside_top = np.clip((top - across) / np.float32(0.30 * a.cage), 0, 2)
    below_top = np.clip((y - 26 * inside_top**2) / 38, 0, 1)
    surface = surface * _root(1 - (1 - below_top) ** 2)

    # the diaphragm: a dome in x that also falls away to the back (deep) and to the front (shallow)
    crest = np.float32(0.50 * a.cage)
    gap = np.where(side > 0, np.float32(a.dome_gap), np.float32(0))
    sideways = (across - crest) / np.where(across > crest, np.maximum(half - crest, 1), crest)
    fall = np.where(across > crest, np.float32(a.dome_bulge), np.float32(0.28 * a.dome_bulge))
    dome = np.float32(a.lung_height - pose.expiration) + gap + fall * np.abs(sideways) ** 2.2
    under = np.maximum(y - dome, 0)
    heart, centre = mediastinum(a, pose, x, y, surface)
    hull = 2 * surface
    behind = np.minimum(np.maximum(surface + 18 - 78 * np.sqrt(under / 62), 0), hull)
    before = np.minimum(np.maximum(surface - 18 - 78 * np.sqrt(under / 26), 0), hull)
    # what is left of the cage beside the heart, and below the crest the same share of the recesses
    crus = 1 - (1 - np.clip((across - 20) / 45, 0, 1)) * np.clip(under / 14, 0, 1)  # near the spine no recess
    low = (before + behind) * (1 - np.minimum(heart / (hull + 1), 1) * np.exp(-under / 45)) * crus
    air = np.where(under > 0, low, hull - heart)
    return Cavity(x, y, hull, np.maximum(air, 0) * (1 - centre), half, dome)


def mediastinum(a: Anatomy, pose: Pose, x: Array, y: Array, surface: Array) -> tuple[Array, Array]:
    """Path through the heart and great vessels, mm, and the share (0 to 1) of tissue before the spine.

    At each height one oval between a left and a right border, the borders as a reader would trace them.
    """
    base = a.lung_height - pose.expiration
    k = a.heart * a.cage / 138
    rows = np.linspace(-200, 500, 1401, dtype=np.float32)  # the borders are functions of y alone: half a mm apart
    up = (base - rows) / np.float32(k)  # above the diaphragm
    knob = np.exp(-(((rows - 0.34 * a.lung_height) / 15) ** 2))
    trunk = np.exp(-(((rows - 0.50 * a.lung_height) / 17) ** 2))
    ventricle = np.interp(up, [-60, -12, 6, 25, 50, 80, 105, 140], [30, 52, 58, 55, 44, 26, 13, 0])
    left = 19 + 6 * np.clip((20 - rows) / 60, 0, 1) + a.aorta * knob + (6 + 0.2 * a.aorta) * trunk + k * ventricle
    left = left + (a.heart_shift - 22) * np.clip((130 - up) / 60, 0, 1)
    atrium = np.interp(up, [-60, -10, 12, 45, 75, 100, 120], [3, 10, 16, 21, 14, 4, 0])
    right = 21 + 3 * np.clip((20 - rows) / 60, 0, 1) + 2 * np.sin(rows / 26) + k * atrium
    left, right = (cv2.GaussianBlur(b.astype(np.float32)[None], (0, 0), 8)[0] for b in (left, right))
    thick = np.interp(up, [-30, 0, 45, 100, 150], [62, 66, 64, 56, 62])
    # the heart lies in front of the spine, so a turn of the patient moves it
    ahead = np.interp(up, [0, 100, 160], [32, 26, 8]) * np.sin(pose.turn)
    middle, half = (left - right) / 2 + ahead, (left + right) / 2
    middle, half, thick = (np.interp(y, rows, c).astype(np.float32) for c in (middle, half, thick))
    oval = 2 * thick * k * _root(1 - ((x - middle) / half) ** 2) ** 0.72
    edge = 17 + 6 * np.clip((40 - y) / 60, 0, 1)
    return oval, _soft_step(edge - np.abs(x - ahead.mean()), 4.5)


def gases(a: Anatomy, pose: Pose, x: Array, y: Array) -> Array:
    """Path through air outside the lungs: trachea, main bronchi, stomach; mm."""
    carina = 0.40 * a.lung_height
    top_x = 2.0 + 10 * np.sin(pose.turn)
    windpipe = capsule(x, y, (top_x, -160.0), (-3.0, carina), 8.5, 8.0)
    to_right = capsule(x, y, (-3.0, carina), (-27.0, carina + 30), 7.0, 5.5)
    to_left = capsule(x, y, (-3.0, carina), (36.0, carina + 34), 6.5, 5.0)
    total = np.maximum(windpipe, np.maximum(to_right, to_left) * 0.3)
    if a.gastric_air:
        g = a.gastric_air
        rng = np.random.default_rng([a.texture_seed, 5])
        y0 = a.lung_height - pose.expiration + a.dome_gap
        centre = (a.cage * float(rng.uniform(0.34, 0.5)), y0 + 20 + 16 * g)
        axes = (float(rng.uniform(18, 40)) * g, float(rng.uniform(12, 24)) * g, float(rng.uniform(8, 20)) * g)
        bubble = ellipsoid(x, y, centre, axes, float(rng.uniform(-0.6, 0.3)))
        # standing, the stomach's air ends in a level
        level = centre[1] + axes[1] * float(rng.uniform(0.1, 0.9))
        total = total + bubble * _soft_step(level - y, 1.5)
    return total
