"""Stage `synthesize@NAME`: draw the images that the plan asks for, or any number of one class."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from model.gan.networks import Generator
from model.gan.sampling import batches, hot, sets_of
from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.image_set import DRAWN_FOR, FINDING, with_findings
from tasks.params import Synthesize
from tasks.progress import track
from tasks.shown.pictures import picture_png
from tasks.synthesize.generator import read_generator, sets_of_generator, weights_digest
from tasks.synthesize.screening import ANOTHER, NOT_SCREENED, Screening

SPARE = 5  # images that may be removed of however few
Drawn = Iterator[tuple[str, str, int, np.ndarray]]  # class, all findings, number, image (H, W) uint8
Sets = Mapping[str, Mapping[str, int]]  # by class, how many of its train films have which findings; empty: it alone
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
    `dicom`). Image k of a class and seed is the same in every form, whatever the counts. Where films had several
    findings, images of one have the others as often as the films that the generator learnt from (`sets_of`).

    Copies of the train split of `curated_folder` are never written: their numbers are left out, and further images
    are drawn in their place. The worst pairs are real films too, so only "shards" come with them (worst_pairs.npy).
    Raises UserError for a folder without a usable generator, an unknown class, films of another size, an `out` that
    holds anything but an earlier such set, and TooManyCopies for a generator that copies more than the share
    `max_copies`. Where `params.screening` is "required" it raises UserError for a `curated_folder` that is not the set
    that the generator learnt from, or none.
    """
    _check_place(out)
    generator, config = read_generator(model_folder)
    classes = config["classes"]
    for label in plan:
        if label not in classes:
            raise UserError(f"{model_folder} has no class {label!r}; it has {', '.join(classes)}")
    facts = {
        "counts": dict(plan),
        "model": weights_digest(model_folder),
        "learnt_from": config["extra"].get("data_digest"),
        **params.model_dump(exclude={"screening"}),
    }
    side = generator.config.resolution
    screening = Screening.against(curated_folder, side, facts["learnt_from"]) if curated_folder else Screening()
    if params.screening == "required" and not screening.of_its_own:
        would_be = ANOTHER if curated_folder else NOT_SCREENED
        raise UserError(f"nothing is drawn, for synthesize.screening is required, and images would be {would_be}")
    sets = sets_of_generator(config)
    drawn = _drawn(generator, classes, plan, params, screening, sets)
    with written_whole(out) as folder:
        folder.mkdir()
        if form == "shards":
            _write_shards(folder, drawn, classes, side, facts, screening, bool(sets))
        else:
            _write_files(folder, drawn, form, facts, screening)
    return screening.report()


def _check_place(out: Path) -> None:
    """Other outputs of xraysynth must not be lost by a slip: a model's own folder, a curated set."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    facts = out / "dataset.json"
    if not facts.is_file() or '"learnt_from"' not in facts.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{out} is not an earlier set of synthetic images; choose a new or empty folder")


def _drawn(
    generator: Generator,
    classes: list[str],
    plan: Mapping[str, int],
    params: Synthesize,
    screening: Screening,
    sets: Sets,
) -> Drawn:
    """All that the plan asks for."""
    for label, count in plan.items():
        kept = _kept(generator, classes, label, count, params, screening, sets)
        yield from track(kept, count, f"synthesize {label}", " images")


def _kept(
    generator: Generator,
    classes: list[str],
    label: str,
    count: int,
    params: Synthesize,
    screening: Screening,
    sets: Sets,
) -> Drawn:
    """`count` images of a class that are no copies."""
    most = max(int(count / (1 - params.max_copies)), count + SPARE) if count else 0
    findings = sets_of(sets[label], most) if sets else [label] * most
    asked = {"sets": hot(findings, classes)} if sets else {}
    done = 0
    for part in batches(generator, classes.index(label), most, params.seed, params.truncation, **asked):
        kept = screening.kept(label, part, count)
        yield from ((label, findings[done + k], done + k, part[k]) for k in kept)
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
    folder: Path,
    drawn: Drawn,
    classes: list[str],
    size: int,
    facts: dict[str, Any],
    screening: Screening,
    several: bool,
) -> None:
    writer, rows = image_set.ShardWriter(folder), []
    for label, findings, k, image in drawn:
        shard, row = writer.add(image)
        more = {DRAWN_FOR: label, **with_findings(findings, "", classes)} if several else {}
        rows.append({"image_id": f"{label}-{k:06d}", "label": findings, **more, "shard": shard, "row": row})
    more_columns = [DRAWN_FOR, *(FINDING + name for name in classes)] if several else []
    manifest = pd.DataFrame(rows, columns=["image_id", "label", *more_columns, "shard", "row"])
    np.save(folder / "worst_pairs.npy", screening.pairs(size))
    image_set.save_index(folder, manifest, classes, size, writer, **facts, screening=screening.report())


def _write_files(folder: Path, drawn: Drawn, form: Form, facts: dict[str, Any], screening: Screening) -> None:
    from tasks.synthesize import dicom  # pydicom is not needed for shards, which the pipeline wants

    for label, _, k, image in drawn:
        path = folder / label / f"{k:06d}"
        path.parent.mkdir(exist_ok=True)
        if form == "png":
            path.with_suffix(".png").write_bytes(picture_png(image))
        else:
            origin = dicom.Origin(facts["model"], facts["seed"], facts["truncation"], label)
            dicom.write(path.with_suffix(".dcm"), image, origin, k)
    write_json(folder / "dataset.json", {**facts, "screening": screening.report()})
