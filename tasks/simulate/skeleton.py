"""The bones of the thorax: ribs, clavicles, humeri and shoulder blades, spine."""

import cv2
import numpy as np
from scipy.interpolate import CubicSpline

from tasks.simulate.anatomy import Anatomy, Array, Pose
from tasks.simulate.thorax import cage_half_depth, cage_half_width, ellipsoid
from tasks.simulate.tubes import Samples, bone, unit


def vertebra_tops(a: Anatomy) -> Array:
    """y of the upper end of T1 and the vertebrae below it, mm (19,)."""
    heights = np.linspace(17.0, 29.0, 19) * a.lung_height / 232
    return (np.concatenate([[0], np.cumsum(heights)[:-1]]) - 16).astype(np.float32)


def ribs(a: Anatomy, pose: Pose, rng: np.random.Generator) -> Samples:
    """Samples of eleven pairs of ribs, back to front."""
    step = 0.85 * pose.spacing
    n = int(330 / step)
    tops = vertebra_tops(a)[:11]
    index = np.arange(11, dtype=np.float32)
    # the first ribs are flat and short, the last float: they end at the side
    end = np.interp(index, [0, 1, 6, 8, 9, 10], [2.5, 2.4, 2.28, 2.1, 1.9, 1.6]).astype(np.float32)
    drop = a.rib_drop * np.interp(index, [0, 1, 3, 7, 10], [0.42, 0.66, 0.92, 1.08, 1.0]).astype(np.float32)
    centres, normals = [], []
    for side in (-1.0, 1.0):
        theta = np.linspace(0.05, 1, n, dtype=np.float32)[None, :] * end[:, None]
        wobble = rng.normal(0, 1.2, (11, 1)).astype(np.float32)
        fall = (1 - np.cos(theta)) / 2
        y = tops[:, None] + 7 + wobble + drop[:, None] * fall - 7 * np.exp(-(((theta - 0.5) / 0.3) ** 2))
        # the cartilage rises again in front; only the bony end is drawn, so the curve just flattens
        half, deep = cage_half_width(a, np.maximum(y, 2)) + 3, cage_half_depth(a, np.maximum(y, 2)) + 3
        x = side * half * np.sin(theta) ** 0.86
        z = -deep * np.cos(theta)
        centres.append(np.stack([x, y, z], -1))
        normals.append(unit(np.stack([x / half**2, np.zeros_like(x), z / deep**2], -1)))
    centre, normal = np.concatenate(centres), np.concatenate(normals)
    taper = 0.86 + 0.22 * np.linspace(0, 1, n, dtype=np.float32)[None, :]
    height = np.tile((np.interp(index, [0, 1, 5, 10], [8, 7.2, 7.0, 5.6]) * a.cage / 138)[:, None] * taper, (2, 1))
    t = np.linspace(0, 1, n)
    fade = np.clip((1 - t) / 0.22, 0, 1) * np.clip(t / 0.06, 0.2, 1) * (1 - 0.3 * t)  # the front ends in cartilage
    fade = fade * (0.72 + 0.28 * np.clip(t / 0.3, 0, 1))  # slender at the neck
    # where a rib runs along the beam muscle and fat even out what the eye sees; less of it is drawn there
    edge_on = 1 - 0.78 * np.abs(np.sin(np.linspace(0.05, 1, n) * end.mean())) ** 8
    upper = np.tile(np.interp(index, [0, 1, 2], [0.5, 0.75, 1]), 2)
    share = (1.9 * a.rib_bone * upper[:, None] * fade * edge_on).astype(np.float32)
    height = height.astype(np.float32)
    return bone(pose, centre, normal, height, 0.52 * height, 0.95, step, share)


def _curve(knots: list[tuple[float, float, float]], n: int) -> Array:
    """A smooth curve (1, n, 3) through 3-D knots."""
    k = np.asarray(knots, np.float32)
    t = np.linspace(0, len(k) - 1, n)
    return CubicSpline(np.arange(len(k)), k)(t).astype(np.float32)[None]


def shoulders(a: Anatomy, pose: Pose, rng: np.random.Generator) -> list[Samples]:
    """Samples of clavicles, humeri and the borders of the scapulae."""
    parts: list[Samples] = []
    step = 0.6 * pose.spacing
    wide = a.cage
    lift = -4.0 if pose.anteroposterior else 8.0
    for s in (-1.0, 1.0):
        up = lift + float(rng.normal(0, 3))
        tip = wide + a.wall * 0.5 + 10
        joint_x, joint_y = wide + a.wall * 0.7 + 20, 30.0
        clavicle = [
            (s * 13, 32 + up, 70.0),
            (s * 0.33 * wide, 23 + up, 66.0),
            (s * 0.72 * wide, 4 + up * 0.7, 25.0),
            (s * tip, 2 + up * 0.3, 5.0),
        ]
        humerus = [
            (s * joint_x, joint_y, 0.0),
            (s * (joint_x + 8 + 26 * pose.arms), 140.0, 0.0),
            (s * (joint_x + 20 + 64 * pose.arms), 290.0, 0.0),
        ]
        inner, low, outer, glenoid = _scapula(a, pose, s)
        acromion = [(s * 0.95 * wide, 18.0, -75.0), (s * (joint_x - 6), 2.0, -25.0)]
        # knots, half-width, half-thickness, cortex, widening of the ends, length over which they fade; mm
        for knots, height, thick, cortex, widening, fading in (
            (clavicle, 5.6, 5.0, 1.8, 0.28, 14.0),
            (humerus, 11.5, 11.0, 3.4, 0.55, 30.0),
            ([inner, (inner[0] * 1.03, 90.0, -98.0), low], 1.6, 2.4, 1.0, 0.0, 9.0),
            ([low, outer, glenoid], 4.2, 3.0, 0.9, 0.0, 9.0),
            ([inner, *acromion], 4.5, 2.6, 0.8, 0.0, 9.0),
        ):
            run = float(np.linalg.norm(np.diff(np.asarray(knots), axis=0), axis=1).sum())
            n = int(run / step)
            centre = _curve(knots, n)
            normal = np.zeros_like(centre)
            normal[..., 2] = 1
            t = np.linspace(0, 1, n, dtype=np.float32)[None]
            wider = 1 + widening * (np.exp(-t / 0.12) + np.exp(-(1 - t) / 0.12))
            share = np.clip(np.minimum(t, 1 - t) * run / fading, 0, 1) * np.float32(a.rib_bone)
            parts.append(bone(pose, centre, normal, height * wider, thick * np.ones_like(t), cortex, step, share))
    return parts


def _scapula(a: Anatomy, pose: Pose, side: float) -> list[tuple[float, float, float]]:
    """Inner upper, lower, outer corner and the socket of one shoulder blade, which swings out with the arm; mm."""
    out = side * a.cage * (0.90 if pose.anteroposterior else 1.02 + 0.08 * pose.arms)
    socket = side * (a.cage + a.wall * 0.7 - 2)
    low = 150.0 + 10 * pose.arms
    return [
        (0.62 * out, 40.0, -88.0),
        (0.80 * out, low, -95.0),
        (0.93 * out, 95.0, -80.0),
        (socket, 42.0, -40.0),
    ]


def blades(a: Anatomy, pose: Pose, x: Array, y: Array) -> Array:
    """Path through the flat of the scapulae and the heads of the humeri; mm of cortex."""
    flat = np.zeros(pose.shape, np.float32)
    joint_x = a.cage + a.wall * 0.7 + 20
    for s in (-1.0, 1.0):
        corners = [*_scapula(a, pose, s), (s * 0.9 * a.cage, 14.0, -70.0)]
        u, v = pose.project(np.asarray(corners, np.float32))
        cv2.fillPoly(flat, [np.stack([u, v], -1).round().astype(np.int32)], 1.4)
    mask = cv2.GaussianBlur(flat, (0, 0), 2.0 / pose.spacing).astype(np.float32)
    for s in (-1.0, 1.0):
        head = ellipsoid(x, y, (s * (joint_x - 2), 30.0), (23, 25, 22))
        socket = ellipsoid(x, y, (s * (joint_x - 28), 22.0), (11, 15, 18))
        mask += (0.17 * head + 1.3 * np.clip(head / 16, 0, 1) + 0.10 * socket).astype(np.float32)
    return mask * np.float32(a.rib_bone)


def spine(a: Anatomy, pose: Pose, x: Array, y: Array) -> Array:
    """Path through the vertebrae: bodies with bright end plates, pedicles, spinous and transverse processes; mm."""
    columns = np.flatnonzero((np.abs(x) < 62).any(axis=0))
    path = np.zeros_like(x)
    if not len(columns):
        return path
    near = slice(int(columns[0]), int(columns[-1]) + 1)
    x, y = x[:, near], y[:, near]
    turn = np.float32(np.sin(pose.turn))
    u = x - (a.scoliosis * np.sin((y + 20) / np.float32(a.lung_height / 3)) - turn * 45)
    tops = vertebra_tops(a)
    starts = np.concatenate([tops[0] - np.arange(6, 0, -1, dtype=np.float32) * 16, tops])
    level = np.interp(y, starts, np.arange(len(starts))).astype(np.float32)
    f = level - np.floor(level)  # 0 to 1 down one vertebra
    wide = np.interp(y, [-80, 0, 100, 260], [12.0, 15.0, 15.0, 20.0]).astype(np.float32)
    waist = wide * (1 - 0.45 * f * (1 - f))
    disc = np.clip((np.minimum(f, 1 - f) - 0.05) / 0.10, 0, 1)
    bodies = np.maximum(1 - (u / waist) ** 2, 0) ** 0.35 * (2.6 + 2.2 * disc)
    plates = 0.7 * np.exp(-(((np.abs(f - 0.5) - 0.36) / 0.06) ** 2)) * np.clip((waist - np.abs(u)) / 2, 0, 1)
    pedicles = 1.7 * np.exp(-((((np.abs(u) - 0.62 * wide) / 3.4) ** 2 + ((f - 0.36) / 0.18) ** 2) ** 2))
    process = 1.9 * np.exp(-(((u + turn * 20) / 3.2) ** 4) - ((f - 0.75) / 0.24) ** 4)
    wings = 0.8 * np.exp(-(((f - 0.36) / 0.22) ** 4)) * np.clip((32 - np.abs(u)) / 16, 0, 1)
    path[:, near] = (bodies + plates + pedicles + process + wings) * np.float32(a.rib_bone)
    return path
