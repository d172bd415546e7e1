"""Stage `synthesize@NAME`: draw the images that the plan asks for, or any number of one class."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.networks import Generator
from model.sampling import batches
from model.storage import load_generator
from tasks import curated, plots
from tasks.errors import UserError
from tasks.params import Synthesize

Drawn = tuple[str, int, np.ndarray]


def run(
    model_folder: Path, out: Path, plan: Mapping[str, int], params: Synthesize, form: str = "shards"
) -> dict[str, int]:
    """Write `plan[label]` images of every class in `plan` to `out`; returns the counts.

    `form`: "shards" (the format of curated sets) or "png" (one file an image, named CLASS/NUMBER.png). Image k of a
    seed is the same whatever the count. Raises UserError for a folder without a generator or an unknown class.
    """
    generator, config = load(model_folder)
    classes = config["classes"]
    for label in plan:
        if label not in classes:
            raise UserError(f"{model_folder} has no class {label!r}; it has {', '.join(classes)}")
    with curated.written_whole(out) as folder:
        folder.mkdir()
        drawn = _drawn(generator, classes, plan, params)
        if form == "png":
            _write_pngs(folder, drawn)
        else:
            facts = {"counts": dict(plan), "learnt_from": config["extra"].get("data_digest")}
            _write_shards(folder, drawn, classes, generator.config.resolution, facts)
    return dict(plan)


def load(model_folder: Path) -> tuple[Generator, dict[str, Any]]:
    """The generator of a model folder and its config. Raises UserError where there is none."""
    try:
        return load_generator(model_folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{error}; train one with `xraysynth train`") from None


def planned(imbalance_report: Path) -> dict[str, int]:
    """The plan of the stage `imbalance`: how many images of which class."""
    return json.loads(imbalance_report.read_text(encoding="utf-8"))["plan"]


def _drawn(generator: Generator, classes: list[str], plan: Mapping[str, int], params: Synthesize) -> Iterator[Drawn]:
    """(label, number, image (H, W) uint8) of all that the plan asks for."""
    for label, count in plan.items():
        parts = batches(generator, classes.index(label), count, params.seed, params.truncation)
        yield from ((label, k, image) for k, image in enumerate(image for part in parts for image in part))


def _write_shards(folder: Path, drawn: Iterator[Drawn], classes: list[str], size: int, facts: dict[str, Any]) -> None:
    writer, rows = curated.ShardWriter(folder), []
    for label, k, image in drawn:
        shard, row = writer.add(image)
        rows.append({"image_id": f"{label}-{k:06d}", "label": label, "shard": shard, "row": row})
    manifest = pd.DataFrame(rows, columns=["image_id", "label", "shard", "row"])
    curated.save_index(folder, manifest, classes, size, writer, **facts)


def _write_pngs(folder: Path, drawn: Iterator[Drawn]) -> None:
    for label, k, image in drawn:
        (folder / label).mkdir(exist_ok=True)
        (folder / label / f"{k:06d}.png").write_bytes(plots.picture_png(image))
