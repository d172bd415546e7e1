"""Stage `quality`: are the synthetic images of a class as near to the real ones, and as varied, as real ones are?

Every measure stands beside its floor, the same number for real images, and beside its damaged controls: the same
for real images that were blurred or made noisy, much or slightly, or have a faint grid over them, and for one image
repeated. A value beyond those says nothing good.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model.measures.encoder import Encoder, encode
from model.measures.inception import Inception
from model.measures.manifold import kid, manifold
from model.measures.similarity import (
    balanced_pairs,
    frechet_distance,
    mean_of_pairs,
    ms_ssim_pairs,
    ms_ssim_scales,
    near_duplicates_above,
)
from model.measures.spectrum import excess_power, frequencies, grid_peaks, grid_power, radial_power
from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json
from tasks.params import Quality
from tasks.quality import encoder as encoder_stage
from tasks.quality import inception
from tasks.quality.controls import DAMAGE, ONE_IMAGE
from tasks.quality.two_sample import TOLD_BY, Range, Sets, told_apart
from tasks.tracking import runs

MIN_IMAGES = 4  # two halves of two: below that there is no floor
SAME = 0.98  # MS-SSIM of two real films that are one: what near-duplicates are is not learnt from them
BETTER = {  # density above that of real images crowds around few of them; MS-SSIM above it has lost variety
    **dict.fromkeys(("frechet_xray", "kid_xray", "fid", "kid"), "low"),
    **dict.fromkeys(("precision", "recall", "coverage"), "high"),
    **dict.fromkeys(("density", "ms_ssim"), "floor"),
    **{"near_duplicates": "low", "two_sample_auroc": "low", "excess_power": "floor", "grid_power": "low"},
}
INTERVALS = (
    "Of the MS-SSIM of pairs and of near-duplicates: 95 %, over the images, whose pairs share them. Of the two-sample "
    "AUROC: 95 %, over the patients, for the networks as they were trained. Of the others no confidence interval, but "
    "the lowest and the highest value over {repeats} random divisions of the real images into halves."
)
Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # of features (N, D) real and (N, D) others
Extractor = Callable[[np.ndarray], np.ndarray]  # images (N, H, W) to features (N, D)


@dataclass(frozen=True)
class Pairs:
    """MS-SSIM of pairs of images, values (P,), and which images they are, index (P, 2)."""

    values: np.ndarray
    index: np.ndarray

    def mean(self) -> Range:
        """Low is varied. It does not depend on how many images there are."""
        return mean_of_pairs(self.values, self.index)

    def most_alike(self) -> dict[str, Any]:
        """The pair that a reader should see: its `images`, as places among all of them, and its `ms_ssim`."""
        worst = int(self.values.argmax())
        return {"images": [int(k) for k in self.index[worst]], "ms_ssim": _short(self.values[worst])}

    def near_duplicates(self, limit: float) -> Range:
        """The share of pairs above it."""
        return mean_of_pairs((self.values > limit).astype(float), self.index)


def run(
    name: str, curated_folder: Path, synthetic_folder: Path, encoder_folder: Path, out: Path, params: Quality
) -> dict[str, Any]:
    """Measure the synthetic set of the model `name` against the real train split, class by class."""
    real, synthetic = image_set.load(curated_folder), image_set.load(synthetic_folder)
    network, learnt_from = encoder_stage.load(encoder_folder)
    if learnt_from != real.digest:
        raise UserError(f"{encoder_folder} holds an encoder of other films; make it again with `xraysynth encoder`")
    published, words = inception.load(params.inception_weights)
    train = real.where(split="train")
    pooled: dict[str, Sets] = {}
    with runs.tracked(f"quality@{name}", params.model_dump(), real.digest, real.counts()) as tracked:
        result: dict[str, Any] = {
            "model": name,
            "ms_ssim_scales": ms_ssim_scales(real.images.shape[1]),
            "extractors": {
                "frechet_xray": encoder_stage.USED,
                "inception": words,
                "two_sample_auroc": TOLD_BY.format(steps=params.two_sample_steps),
            },
            "intervals": INTERVALS.format(repeats=params.repeats),
            "classes": {},
            "left_out": {},
        }
        for label in sorted(label for label in synthetic.classes if len(synthetic.where(label=label).images)):
            films, images = train.where(label=label), synthetic.where(label=label).images
            patients = films.manifest["patient_id"].to_numpy()
            if len(films.images) < MIN_IMAGES or len(images) < MIN_IMAGES:
                result["left_out"][label] = f"Fewer than {MIN_IMAGES} real or synthetic images: there is no floor."
            elif not of_several(patients):
                result["left_out"][label] = "Nearly all real images are of one patient: there is no floor."
            else:
                result["classes"][label] = measure(films.images, images, network, params, published, patients)
                pooled[label] = Sets(films.images, patients, images)
        for label, found in told_apart(pooled, params).items():
            result["classes"][label]["measures"]["two_sample_auroc"] = _entry("two_sample_auroc", *found)
        write_json(out, result)
        tracked.metrics(by_measure(result["classes"]))
        tracked.artifact(out.name, out.read_bytes())
    return result


def by_measure(classes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """From the report's `classes`: {measure: {class: the value, class.low: ..., class.high: ..., class.floor: ...}}."""
    result: dict[str, dict[str, float]] = {}
    for label, entry in classes.items():
        for name, found in entry["measures"].items():
            others = {f"{label}.{key}": found[key] for key in ("low", "high", "floor")}
            result.setdefault(name, {}).update({label: found["value"]} | others)
    return result


def measure(
    real: np.ndarray,
    synthetic: np.ndarray,
    network: Encoder,
    params: Quality,
    published: Inception | None = None,
    patients: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measures of synthetic (M, H, W) against real (N, H, W) uint8 images of one class, N and M at least MIN_IMAGES.

    Features are compared at the same number of images everywhere: random halves of the real images with synthetic
    ones, with the other half (the floor) and with that half damaged (the controls); the value is the mean over
    the halves.
    No half shares any of `patients` (N,) with the other; without these, no image. The two-sample test is not among
    them: it learns from all classes.
    """
    patients = np.arange(len(real)) if patients is None else patients
    rng = np.random.default_rng(params.seed)
    damaged = {kind: damage(real, rng) for kind, damage in DAMAGE.items()}
    n = min(*map(len, halves(patients, rng)), len(synthetic))
    result = variety(real, synthetic, params, patients, damaged)
    images = {"real": real, "synthetic": synthetic, **damaged}
    extractors: list[tuple[Extractor, Measure]] = [
        (partial(encode, network), _of_encoder(min(5, n - 1))),
        (radial_power, lambda *powers: {"excess_power": excess_power(*powers)}),
        (grid_peaks, lambda *peaks: {"grid_power": grid_power(*peaks)}),
    ]
    if published is not None:
        extractors.append((partial(encode, published, batch=16), _of_inception))
    for extract, measures in extractors:
        features = {kind: extract(some) for kind, some in images.items()}
        result |= _feature_measures(features, patients, n, params, measures)
    counts = {"real": len(real), "synthetic": len(synthetic), "compared": n}
    found = {name: result[name] for name in BETTER if name in result}
    return {"images": counts, "measures": found, "spectrum": spectrum(real, synthetic)}


def spectrum(real: np.ndarray, synthetic: np.ndarray) -> dict[str, list[float]]:
    """Mean power of real (N, S, S) and synthetic (M, S, S) images by frequency, and what 9 in 10 real ones have."""
    power = radial_power(real)
    low, high = np.quantile(power, (0.05, 0.95), axis=0)
    curves = {"real": power.mean(0), "real_low": low, "real_high": high, "synthetic": radial_power(synthetic).mean(0)}
    curves["frequency"] = frequencies(real.shape[1])
    return {name: [_short(value) for value in curve] for name, curve in curves.items()}


def of_several(patients: np.ndarray) -> bool:
    """Whether films (N,) are of so many patients that halves of them, and pairs, can be of different ones."""
    return min(map(len, halves(patients, np.random.default_rng(0)))) >= MIN_IMAGES // 2


def halves(patients: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices, in random order, of two random halves of the films of `patients` (N,), of whom none is in both.

    The patients with the most films are dealt first, each to the smaller half: so the halves are as equal as is quickly
    had, and as large in every drawing.
    """
    _, patient_of, films = np.unique(patients, return_inverse=True, return_counts=True)
    order = rng.permutation(len(films))
    sizes, side = [0, 0], np.empty(len(films), dtype=int)
    for patient in order[np.argsort(-films[order], kind="stable")]:
        side[patient] = int(sizes[1] < sizes[0])
        sizes[side[patient]] += films[patient]
    one, other = (rng.permutation(np.flatnonzero(side[patient_of] == half)) for half in rng.permutation(2))
    return one, other


def _of_encoder(neighbours: int) -> Measure:
    def measures(real: np.ndarray, others: np.ndarray) -> dict[str, float]:
        distances = {"frechet_xray": frechet_distance(real, others), "kid_xray": kid(real, others)}
        return {**distances, **vars(manifold(real, others, neighbours))}

    return measures


def _of_inception(real: np.ndarray, others: np.ndarray) -> dict[str, float]:
    return {"fid": frechet_distance(real, others), "kid": kid(real, others)}


def _feature_measures(
    features: Mapping[str, np.ndarray], patients: np.ndarray, n: int, params: Quality, measures: Measure
) -> dict[str, dict[str, Any]]:
    """Entries of the report, by measure; every repetition compares with another random half of the real images."""
    rng = np.random.default_rng(params.seed)
    values: dict[str, dict[str, list[float]]] = {}
    for _ in range(params.repeats):
        half, other = (some[:n] for some in halves(patients, rng))
        compared = {
            "value": features["synthetic"][rng.permutation(len(features["synthetic"]))[:n]],
            "floor": features["real"][other],
            **{kind: some[other] for kind, some in features.items() if kind not in ("real", "synthetic")},
            ONE_IMAGE: np.repeat(features["real"][other[:1]], n, axis=0),
        }
        for kind, some in compared.items():
            for name, value in measures(features["real"][half], some).items():
                values.setdefault(name, {}).setdefault(kind, []).append(value)
    return {
        name: _entry(
            name,
            _range(kinds.pop("value")),
            _range(kinds.pop("floor")),
            {kind: float(np.mean(some)) for kind, some in kinds.items()},
        )
        for name, kinds in values.items()
    }


def _range(values: list[float]) -> Range:
    return float(np.mean(values)), min(values), max(values)


def variety(
    real: np.ndarray,
    synthetic: np.ndarray,
    params: Quality,
    patients: np.ndarray,
    damaged: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, Any]]:
    """`ms_ssim` and `near_duplicates` of synthetic (M, H, W) against real (N, H, W) images of `patients` (N,).

    A mean hides a few images that are repeated: those are pairs of near-duplicates, which no mean of real pairs would
    show. The entry of these names the two synthetic images that are most alike (`most_alike`).
    """
    floor, value = pairs(real, params, patients), pairs(synthetic, params)
    controls = {kind: pairs(some, params, patients) for kind, some in (damaged or {}).items()}
    differ = floor.values[floor.values < SAME]
    limit = near_duplicates_above(differ if len(differ) else np.array([SAME]))
    result = {}
    for name, of in {"ms_ssim": Pairs.mean, "near_duplicates": lambda some: Pairs.near_duplicates(some, limit)}.items():
        result[name] = _entry(name, of(value), of(floor), {kind: of(some)[0] for kind, some in controls.items()})
        result[name]["damaged"][ONE_IMAGE] = 1.0
    result["near_duplicates"]["most_alike"] = value.most_alike()
    return result


def pairs(images: np.ndarray, params: Quality, patients: np.ndarray | None = None) -> Pairs:
    """MS-SSIM of pairs of images (N, H, W), N >= 2.

    Pairs of one of `patients` (N,), who are more alike, are left out, and more are drawn where fewer than half would be
    left; there must be others.
    """
    if patients is None:
        patients = np.arange(len(images))
    count = params.pairs
    while True:
        index = balanced_pairs(len(images), count, params.seed)
        apart = patients[index[:, 0]] != patients[index[:, 1]]
        if 2 * apart.sum() >= params.pairs or len(index) < count:  # enough, or all that there are
            return Pairs(ms_ssim_pairs(images, count, params.seed)[apart], index[apart])
        count *= 2


def _entry(name: str, value: Range, floor: Range, damaged: Mapping[str, float]) -> dict[str, Any]:
    ends = ("value", "low", "high", "floor", "floor_low", "floor_high")
    return {
        **dict(zip(ends, map(_short, (*value, *floor)), strict=True)),
        "damaged": {kind: _short(number) for kind, number in damaged.items()},
        "better": BETTER[name],
    }


def _short(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")
