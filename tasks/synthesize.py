"""Stage `synthesize@NAME`: draw the images that the plan asks for, or any number of one class."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from model.networks import Generator
from model.sampling import batches
from model.storage import CONFIG, WEIGHTS, load_generator
from tasks import curated, dicom_out, plots
from tasks.errors import UserError
from tasks.params import Synthesize
from tasks.progress import track
from tasks.screening import Screening

SPARE = 5  # images that may be removed of however few
Drawn = Iterator[tuple[str, int, np.ndarray]]  # label, number, image (H, W) uint8
Form = Literal["shards", "png", "dicom"]


class TooManyCopies(UserError):
    """A generator repeats the films that it learnt from."""


def run(
    model_folder: Path,
    out: Path,
    plan: Mapping[str, int],
    params: Synthesize,
    form: Form = "shards",
    curated_folder: Path | None = None,
) -> dict[str, Any]:
    """Write `plan[label]` images of every class in `plan` to `out`; returns the "screening" of its dataset.json.

    `form`: "shards" (the format of curated sets), "png" or "dicom" (one file an image, CLASS/NUMBER.png or .dcm, see
    `tasks/dicom_out.py`). Image k of a class and seed is the same in every form, whatever the counts.

    Copies of the train split of `curated_folder` are never written: their numbers are left out, and further images
    are drawn in their place. The worst pairs are real films too, so only "shards" come with them (worst_pairs.npy).
    Raises UserError for a folder without a usable generator, an unknown class, films of another size, an `out` that
    holds anything but an earlier such set, and TooManyCopies for a generator that copies more than the share
    `max_copies`.
    """
    _check_place(out)
    generator, config = load(model_folder)
    classes = config["classes"]
    for label in plan:
        if label not in classes:
            raise UserError(f"{model_folder} has no class {label!r}; it has {', '.join(classes)}")
    facts = {
        "counts": dict(plan),
        "model": hashlib.sha256((model_folder / WEIGHTS).read_bytes()).hexdigest(),
        "learnt_from": config["extra"].get("data_digest"),
        **params.model_dump(),
    }
    side = generator.config.resolution
    screening = Screening.against(curated_folder, side, facts["learnt_from"]) if curated_folder else Screening()
    drawn = _drawn(generator, classes, plan, params, screening)
    with curated.written_whole(out) as folder:
        folder.mkdir()
        if form == "shards":
            _write_shards(folder, drawn, classes, side, facts, screening)
        else:
            _write_files(folder, drawn, form, facts, screening)
    return screening.report()


def learnt_from(model_folder: Path, curated_folder: Path) -> bool:
    """Whether the generator learnt from this curated set, if there is one. Raises UserError as `load` does."""
    digest = load(model_folder)[1]["extra"].get("data_digest")
    return (curated_folder / "dataset.json").is_file() and curated.load(curated_folder).digest == digest


def load(model_folder: Path) -> tuple[Generator, dict[str, Any]]:
    """The generator of a model folder and its config. Raises UserError where there is none that can be used."""
    try:
        generator, config = load_generator(model_folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{' '.join(str(error).split())}; train one with `xraysynth train`") from None
    classes = config.get("classes")
    if (
        not isinstance(classes, list)
        or len(classes) != generator.config.classes
        or not all(isinstance(name, str) and curated.CLASS_NAME.fullmatch(name) for name in classes)
        or not isinstance(config.get("extra"), dict)
    ):
        raise UserError(
            f"{model_folder / CONFIG} does not describe the generator beside it; train one with `xraysynth train`"
        )
    return generator, config


def planned(imbalance_report: Path) -> dict[str, int]:
    """The plan of the stage `imbalance`: how many images of which class. Raises UserError where there is none."""
    try:
        plan: dict[str, int] = json.loads(imbalance_report.read_text(encoding="utf-8"))["plan"]
        if all(isinstance(count, int) and count >= 0 for count in plan.values()):
            return plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{imbalance_report} holds no plan; run `xraysynth imbalance`, or name a class with --label")


def _check_place(out: Path) -> None:
    """Other outputs of xraysynth must not be lost by a slip: a model's own folder, a curated set."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    facts = out / "dataset.json"
    if not facts.is_file() or '"learnt_from"' not in facts.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{out} is not an earlier set of synthetic images; choose a new or empty folder")


def _drawn(
    generator: Generator, classes: list[str], plan: Mapping[str, int], params: Synthesize, screening: Screening
) -> Drawn:
    """All that the plan asks for."""
    for label, count in plan.items():
        kept = _kept(generator, classes.index(label), label, count, params, screening)
        yield from track(kept, count, f"synthesize {label}", " images")


def _kept(generator: Generator, number: int, label: str, count: int, params: Synthesize, screening: Screening) -> Drawn:
    """`count` images of a class that are no copies."""
    most = max(int(count / (1 - params.max_copies)), count + SPARE) if count else 0
    done = 0
    for part in batches(generator, number, most, params.seed, params.truncation):
        kept = screening.kept(label, part, count)
        yield from ((label, done + k, part[k]) for k in kept)
        done, count = done + len(part), count - len(kept)
        if not count:
            return
    if count:
        found = screening.classes[label]
        raise TooManyCopies(
            f"{found['removed']} of {found['drawn']} images of {label!r} are copies of training films, more than "
            f"synthesize.max_copies ({params.max_copies:g}) allows; train the generator for a shorter time, with more "
            "films or with train.augment_target"
        )


def _write_shards(
    folder: Path, drawn: Drawn, classes: list[str], size: int, facts: dict[str, Any], screening: Screening
) -> None:
    writer, rows = curated.ShardWriter(folder), []
    for label, k, image in drawn:
        shard, row = writer.add(image)
        rows.append({"image_id": f"{label}-{k:06d}", "label": label, "shard": shard, "row": row})
    manifest = pd.DataFrame(rows, columns=["image_id", "label", "shard", "row"])
    np.save(folder / "worst_pairs.npy", screening.pairs(size))
    curated.save_index(folder, manifest, classes, size, writer, **facts, screening=screening.report())


def _write_files(folder: Path, drawn: Drawn, form: Form, facts: dict[str, Any], screening: Screening) -> None:
    for label, k, image in drawn:
        path = folder / label / f"{k:06d}"
        path.parent.mkdir(exist_ok=True)
        if form == "png":
            path.with_suffix(".png").write_bytes(plots.picture_png(image))
        else:
            origin = dicom_out.Origin(facts["model"], facts["seed"], facts["truncation"], label)
            dicom_out.write(path.with_suffix(".dcm"), image, origin, k)
    curated.write_json(folder / "dataset.json", {**facts, "screening": screening.report()})
