"""A small complete set of what the stages before `report` write, with drawn values."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks import image_set, imbalance
from tasks.files import write_json
from tasks.image_set import ImageSet
from tasks.params import Imbalance
from tasks.quality import stage
from tasks.report.stage import Inputs
from tasks.shown import plots
from tasks.shown.pictures import mosaic, picture_png
from tasks.train import card
from tests.tasks.sets import write_set

GANS = ("msg_gan", "msg_sagan")
CONTROLS = ("real", "class_weight", "duplicate", "classic", "two_stage_classic")
SYNTHETIC = ("msg_sagan", "classic+msg_sagan", "two_stage_msg_gan", "two_stage_msg_sagan")
ARMS = (*CONTROLS, *SYNTHETIC)
ALARM = "the generator repeats itself: 61 % of pairs of class 'rare' are all but one image"
SIGNALS = {"detail": 0.62, "layout": 0.94, "stands_out": 2.1, "nearer_than_held_out": 1.9}


def write_results(
    folder: Path,
    real: Path | None = None,
    draw: Callable[[ImageSet, str, int], np.ndarray] | None = None,
    seed: int = 0,
    params: Imbalance | None = None,
) -> Inputs:
    """Write all inputs of the stage `report` below `folder`; `real` is a curated set if not the small drawn one, and
    `draw(real, label, n)` gives n synthetic images of a class."""
    rng = np.random.default_rng(seed)
    real = real or write_set(folder / "curated")
    images = image_set.load(real)
    plan = imbalance.analyse(images.manifest, images.classes, params or Imbalance())
    write_json(folder / "reports/imbalance.json", plan)
    for number, name in enumerate(GANS):
        _synthetic(folder / "synthetic" / name, images, plan["draw"], rng, draw or _noised)
        _model(folder / "models" / name, images, rng, attention=number == 1)
        write_json(folder / f"reports/quality/{name}.json", _quality(name, list(plan["draw"]), rng))
    write_json(folder / "reports/downstream.json", downstream(images, plan["rare"], rng))
    return Inputs(
        curated=real,
        synthetic={name: folder / "synthetic" / name for name in GANS},
        models={name: folder / "models" / name for name in GANS},
        imbalance=folder / "reports/imbalance.json",
        quality={name: folder / f"reports/quality/{name}.json" for name in GANS},
        downstream=folder / "reports/downstream.json",
    )


def _noised(real: ImageSet, label: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    films = real.where(split="train", label=label).images
    drawn = films[rng.integers(len(films), size=count)] + rng.normal(0, 20, (count, *films.shape[1:]))
    return np.clip(drawn, 0, 255).astype(np.uint8)


def _synthetic(
    folder: Path,
    real: ImageSet,
    plan: dict[str, int],
    rng: np.random.Generator,
    draw: Callable[[ImageSet, str, int], np.ndarray],
) -> None:
    folder.mkdir(parents=True)
    writer, rows, pairs, worst = image_set.ShardWriter(folder), [], [], []
    classes = {}
    for label, count in plan.items():
        removed = int(rng.integers(1, 4))
        for k, image in enumerate(draw(real, label, count - removed)):
            shard, row = writer.add(image)
            rows.append([f"{label}-{k:06d}", label, shard, row])
            if k < 4:
                pairs.append([image, real.where(split="train", label=label).images[k]])
                signal = str(rng.choice(list(SIGNALS)))
                score = round(float(rng.uniform(0.5, 1.5)) * SIGNALS[signal], 4)
                worst.append({"label": label, "signal": signal, "score": score, "removed": k == 0})
        reasons = {str(rng.choice(list(SIGNALS))): removed}
        classes[label] = {"drawn": count, "removed": removed, "reasons": reasons}
    screening = {
        "note": "copies: calibrated on 60 held-out films: too few to count a share of 1 % among them",
        "threshold": SIGNALS,
        "false_alarms": round(float(rng.uniform(0, 0.01)), 4),
        "classes": classes,
        "worst": worst,
    }
    np.save(folder / "worst_pairs.npy", np.array(pairs, dtype=np.uint8))
    manifest = pd.DataFrame(rows, columns=["image_id", "label", "shard", "row"])
    image_set.save_index(folder, manifest, real.classes, real.images.shape[1], writer, screening=screening)


def _model(folder: Path, real: ImageSet, rng: np.random.Generator, attention: bool) -> None:
    folder.mkdir(parents=True)
    kimg = np.linspace(0.6, 6, 10)
    history = pd.DataFrame({"kimg": kimg, "seconds": kimg * 20, "images_per_second": 50.0})
    history["loss_generator"] = 0.7 + 2 * np.exp(-kimg) + rng.normal(0, 0.05, 10)
    history["loss_discriminator"] = 0.6 + np.exp(-kimg) + rng.normal(0, 0.05, 10)
    history["frechet"] = 90 * np.exp(-kimg / 2) + 6 + rng.uniform(0, 2, 10)
    history["frechet_floor"] = 2.4
    for k, label in enumerate(real.classes):
        history[f"ms_ssim.{label}"] = 0.9 - 0.4 * (1 - np.exp(-kimg)) + 0.05 * k + rng.normal(0, 0.02, 10)
        history[f"ms_ssim_real.{label}"] = 0.42 + 0.04 * k
        history[f"recognised.{label}"] = 1 - np.exp(-kimg / (k + 1))
        history[f"recognised_real.{label}"] = 0.97 - 0.05 * k
    if not attention:
        history["alarm"] = [None] * 9 + [ALARM]
    history.to_csv(folder / "history.csv", index=False)
    (folder / "config.json").write_text(json.dumps({"extra": {"simulated_before": attention}}))
    films = np.concatenate([real.where(split="train", label=label).images[:8] for label in real.classes])
    for name in ("samples", "interpolation"):
        (folder / f"{name}.png").write_bytes(picture_png(mosaic(films, 8)))
    if attention:
        points = ((0.35, 0.3), (0.35, 0.7), (0.6, 0.5), (0.9, 0.1))
        rows = [
            (f"{label}\n32×32 px\ngamma 0.21", films[8 * k], rng.random((4, 16, 16)) ** 4)
            for k, label in enumerate(real.classes)
        ]
        (folder / "attention.png").write_bytes(plots.png(card.attention_figure(rows, points), dpi=100))


def varied(
    value: float, low: float, high: float, floor: float, error: float = 0.0, near_duplicates: float = 0.0
) -> dict[str, Any]:
    """The entries that the diversity gate reads."""
    ms_ssim = {"value": value, "low": low, "high": high, "floor": floor}
    ms_ssim |= {"floor_low": floor - error, "floor_high": floor + error}
    none = dict.fromkeys(("floor", "floor_low", "floor_high"), 0.0)
    return {"ms_ssim": ms_ssim, "near_duplicates": dict.fromkeys(("value", "low", "high"), near_duplicates) | none}


def recognised(
    value: float, floor: float, confused: dict[str, float] | None = None, error: float = 0.05, others: float = 0.04
) -> dict[str, Any]:
    """The entry of a class that the fidelity gate reads."""
    value, floor = round(value, 4), round(floor, 4)
    ends = {"value": value, "low": value - error, "high": value + error}
    floors = {"floor": floor, "floor_low": floor - error, "floor_high": min(floor + error, 1.0)}
    rounded = {name: round(end, 4) for name, end in {**ends, **floors}.items()}
    taken_for = ({"rare": 2}, {"rare": 1, "common": 1})
    examples = [{"image": k, "taken_for": taken_for[k % 2]} for k in range(6)]
    return {**rounded, "others": others, "confused": confused or {}, "examples": examples}


def _quality(name: str, labels: list[str], rng: np.random.Generator) -> dict[str, Any]:
    def found(value: float, floor: float, damaged: Sequence[float], better: str) -> dict[str, Any]:
        value *= float(rng.uniform(0.9, 1.1))
        names = ("blurred", "slightly_blurred", "noisy", "slightly_noisy", "grid", "one_image")
        return {
            "value": round(value, 4),
            "low": round(value - abs(value) * 0.1, 4),
            "high": round(value + abs(value) * 0.1, 4),
            "floor": floor,
            "floor_low": round(floor * 0.9, 4),
            "floor_high": round(floor * 1.1, 4),
            "damaged": dict(zip(names, damaged, strict=True)),
            "better": better,
        }

    measures = {
        "frechet_xray": (1.9, 0.61, (3.2, 0.9, 4.4, 0.8, 0.7, 38.0), "low"),
        "kid_xray": (0.012, 0.0004, (0.05, 0.002, 0.08, 0.001, 0.0008, 0.7), "low"),
        "ms_ssim": (0.51, 0.42, (0.55, 0.44, 0.35, 0.41, 0.42, 1.0), "floor"),
        "near_duplicates": (0.002, 0.0, (0.001, 0.0, 0.0, 0.0, 0.0, 1.0), "low"),
        "precision": (0.71, 0.82, (0.4, 0.8, 0.3, 0.8, 0.81, 1.0), "high"),
        "recall": (0.55, 0.81, (0.5, 0.8, 0.2, 0.78, 0.8, 0.0), "high"),
        "density": (0.8, 0.99, (0.4, 0.9, 0.2, 0.9, 0.95, 1.4), "high"),
        "coverage": (0.7, 0.93, (0.6, 0.9, 0.4, 0.9, 0.91, 0.02), "high"),
        "two_sample_auroc": (0.87, 0.52, (1.0, 0.99, 1.0, 1.0, 1.0, 0.98), "low"),
        "excess_power": (-2.4, 0.1, (-21.0, -4.2, 3.8, 1.6, 0.3, -0.2), "floor"),
        "grid_power": (7.5, 2.8, (2.6, 2.7, 2.1, 2.5, 15.2, 5.3), "low"),
    }
    frequency = np.arange(1, 17) / 32
    real = -20 * np.log10(frequency) - 5
    spectrum = {"frequency": frequency, "real": real, "real_low": real - 3, "real_high": real + 3}
    spectrum["synthetic"] = real - 8 * frequency + rng.uniform(-1, 1)
    entry = {"real": 90, "synthetic": 300, "compared": 45}

    def measured() -> dict[str, Any]:
        values = {m: found(*facts) for m, facts in measures.items()}
        values["near_duplicates"]["most_alike"] = {"images": [0, 2], "ms_ssim": 0.93}
        return values

    return {
        "model": name,
        "ms_ssim_scales": 3,
        "intervals": stage.INTERVALS.format(repeats=10),
        "extractors": {"frechet_xray": "An encoder learnt from the train split.", "inception": "Not used: no weights."},
        "classes": {
            label: {
                "images": entry,
                "measures": measured(),
                "spectrum": {name: curve.tolist() for name, curve in spectrum.items()},
            }
            for label in labels
        },
        "left_out": {},
    }


def _training(arm: str, seed: int, rng: np.random.Generator) -> dict[str, Any]:
    """How validation went: three to five cycles, the last without a gain but where it was cut off."""
    cycles = int(rng.integers(3, 6))
    steps = np.arange(25, 250 * cycles + 1, 25)
    losses = 0.6 + 0.5 * np.exp(-steps / 300) + rng.normal(0, 0.03, len(steps))
    gaining = arm == "classic+msg_sagan" and seed == 1
    best = len(steps) - 1 if gaining else len(steps) - 12
    losses[best] = losses.min() - 0.01
    return {
        **{"arm": arm, "seed": seed, "ratio": 1.0, "fraction": 1.0, "only": False, "main": True},
        **{"first_stage": 250 if arm.startswith("two_stage") else 0, "step": int(steps[best]), "gaining": gaining},
        **{"steps": steps.tolist(), "losses": losses.round(4).tolist()},
    }


def downstream(real: ImageSet, rare: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """What the stage `classify` writes; the arms with synthetic images a little better than the others."""
    classes = real.classes
    test = real.where(split="test").manifest

    def around(value: float, spread: float = 0.05) -> dict[str, float]:
        drawn = round(float(value + rng.normal(0, 0.01)), 4)
        return {"mean": drawn, "low": round(drawn - spread, 4), "high": round(drawn + spread, 4)}

    arms, curves, confusion = {}, {}, {}
    x = np.linspace(0, 1, 101)
    for k, arm in enumerate(ARMS):
        plain = {"auroc": 0.86, "rare_auprc": 0.66, "balanced_accuracy": 0.78, "macro_f1": 0.77}
        arms[arm] = {name: around(value + 0.012 * k) for name, value in plain.items()}
        arms[arm] |= {
            "sensitivity_at_90_specificity": around(0.6),
            "ece": around(0.07, 0.02),
            "brier": around(0.11, 0.01),
        }
        arms[arm] |= {f"{m}_{label}": around(0.75) for m in ("recall", "precision", "auprc") for label in classes}
        power = 0.22 - 0.015 * k
        roc, pr = x**power, 1 - (1 - 0.2) * x ** (2 + 0.5 * k)
        curves[arm] = {
            label: {
                kind: {
                    "x": [round(float(v), 2) for v in x],
                    "mean": [round(float(v), 4) for v in mean],
                    "low": [round(float(v), 4) for v in np.clip(mean - 0.06 * np.sin(np.pi * x) - 0.02, 0, 1)],
                    "high": [round(float(v), 4) for v in np.clip(mean + 0.05 * np.sin(np.pi * x) + 0.01, 0, 1)],
                }
                for kind, mean in (("roc", roc), ("pr", pr))
            }
            for label in rare
        }
        shares = np.eye(len(classes)) * 3 + rng.random((len(classes), len(classes)))
        confusion[arm] = (shares / shares.sum(1, keepdims=True)).round(4).tolist()
    controls = ("two_stage_classic", "duplicate", "classic", "real")
    sides = {control: 0.02 + 0.02 * k for k, control in enumerate(controls)}
    rows = [("msg_sagan", value) for value in (0.25, 0.5, 1.0, 2.0)]
    return {
        "primary": "rare_auprc",
        "rare": rare,
        "classes": classes,
        "arms": arms,
        "confusion": confusion,
        "curves": curves,
        "test": {
            "images": len(test),
            "patients": int(test["patient_id"].nunique()),
            "by_class": {label: int((test["label"] == label).sum()) for label in classes},
            "patients_by_class": {label: int((test["label"] == label).sum()) for label in classes},
        },
        "seeds": [0, 1],
        "comparison": {
            "reference": "two_stage_classic",
            "candidate": "msg_sagan",
            "confidence": 0.9833,
            "differences": {arm: {c: around(side, 0.03) for c, side in sides.items()} for arm in SYNTHETIC},
            "minimum_effect": {arm: {c: 0.045 if c != "real" else None for c in controls} for arm in SYNTHETIC},
            "confidence_by_class": 0.9833,
            "by_class": {
                label: {arm: {c: around(side, 0.03) for c, side in sides.items()} for arm in SYNTHETIC}
                for label in rare
            },
        },
        "sweeps": {
            "ratio": [
                {"arm": arm, "ratio": r, "rare_auprc": around(0.68 + 0.02 * r), "differences": {}} for arm, r in rows
            ],
            "real_fraction": [
                {
                    "arm": arm,
                    "fraction": f,
                    "rare_auprc": around(0.5 + 0.2 * f + shift),
                    "differences": {"duplicate": around(shift, 0.02)} if shift else {},
                }
                for arm, shift in (("duplicate", 0), ("msg_sagan", 0.03))
                for f in (0.1, 0.25, 0.5, 1.0)
            ],
        },
        "trainings": [_training(arm, seed, rng) for arm in ARMS for seed in (0, 1)],
        "fidelity": {
            name: {
                label: recognised(0.9 - 0.75 * k, 0.97, {other: 0.02 for other in classes if other != label})
                for label in rare
            }
            for k, name in enumerate(GANS)
        },
        "chosen_on_validation": True,
        "leaked": {"val": 0, "test": 0},
        "tstr": [
            {"trained_on": a, "tested_on": b, "auroc": around(0.8), "rare_auprc": around(0.6)}
            for a, b in (("msg_sagan", "real"), ("real", "msg_sagan"))
        ],
        "confounds": {
            "warnings": ["Class 'rare' and view nearly coincide: 97 % of its films are AP, of the others 12 %."],
            "looked_at": ["view", "native size"],
            "not_known": ["source", "sex", "age group"],
            "groups": [
                {"by": "view", "value": "PA", "images": 120, "auroc": dict.fromkeys(ARMS, 0.87)},
                {"by": "view", "value": "AP", "images": 31, "auroc": dict.fromkeys(ARMS)},
            ],
        },
    }
