"""With which truncation should images be drawn? The generators of the last run in this folder, drawn with several.

python -m benchmarks.truncation --values 0.8 1 1.2 1.4

Measures of the images beside their floor, and what classifiers gain by them, on validation, by which a setting may be
chosen, and on test. Params are those of the folder; nothing of the run is changed.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from benchmarks.tables import read, spread, table
from tasks import image_set, params, paths
from tasks.classify.arms import training_set
from tasks.classify.comparison import ALWAYS_COMPARED, PRIMARY, HeldOut, held_out, measure
from tasks.classify.differences import paired_differences
from tasks.classify.stage import predictions_of
from tasks.image_set import ImageSet
from tasks.params import GENERATOR_OF, Params
from tasks.progress import track
from tasks.quality import encoder
from tasks.quality import stage as quality_stage
from tasks.synthesize import stage as synthesize_stage

SHOWN = ("ms_ssim", "frechet_xray", "precision", "coverage")
Scenario = tuple[str, float]  # an arm and the truncation of what it adds, 0 for controls


def draw(plan: dict[str, int], section: Params, values: list[float], scratch: Path) -> dict[Scenario, ImageSet]:
    """The images of every generator, drawn with every truncation."""
    drawn = {}
    for name in sorted({GENERATOR_OF[arm] for arm in section.classify.arms if arm in GENERATOR_OF}):
        for value in values:
            how, out = section.synthesize.model_copy(update={"truncation": value}), scratch / f"{name}-{value}"
            synthesize_stage.run(paths.MODELS / name, out, plan, how, curated_folder=paths.CURATED)
            drawn[name, value] = image_set.load(out)
    return drawn


def looked_at(
    real: ImageSet, drawn: dict[Scenario, ImageSet], plan: dict[str, int], section: Params
) -> Iterator[list[str]]:
    """A row a generator, truncation and class."""
    network, _ = encoder.load(paths.MODELS / "encoder")
    for label in plan:
        films = real.where(split="train", label=label)
        patients = films.manifest["patient_id"].to_numpy()
        for (name, value), images in drawn.items():
            report = quality_stage.measure(
                films.images, images.where(label=label).images, network, section.quality, None, patients
            )
            shown = [report["measures"][measure] for measure in SHOWN]
            yield [name, label, f"{value:g}", *(f"{entry['value']:.3g} ({entry['floor']:.3g})" for entry in shown)]


def trained(
    real: ImageSet, drawn: dict[Scenario, ImageSet], plan: dict[str, int], section: Params, values: list[float]
) -> tuple[dict[Scenario, pd.DataFrame], HeldOut]:
    """What the classifiers of every arm say of the held-out images, and the test split."""
    scenarios = [(arm, value) for arm in section.classify.arms for value in (values if arm in GENERATOR_OF else [0.0])]
    trials = [(scenario, seed) for scenario in scenarios for seed in section.classify.seeds]
    parts: dict[Scenario, list[pd.DataFrame]] = {scenario: [] for scenario in scenarios}
    for (arm, value), seed in track(trials, len(trials), "truncation"):
        images = drawn.get((GENERATOR_OF.get(arm, ""), value))
        chosen = training_set(arm, real, images, plan, seed, balance=section.classify.balance)
        parts[arm, value].append(predictions_of(chosen, real, section.classify, seed))
    predictions = {scenario: pd.concat(per_seed, ignore_index=True) for scenario, per_seed in parts.items()}
    return predictions, held_out(predictions[scenarios[0]], real.classes, section.classify.bootstrap)


def gains(
    predictions: dict[Scenario, pd.DataFrame], test: HeldOut, classes: list[str], rare: list[str], confidence: float
) -> Iterator[list[str]]:
    """A row an arm and truncation."""
    focus = [classes.index(label) for label in rare]
    measured = {scenario: measure(rows, classes, focus, test) for scenario, rows in predictions.items()}
    primary = {scenario: measures[PRIMARY] for scenario, measures in measured.items()}
    treated = [(arm, value) for arm, value in primary if arm in GENERATOR_OF]
    controls = [(control, 0.0) for control in ALWAYS_COMPARED]
    differences = paired_differences(primary, treated, controls, test.fewest_patients_of(focus))
    for (arm, value), values in primary.items():
        row = [arm, f"{value:g}" if value else "", f"{measured[arm, value]['validation'].mean():.3f}"]
        row.append(f"{values[:, 0].mean():.3f}")
        row += [spread(difference.interval(confidence)) for difference in differences.get((arm, value), {}).values()]
        yield row + [""] * (4 + len(ALWAYS_COMPARED) - len(row))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=float, nargs="+", default=[0.8, 1.0, 1.2, 1.4])
    values = parser.parse_args().values
    section, real, report = params.load(), image_set.load(paths.CURATED), read(paths.IMBALANCE)
    plan = {label: count for label, count in report["plan"].items() if count}
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw(report["draw"], section, values, Path(scratch))
        header = ["model", "class", "truncation", *(f"{name} (floor)" for name in SHOWN)]
        print(table(header, looked_at(real, drawn, plan, section)), "\n", flush=True)
        predictions, test = trained(real, drawn, plan, section, values)
    header = ["arm", "truncation", "validation", "test", *(f"against {control}" for control in ALWAYS_COMPARED)]
    print(table(header, gains(predictions, test, real.classes, list(plan), section.classify.confidence)))


if __name__ == "__main__":
    main()
