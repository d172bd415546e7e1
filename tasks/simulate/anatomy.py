"""Who is simulated and how the film is taken: anatomy, and the projection from the patient to the detector.

Coordinates are millimetres in the patient: x to the patient's left (right in the displayed film), y down from the
top of the lungs, z to the front. Sizes are those of adult anatomy texts, rounded; nothing is measured from patients.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]  # float32 wherever there is one number a pixel


@dataclass(frozen=True)
class Anatomy:
    """One patient; lengths in mm. The seeds draw the parts that are textures, the same in all films of a patient."""

    female: bool
    lung_height: float  # top of the lung to the right dome of the diaphragm, in good inspiration
    cage: float  # largest inner half-width of the rib cage
    depth: float  # largest inner half-depth of the rib cage
    wall: float  # muscle and fat over the ribs at the sides
    heart: float  # scale of the heart, 1 is usual
    heart_shift: float  # of the heart's centre to the left
    aorta: float  # how far the aortic knob bulges to the left
    dome_gap: float  # the left dome lies this much lower
    dome_bulge: float  # height of the domes above the costophrenic angle
    breast: float  # thickness of the breasts, 0 for none
    scoliosis: float  # lateral bow of the spine
    rib_drop: float  # how far a mid rib falls from back to front
    rib_bone: float  # mineral, 1 is usual
    lung_density: float  # of water
    vessels: float  # prominence of the lung vessels, 1 is usual
    gastric_air: float  # size of the air bubble, 0 for none
    texture_seed: int


@dataclass(frozen=True)
class Pose:
    """How one film was taken: positions in mm, angles in radians, `spacing` in mm a pixel in the patient's plane."""

    shape: tuple[int, int]  # rows, columns
    spacing: float
    shift: tuple[float, float]  # of the patient against the film's centre: x, y
    tilt: float  # in the plane of the film
    turn: float  # about the patient's long axis
    expiration: float  # the diaphragm is this much higher
    arms: float  # 0 at the sides, 1 held away
    anteroposterior: bool
    source_distance: float  # to the detector

    def grid(self) -> tuple[Array, Array]:
        """Patient x and y (rows, columns) that each pixel looks at, in the plane z = 0."""
        rows, cols = self.shape
        u = (np.arange(cols, dtype=np.float32) - (cols - 1) / 2) * np.float32(self.spacing)
        v = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * np.float32(self.spacing)
        c, s = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        x = c * u[None, :] + s * v[:, None] - np.float32(self.shift[0])
        y = -s * u[None, :] + c * v[:, None] - np.float32(self.shift[1])
        return x, y

    def project(self, points: Array) -> tuple[Array, Array]:
        """Pixel column and row of points (..., 3): turn, cone-beam magnification by depth, tilt, shift."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        x, z = c * x + s * z, c * z - s * x
        towards_source = z if self.anteroposterior else -z
        magnified = np.float32(1) + towards_source / np.float32(self.source_distance)
        x = x * magnified + np.float32(self.shift[0])
        y = (y - np.float32(110)) * magnified + np.float32(110 + self.shift[1])
        c, s = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        rows, cols = self.shape
        pixel = np.float32(1 / self.spacing)
        return (c * x - s * y) * pixel + (cols - 1) / 2, (s * x + c * y) * pixel + (rows - 1) / 2


def draw_anatomy(rng: np.random.Generator, female: bool) -> Anatomy:
    """A random adult; all parameters are independent of disease."""
    scale = float(np.clip(rng.normal(0.93 if female else 1.0, 0.05), 0.8, 1.13))
    stout = float(rng.beta(1.6, 2.4))
    slender = float(rng.normal(0, 1))
    breast = float(rng.uniform(12, 60)) if female and rng.random() < 0.85 else 0.0
    return Anatomy(
        female=female,
        lung_height=scale * (224 + 16 * slender - 26 * stout),
        cage=scale * (138 - 4.5 * slender + 6 * stout),
        depth=scale * (90 - 3 * slender + 12 * stout),
        wall=scale * (14 + 52 * stout),
        heart=float(np.clip(rng.lognormal(0.03, 0.14), 0.80, 1.45)),
        heart_shift=float(rng.normal(22, 5)),
        aorta=float(rng.uniform(3, 17)),
        dome_gap=float(rng.normal(11, 5)),
        dome_bulge=float(np.clip(rng.normal(38, 8), 20, 58)),
        breast=breast * (0.7 + 0.6 * stout),
        scoliosis=float(rng.normal(0, 4)),
        rib_drop=float(rng.normal(104, 12)),
        rib_bone=float(np.clip(rng.normal(1.0, 0.18), 0.55, 1.45)),
        lung_density=float(rng.uniform(0.20, 0.31)),
        vessels=float(rng.uniform(0.75, 1.3)),
        gastric_air=float(rng.uniform(0.5, 1.3)) if rng.random() < 0.6 else 0.0,
        texture_seed=int(rng.integers(2**62)),
    )


def draw_pose(rng: np.random.Generator, a: Anatomy, size: int) -> Pose:
    """A random positioning of this patient on a film whose shorter side has `size` pixels; sides are even."""
    wide = 2 * a.cage * float(rng.uniform(1.08, 1.42))
    tall = (a.lung_height + a.dome_bulge) * float(rng.uniform(1.15, 1.40)) + 20
    spacing = min(wide, tall) / size
    rows, cols = (2 * round(min(max(side / spacing, size), 1.25 * size) / 2 + 0.5) for side in (tall, wide))
    anteroposterior = bool(rng.random() < 0.15)  # at the bedside: shorter distance, shallower breath
    return Pose(
        shape=(rows, cols),
        spacing=spacing,
        shift=(float(rng.normal(0, 8)), -rows * spacing / 2 + float(rng.uniform(20, 58))),
        tilt=float(rng.normal(0, 0.028)),
        turn=float(rng.normal(0, 0.055)),
        expiration=abs(float(rng.normal(0, 13))) + (10 if anteroposterior else 0),
        arms=float(rng.uniform(0.1, 1)),
        anteroposterior=anteroposterior,
        source_distance=float(rng.choice([1000, 1150]) if anteroposterior else rng.choice([1500, 1800, 2000])),
    )
