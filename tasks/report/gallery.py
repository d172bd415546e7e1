"""The films on the page: real beside synthetic, the blind strip, what gates decided on, a model's own pictures."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.image_set import ImageSet
from tasks.shown.pictures import data_uri, mosaic, picture_png

COLUMNS = 5
SIDE = 128  # larger films are shown reduced: the page is to be sent by mail
WIDE = 1200  # pixels of a model's picture
PICTURES = {  # of a model folder, and what is to be seen there
    "samples.png": "Samples. A row a class ({classes}); a column shares its latent.",
    "interpolation.png": "Interpolation, on the great circle from the latent of the first column to that of the last.",
}
ATTENTION = "attention.png"


def side_by_side(real: ImageSet, synthetic: Mapping[str, ImageSet], examples: int) -> dict[str, dict[str, str]]:
    """By class: a mosaic of real images, and one of every model that made images of the class, evenly spread."""
    result = {}
    for label in real.classes:
        sets = {name: images.where(label=label).images for name, images in {"real": real, **synthetic}.items()}
        result[label] = {name: _mosaic(images, examples) for name, images in sets.items() if len(images)}
    return result


def blind(
    real: ImageSet, synthetic: Mapping[str, ImageSet], labels: list[str], count: int, seed: int
) -> dict[str, list[dict[str, str]]]:
    """By class of `labels`: `count` films in random order, each with its picture and its `truth`.

    How many are real is drawn too, so that the last ones cannot be found by counting. Nothing in the pictures but
    their pixels tells what they are.
    """
    result = {}
    for label in labels:
        rng = np.random.default_rng([seed, real.classes.index(label)])
        made = {name: images.where(label=label).images for name, images in synthetic.items()}
        pool = [(name, image) for name, images in made.items() for image in images]
        films = real.where(label=label).images
        if not pool or not len(films):
            continue
        true = int(rng.integers(max(1, count // 4), max(2, count - count // 4 + 1)))
        chosen = [("real", films[k]) for k in rng.permutation(len(films))[: min(true, count - 1)]]
        chosen += [pool[k] for k in rng.permutation(len(pool))[: count - len(chosen)]]
        order = rng.permutation(len(chosen))
        result[label] = [{"truth": chosen[k][0], "picture": film(chosen[k][1])} for k in order]
    return result


def pairs(folder: Path, screening: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What screening found worst, each with the pictures of the synthetic image and of its nearest train film."""
    worst = screening.get("worst", [])
    if not worst:
        return []
    pictures = np.load(folder / "worst_pairs.npy")
    shown = zip(worst, pictures, strict=False)
    return [{**found, "synthetic": film(pair[0]), "nearest": film(pair[1])} for found, pair in shown]


def of_gates(
    gates: Mapping[str, Mapping[str, Any]],
    synthetic: ImageSet,
    worst: list[dict[str, Any]],
    quality: Mapping[str, Any],
    fidelity: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """By gate that was measured, `films` (picture, words, alt) that show what it decided on, and `words`.

    All of one generator: its images, what `pairs` gives of it, reports/quality/NAME.json, and its class fidelity. Of
    the class that decided: the worst pair of the screening, the two images that are most alike, and some images with
    what classifiers took them for.
    """
    shown: dict[str, dict[str, Any]] = {}
    labels = {name: gate["label"] for name, gate in gates.items() if gate["label"]}
    if label := labels.get("memorisation"):
        for pair in [found for found in worst if found["label"] == label][:1]:
            films = [
                (pair["synthetic"], "synthetic", f"Synthetic image of {label}"),
                (pair["nearest"], "its nearest train film", f"The train film of {label} nearest to it"),
            ]
            shown["memorisation"] = _shown(films, f"The worst pair of {label}: {_fate(pair)}.")
    if label := labels.get("diversity"):
        found = quality["classes"][label]["measures"]["near_duplicates"]["most_alike"]
        images = synthetic.where(label=label).images
        films = [(film(images[k]), f"image {k + 1}", f"Synthetic image {k + 1} of {label}") for k in found["images"]]
        words = f"The two most alike synthetic images of {label}: MS-SSIM {found['ms_ssim']:.2f}."
        shown["diversity"] = _shown(films, words)
    if label := labels.get("fidelity"):
        images, films = synthetic.where(label=label).images, []
        for example in fidelity[label]["examples"]:
            taken_for = _taken_for(example["taken_for"])
            films.append(
                (film(images[example["image"]]), taken_for, f"Synthetic image of {label}, taken for {taken_for}")
            )
        words = f"Synthetic images of {label}, evenly spread, and what the classifiers took each for."
        shown["fidelity"] = _shown(films, words)
    return shown


def _shown(films: list[tuple[str, str, str]], words: str) -> dict[str, Any]:
    return {"films": [dict(zip(("picture", "words", "alt"), facts, strict=True)) for facts in films], "words": words}


def _fate(pair: Mapping[str, Any]) -> str:
    return "taken for a copy and removed" if pair["removed"] else "not alike enough for a copy, and kept"


def _taken_for(votes: Mapping[str, int]) -> str:
    """The class, or classes with how many networks said so where they do not agree."""
    return next(iter(votes)) if len(votes) == 1 else ", ".join(f"{label} ({n})" for label, n in votes.items())


def of_model(folder: Path, classes: list[str]) -> dict[str, Any]:
    """The pictures of a model folder: `shown` with their words, and `attention` where the model has some."""
    shown = {words.format(classes=", ".join(classes)): _stored(folder / file) for file, words in PICTURES.items()}
    attention = folder / ATTENTION
    return {"shown": shown, "attention": _stored(attention) if attention.exists() else None}


def film(image: np.ndarray) -> str:
    """(H, W) uint8 as a data URI, at most SIDE pixels wide."""
    return data_uri(picture_png(_reduced(image)))


def _mosaic(images: np.ndarray, examples: int) -> str:
    rows = np.linspace(0, len(images) - 1, min(examples, len(images))).round().astype(int)
    films, columns = np.stack([_reduced(images[row]) for row in rows]), min(COLUMNS, examples)
    between = mosaic(np.zeros_like(films), columns)  # the page shows through: no white frame on a dark one
    picture = Image.fromarray(mosaic(films, columns))
    picture.putalpha(Image.fromarray(255 - between))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue())


def _reduced(image: np.ndarray) -> np.ndarray:
    if image.shape[1] <= SIDE:
        return image
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))


def _stored(path: Path) -> str:
    """A picture file, as it is or, where that is smaller, as JPEG of at most WIDE pixels."""
    content = path.read_bytes()
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture.thumbnail((WIDE, 100 * WIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88, optimize=True)
    if len(buffer.getvalue()) < len(content):
        return data_uri(buffer.getvalue(), "image/jpeg")
    return data_uri(content)
