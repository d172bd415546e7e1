"""Tubes and their line integrals, and the lung vessels, which are trees of tubes.

A tube is sampled along and across, each sample carries its volume, and the samples are added up in the pixels
they fall on: volume / pixel area is the mean line integral over the pixel. This is exact for any curve,
also where a rib runs along the beam and shows bright, and needs no inside test.
"""

import numpy as np

from tasks.simulate.anatomy import Anatomy, Array, Pose

_TRABECULAR = 0.24  # mineral of the spongy inside, of the cortex


Samples = tuple[Array, Array, Array]  # column, row (pixels) and volume (mm^3), flat


def splat(pose: Pose, samples: list[Samples]) -> Array:
    """Line integrals (rows, columns) in mm of samples that carry volumes."""
    rows, cols = pose.shape
    u, v, mass = (np.concatenate(part) for part in zip(*samples, strict=True))
    # one pixel of margin all round catches what falls outside; + 1.5 rounds and shifts by that pixel
    column = np.clip(u + 1.5, 0, cols + 1).astype(np.int32)
    row = np.clip(v + 1.5, 0, rows + 1).astype(np.int32)
    total = np.bincount(row * (cols + 2) + column, weights=mass, minlength=(rows + 2) * (cols + 2))
    return total.reshape(rows + 2, cols + 2)[1:-1, 1:-1].astype(np.float32) / np.float32(pose.spacing**2)


def unit(v: Array) -> Array:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-6)


def _phases(n: int) -> Array:
    """Low-discrepancy numbers in [0, 1): neighbouring slices are sampled at different places, or they would beat
    with the pixels."""
    return (np.arange(n, dtype=np.uint32) * np.uint32(2654435769)).astype(np.float32) * np.float32(2.0**-32)


def bone(
    pose: Pose,
    centre: Array,
    normal: Array,
    height: Array,
    thick: Array,
    cortex: float,
    step: float,
    share: Array,
) -> Samples:
    """Samples of hollow bones of elliptic section.

    centre, normal: (tubes, n, 3), the normal across the thin way; height, thick: (tubes, n) half-widths in mm;
    share: (tubes, n) of the mineral that is there.
    """
    along = np.gradient(centre, axis=1)
    length = np.linalg.norm(along, axis=-1)
    across = unit(np.cross(along, normal))
    count = max(int(2 * float(height.max()) / step), 6)
    phase = _phases(centre.shape[1])[:, None]
    w = ((np.arange(count, dtype=np.float32) + phase) / np.float32(count / 2) - 1)[None]
    h, b = height[..., None], thick[..., None]
    inner_h, inner_b = np.maximum(h - cortex, 0.1), np.maximum(b - cortex, 0.05)
    outer = b * np.sqrt(1 - w * w)
    inner = inner_b * np.sqrt(np.maximum(1 - (w * (h / inner_h)) ** 2, 0))
    inner *= np.float32(1 - _TRABECULAR)
    volumes = (outer - inner) * (height * length * share * np.float32(4 / count))[..., None]
    # scattered through the thickness: where a bone is seen edge-on its thickness must show
    v = (_phases(volumes.size).reshape(volumes.shape) * 2 - 1) * outer
    # a section is small against the distance to the source, so its projection is linear
    u0, v0 = pose.project(centre)
    (u1, v1), (u2, v2) = pose.project(centre + across * h), pose.project(centre + normal)
    columns = u0[..., None] + w * (u1 - u0)[..., None] + v * (u2 - u0)[..., None]
    rows = v0[..., None] + w * (v1 - v0)[..., None] + v * (v2 - v0)[..., None]
    return columns.ravel(), rows.ravel(), volumes.astype(np.float32).ravel()


def vessels(a: Anatomy, pose: Pose, rng: np.random.Generator) -> Array:
    """Path through the pulmonary vessels, two trees that branch from the hila; mm of soft tissue."""
    step = 0.8 * pose.spacing
    samples: list[Samples] = []
    for side in (-1.0, 1.0):
        roots = 15
        hilum = np.array(
            [side * (33 if side < 0 else 40), 0.50 * a.lung_height - (6 if side > 0 else 0), -4], np.float32
        )
        start = np.repeat(hilum[None], roots, 0) + rng.normal(0, [3, 9, 8], (roots, 3)).astype(np.float32)
        # fan from straight up to straight down, crowded towards the bases as gravity has it
        fan = -1.38 + 2.82 * np.linspace(0, 1, roots) ** 0.8 + rng.normal(0, 0.12, roots)
        heading = unit(np.stack([side * np.cos(fan), np.sin(fan), rng.normal(0, 0.55, roots)], -1).astype(np.float32))
        radius = np.interp(fan, [-1.4, 0, 0.5, 1.4], [2.6, 2.7, 3.8, 4.3]).astype(np.float32) * np.float32(a.vessels)
        reach = np.interp(fan, [-1.4, -0.6, 0.9, 1.4], [28, 33, 38, 42]).astype(np.float32) * np.float32(
            a.lung_height / 232
        )
        for generation in range(6):
            n = max(int(38 * 0.86**generation / step), 8)
            t = np.linspace(0, 1, n, dtype=np.float32)[None, :, None]
            bend = rng.normal(0, 0.20, heading.shape).astype(np.float32)
            run = reach[:, None, None] * (t * heading[:, None] + t * t * bend[:, None])
            centre = start[:, None] + run
            thin = radius[:, None] * (1 - 0.25 * t[..., 0])
            count = max(int(2 * float(radius.mean()) / step), 1)
            w = ((np.arange(count, dtype=np.float32) + 0.5) / count * 2 - 1)[None, None, :]
            shape = np.sqrt(1 - w * w)
            shape = shape / shape.mean()
            flat = unit(np.stack([-heading[:, 1], heading[:, 0], np.zeros_like(heading[:, 0])], -1))
            u0, v0 = pose.project(centre)
            u1, v1 = pose.project(centre + flat[:, None] * thin[..., None])
            columns = u0[..., None] + w * (u1 - u0)[..., None]
            rows = v0[..., None] + w * (v1 - v0)[..., None]
            volumes = (np.pi * thin**2 * (reach / n / count)[:, None])[..., None] * shape
            samples.append((columns.ravel(), rows.ravel(), volumes.ravel()))
            tip, onward = centre[:, -1], unit(heading + 2 * bend)
            turn = rng.normal(0, 1, (2, *heading.shape)).astype(np.float32)
            turn -= (turn * onward).sum(-1, keepdims=True) * onward
            turn = unit(turn) * rng.uniform([[[0.22]], [[0.35]]], [[[0.5]], [[0.85]]], (2, len(tip), 1)).astype(
                np.float32
            )
            start = np.concatenate([tip, tip])
            heading = unit(np.concatenate([onward + turn[0], onward + turn[1]]))
            radius = np.concatenate([radius * 0.84, radius * 0.66]).astype(np.float32)
            reach = np.concatenate([reach * 0.88, reach * 0.78]).astype(np.float32)
    path = splat(pose, samples)
    return 14 * np.tanh(path / 14)  # at the hila the tubes would pile up more than there is room for
