"""Stage `report`: one self-contained page, the verdict, figures for `dvc metrics` and curves for `dvc plots`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from model.gan import CONFIG
from tasks import image_set
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.image_set import SPLITS, ImageSet
from tasks.params import GENERATOR_OF, Params
from tasks.report import charts, gallery, page
from tasks.report.headline import told
from tasks.report.verdict import decide, hardest
from tasks.shown.numbers import percent
from tasks.tracking import provenance, runs

CALIBRATION = ("ece", "brier")
MEASURES = ("auroc", "rare_auprc", "balanced_accuracy", "macro_f1", "sensitivity_at_90_specificity", *CALIBRATION)
AXES = {"roc": ("false_positive_rate", "true_positive_rate"), "pr": ("recall", "precision")}
Content = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Where the results of the other stages are; the mappings go from model name to folder or file."""

    curated: Path
    synthetic: Mapping[str, Path]
    models: Mapping[str, Path]
    imbalance: Path
    quality: Mapping[str, Path]
    downstream: Path


@dataclass(frozen=True)
class Outputs:
    """What the stage writes: the page, three JSON files, and a folder of CSV files for `dvc plots`."""

    page: Path
    verdict: Path
    metrics: Path  # the few that matter
    measures: Path  # all
    plots: Path


def run(inputs: Inputs, outputs: Outputs, params: Params) -> dict[str, Any]:
    """Write all of `outputs` and log them as an MLflow run; returns the verdict.

    Raises UserError when a result of another stage is missing or of an older format.
    """
    try:
        content = _gather(inputs, params)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run the stages before `report`, or `dvc repro`") from None
    except KeyError as error:
        raise UserError(f"a result of another stage is incomplete (no {error}); {page.AGAIN}") from None
    figures = measures(content)
    with runs.tracked("report", params.report.model_dump(), content["dataset"]["digest"]) as tracked:
        content |= {"pipeline_id": tracked.pipeline_id, "run_id": tracked.run_id, "links": tracked.links()}
        with written_whole(outputs.page) as temporary:
            temporary.write_text(page.render(content), encoding="utf-8")
        write_json(outputs.verdict, content["verdict"])
        write_json(outputs.metrics, metrics(content))
        write_json(outputs.measures, figures)
        _write_plots(outputs.plots, content)
        tracked.metrics(figures)
        tracked.tag("verdict", content["verdict"]["verdict"])
        for file in (outputs.page, outputs.verdict):
            tracked.artifact(file.name, file.read_bytes())
    return dict(content["verdict"])


def metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """The ten figures that `dvc metrics show` and `dvc metrics diff` put side by side.

    They are of the candidate and its generator: the area of the arm and of the best control, their difference, and of
    the classes whose images are worst the share that is recognised, the variety and the two-sample test. The names are
    the same whichever arm is the candidate, so that two runs can be compared.
    """
    verdict, primary = content["verdict"], content["downstream"]["primary"]
    result: dict[str, Any] = {"imbalance_ratio": content["imbalance"]["imbalance_ratio"]}
    if "candidate" not in verdict:
        return result
    candidate, reference = verdict["candidate"], verdict["reference"]
    areas = {arm: values[primary]["mean"] for arm, values in content["downstream"]["arms"].items()}
    result[primary] = {"synthetic": areas[candidate], "control": areas[reference]}
    result["difference"] = verdict["differences"][reference]
    model = GENERATOR_OF[candidate]
    recognised = content["downstream"]["fidelity"].get(model, {}).values()
    if worst := min(recognised, key=lambda found: found["value"] - (found["floor"] or 0), default=None):
        result["recognised"] = {"synthetic": worst["value"], "real": worst["floor"]}
    of_classes = [entry["measures"] for entry in content["quality"][model]["classes"].values()]
    if of_classes:
        result["ms_ssim_above_real"] = max(
            found["ms_ssim"]["value"] - found["ms_ssim"]["floor"] for found in of_classes
        )
    told = [found["two_sample_auroc"]["value"] for found in of_classes if "two_sample_auroc" in found]
    result |= {"two_sample_auroc": max(told)} if told else {}
    return result | {"gates_passed": sum(gate["passed"] for gate in verdict["gates"].values())}


def measures(content: Mapping[str, Any]) -> dict[str, Any]:
    """All figures, of every arm, generator and class."""
    return {
        "imbalance_ratio": content["imbalance"]["imbalance_ratio"],
        **{
            measure: {arm: values[measure]["mean"] for arm, values in content["downstream"]["arms"].items()}
            for measure in MEASURES
        },
        "minimum_effect": content["verdict"].get("minimum_effect", {}),
        "quality": {
            name: {
                label: {measure: found["value"] for measure, found in entry["measures"].items()}
                for label, entry in quality["classes"].items()
            }
            for name, quality in content["quality"].items()
        },
        "fidelity": {
            name: {label: {key: found[key] for key in ("value", "floor")} for label, found in classes.items()}
            for name, classes in content["downstream"]["fidelity"].items()
        },
        "copies_removed": {
            name: {label: entry["removed"] for label, entry in screening.get("classes", {}).items()}
            for name, screening in content["screening"].items()
        },
    }


def _gather(inputs: Inputs, params: Params) -> Content:
    """Everything that the template shows."""
    curated = image_set.load(inputs.curated)
    real = curated.where(split="train")
    imbalance, downstream = _json(inputs.imbalance), _json(inputs.downstream)
    quality = {name: _json(path) for name, path in inputs.quality.items()}
    synthetic = {name: image_set.load(folder) for name, folder in inputs.synthetic.items()}
    screening = {name: _json(folder / "dataset.json")["screening"] for name, folder in inputs.synthetic.items()}
    verdict = decide(downstream, imbalance["draw"], quality, screening)
    verdict |= told(verdict, downstream)
    arms = page.arms(downstream, params.classify.balance)
    histories = {name: pd.read_csv(folder / "history.csv") for name, folder in inputs.models.items()}
    made = {name: images for name, images in synthetic.items() if len(images.images)}
    shown_set = _shown_set(verdict, made)
    pairs = {name: gallery.pairs(folder, screening[name]) for name, folder in inputs.synthetic.items()}
    return {
        "verdict": verdict,
        **_compared(verdict, downstream, arms),
        "imbalance": imbalance,
        "bars": _bars(real.classes, imbalance, made.get(shown_set)),
        "added_by": shown_set,
        "splits": SPLITS,
        "dataset": _json(inputs.curated / "dataset.json"),
        "films": gallery.side_by_side(real, synthetic, params.report.examples),
        "blind": gallery.blind(real, synthetic, list(imbalance["plan"]), params.report.blind, params.report.seed),
        "quality": quality,
        "spectra": page.spectra(quality),
        "strips": {name: _strips(result) for name, result in quality.items()},
        "downstream": downstream,
        "measures": MEASURES,
        "arms": arms,
        "arms_chart": _arms(downstream, downstream["primary"], verdict, arms),
        "calibration": {measure: _arms(downstream, measure, verdict, ticks=3) for measure in CALIBRATION},
        "confidence": percent(params.classify.confidence),
        "training": page.training(histories),
        "curves": page.curves(downstream, verdict),
        "convergence": page.convergence(downstream),
        "swept": page.swept(downstream, verdict),
        "models": {name: gallery.of_model(folder, real.classes) for name, folder in inputs.models.items()},
        "simulated": int((curated.manifest.get("simulated", pd.Series(dtype=str)) == "yes").sum()),
        "simulated_before": simulated_before(inputs.models),
        "screening": screening,
        "pairs": pairs,
        "evidence": _evidence(verdict, synthetic, pairs, quality, downstream),
        "params": yaml.safe_dump(params.model_dump(), sort_keys=False, default_flow_style=None),
        "git_revision": provenance.git_revision(),
        "locked": provenance.locked(),
    }


def simulated_before(models: Mapping[str, Path]) -> list[str]:
    """The generators that had learnt from simulated films before, by their folders: a caution stands beside those."""
    return [name for name, folder in models.items() if _json(folder / CONFIG)["extra"].get("simulated_before")]


def _evidence(
    verdict: Content, synthetic: Mapping[str, ImageSet], pairs: Content, quality: Content, downstream: Content
) -> Content:
    """What the gates of the candidate's generator decided on; nothing where none was asked."""
    if "candidate" not in verdict:
        return {}
    name = GENERATOR_OF[verdict["candidate"]]
    found = downstream["fidelity"].get(name, {})
    return gallery.of_gates(verdict["gates"], synthetic[name], pairs[name], quality[name], found)


def _shown_set(verdict: Mapping[str, Any], made: Mapping[str, ImageSet]) -> str:
    """Which model's images the picture of the balance after adds: those of the candidate, if it has some."""
    name = GENERATOR_OF.get(verdict.get("candidate", ""), "")
    return name if name in made else next(iter(made), "")


def _bars(classes: list[str], imbalance: Content, synthetic: ImageSet | None) -> Content:
    train = {label: imbalance["classes"][label]["images"]["train"] for label in classes}
    groups = {"before": {label: (n, 0) for label, n in train.items()}}
    if synthetic is not None:
        made = {label: len(synthetic.where(label=label).images) for label in imbalance["plan"]}
        added = {label: min(count, made[label]) for label, count in imbalance["plan"].items()}
        groups["after"] = {label: (n, added.get(label, 0)) for label, n in train.items()}
    return charts.bars(groups)


def _compared(verdict: Content, downstream: Content, arms: Mapping[str, str]) -> Content:
    """Charts of the candidate's differences, `forest`, and of those by class and of other arms, `others`; None without.

    `changes` are all of them, [(name, difference)]. The control that is hardest to beat is marked.
    """
    if "candidate" not in verdict:
        return {"forest": None, "others": None, "changes": []}
    candidate, comparison = verdict["candidate"], downstream["comparison"]
    own, by_class = verdict["differences"], verdict["by_class"] if len(verdict["by_class"]) > 1 else {}
    zones, marked = verdict["minimum_effect"], hardest(own)
    others = [(f"{label}: {candidate} − {c}", d) for label, found in by_class.items() for c, d in found.items()]
    effects = {}
    for arm in (arm for arm in comparison["differences"] if arm != candidate):
        for control, difference in comparison["differences"][arm].items():
            others.append((f"{arm} − {control}", difference))
            effects[others[-1][0]] = comparison["minimum_effect"][arm][control]
    return {
        "forest": charts.chart(list(own.items()), zones, zero=True, marked=marked, notes=arms),
        "others": charts.chart(others, effects, zero=True) if others else None,
        "changes": [*((f"{candidate} − {control}", d) for control, d in own.items()), *others],
        "hardest": marked,
        "augmented": page.augmented(candidate),
    }


def _arms(
    downstream: Content, measure: str, verdict: Content, notes: Mapping[str, str] | None = None, ticks: int = 5
) -> Content:
    rows = [(arm, values[measure]) for arm, values in downstream["arms"].items()]
    return charts.chart(rows, marked=verdict.get("candidate", ""), notes=notes, ticks=ticks)


def _strips(quality: Content) -> Content:
    """{class: {measure: places}}."""
    return {
        label: {name: charts.beside(found) for name, found in entry["measures"].items()}
        for label, entry in quality["classes"].items()
    }


def _write_plots(folder: Path, content: Content) -> None:
    """CSV files for `dvc plots`: counts by class, each measure by arm, differences, curves, courses of validation."""
    arms, curves = content["downstream"]["arms"], content["downstream"]["curves"]
    rows = [{"when": when, **row} for when, group in content["bars"].items() for row in group["rows"]]
    tables = {"counts": pd.DataFrame(rows).drop(columns="widths").rename(columns={"name": "class"})}
    for measure in MEASURES:
        of_measure = [{"arm": arm, **values[measure]} for arm, values in arms.items()]
        tables[measure] = pd.DataFrame(of_measure).rename(columns={"mean": measure})
    rows = [{"change": name, **difference} for name, difference in content["changes"]]
    tables["differences"] = pd.DataFrame(rows, columns=["change", "mean", "low", "high"])
    for kind, (x, y) in AXES.items():
        parts = [
            pd.DataFrame({"class": label, "arm": arm, **found[kind]})
            for arm, classes in curves.items()
            for label, found in classes.items()
        ] or [pd.DataFrame(columns=["class", "arm", "x", "mean", "low", "high"])]
        tables[kind] = pd.concat(parts).rename(columns={"x": x, "mean": y}).dropna(subset=[y])
    columns = ["arm", "seed", "steps", "losses"]
    tables["validation"] = (
        pd.DataFrame([found for found in content["downstream"]["trainings"] if found["main"]], columns=columns)
        .explode(["steps", "losses"])
        .rename(columns={"steps": "step", "losses": "loss"})
        .dropna()
    )
    with written_whole(folder) as temporary:
        temporary.mkdir()
        for name, table in tables.items():
            table.to_csv(temporary / f"{name}.csv", index=False)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
