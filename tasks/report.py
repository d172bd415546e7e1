"""Stage `report`: one self-contained page, and the verdict as JSON."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml

from tasks import curated, plots
from tasks.comparison import PRIMARY
from tasks.curated import SPLITS, ImageSet
from tasks.errors import UserError
from tasks.params import Params
from tasks.verdict import decide

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = {  # of a model folder, and what is to be seen there
    "samples.png": "A row a class ({classes}); a column shares its latent.",
    "interpolation.png": "On the great circle from the latent of the first column to that of the second.",
    "attention.png": "Where attention looks from the numbered points of the first column: the brighter, the more.",
}


@dataclass(frozen=True)
class Inputs:
    """Where the results of the other stages are; the mappings go from model name to folder or file."""

    curated: Path
    synthetic: Mapping[str, Path]
    models: Mapping[str, Path]
    imbalance: Path
    imbalance_plots: Path
    quality: Mapping[str, Path]
    downstream: Path


def run(inputs: Inputs, page: Path, verdict_file: Path, metrics_file: Path, params: Params) -> dict[str, Any]:
    """Write the page, the verdict and the metrics; returns the verdict. Raises UserError when a result is missing."""
    try:
        content = _gather(inputs, params)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run the stages before `report`, or `dvc repro`") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = _figure
    with curated.written_whole(page) as temporary:
        temporary.write_text(environment.get_template("report.html").render(content), encoding="utf-8")
    curated.write_json(verdict_file, content["verdict"])
    curated.write_json(metrics_file, _metrics(content))
    return content["verdict"]


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures that `dvc metrics show` and `dvc metrics diff` put side by side."""
    arms, classes = content["downstream"]["arms"], {name: q["classes"] for name, q in content["quality"].items()}
    return {
        "imbalance_ratio": content["imbalance"]["imbalance_ratio"],
        PRIMARY: {arm: values[PRIMARY]["mean"] for arm, values in arms.items()},
        **{
            measure: {
                name: {label: m["measures"][measure]["value"] for label, m in q.items()} for name, q in classes.items()
            }
            for measure in ("frechet_xray", "ms_ssim", "coverage")
        },
    }


def _gather(inputs: Inputs, params: Params) -> dict[str, Any]:
    """Everything that the template shows."""
    real = curated.load(inputs.curated)
    imbalance, downstream = _json(inputs.imbalance), _json(inputs.downstream)
    quality = {name: _json(path) for name, path in inputs.quality.items()}
    histories = {name: pd.read_csv(folder / "history.csv") for name, folder in inputs.models.items()}
    synthetic = {name: curated.load(folder) for name, folder in inputs.synthetic.items()}
    compared = "comparison" in downstream
    return {
        "verdict": decide(downstream, imbalance["plan"]),
        "forest": _picture(plots.png(plots.forest(downstream["comparison"]["differences"]))) if compared else None,
        "imbalance": imbalance,
        "counts": _picture((inputs.imbalance_plots / "counts.png").read_bytes()),
        "splits": SPLITS,
        "dataset": _json(inputs.curated / "dataset.json"),
        "films": _films(real, synthetic, params.report.examples),
        "quality": quality,
        "ms_ssim_scales": next(iter(quality.values()))["ms_ssim_scales"],
        "downstream": downstream,
        "measures": ["auroc", PRIMARY, "balanced_accuracy", *(f"recall_{label}" for label in real.classes)],
        "arms_plot": _picture(plots.png(plots.arms(downstream["arms"], PRIMARY))),
        "confidence": f"{100 * params.classify.confidence:g} %",
        "models": {name: _model(folder, real.classes) for name, folder in inputs.models.items()},
        "training": _picture(plots.png(plots.training(histories))),
        "params": yaml.safe_dump(params.model_dump(), sort_keys=False, default_flow_style=None),
    }


def _films(real: ImageSet, synthetic: Mapping[str, ImageSet], examples: int) -> dict[str, dict[str, str]]:
    """By class: a strip of real train images, and one of every model that made images of the class."""
    train = real.where(split="train")
    result = {}
    for label in real.classes:
        sets = {"real": train, **synthetic}
        strips = {name: images.where(label=label).images for name, images in sets.items()}
        result[label] = {name: _strip(images, examples) for name, images in strips.items() if len(images)}
    return result


def _model(folder: Path, classes: list[str]) -> dict[str, str]:
    """The pictures of a model folder by what is to be seen there; only one with attention has all of them."""
    return {
        words.format(classes=", ".join(classes)): _picture((folder / file).read_bytes())
        for file, words in PICTURES.items()
        if file != "attention.png" or (folder / file).exists()
    }


def _strip(images: np.ndarray, examples: int) -> str:
    """`examples` images, evenly spread over the set: no choice of the best."""
    rows = np.linspace(0, len(images) - 1, min(examples, len(images))).round().astype(int)
    padded = np.full((examples, *images.shape[1:]), 255, dtype=np.uint8)
    padded[: len(rows)] = images[rows]
    return _picture(plots.picture_png(plots.mosaic(padded, examples), zoom=max(1, 128 // images.shape[1])))


def _picture(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _figure(value: Mapping[str, float | None]) -> str:
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.3f}" + (f" ({value['low']:.3f}–{value['high']:.3f})" if value["low"] is not None else "")
