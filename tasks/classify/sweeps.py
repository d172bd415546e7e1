"""What the sweeps of stage `classify` say: how much to add, how rare a class must be, what synthetic images alone do.

They explore: no verdict looks at them, and no interval is corrected for how many there are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tasks.classify.arms import generators
from tasks.classify.comparison import ALWAYS_COMPARED, PRIMARY, held_out, measure, patients_behind
from tasks.classify.differences import paired_differences
from tasks.classify.metrics import interval
from tasks.params import GENERATOR_OF, Classify

MEASURES = ("auroc", PRIMARY)


def sweeps(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    """{"ratio": [...], "real_fraction": [...]} with the end point 1, which is the main experiment, in each.

    A row is an arm at a value: the primary measure with its interval over test patients, and for an arm with synthetic
    images `differences` to the controls at the same value, with intervals over patients and seeds. `predictions` has
    the columns of `compare` and ratio, fraction and only (see `arms.Job`).
    """
    columns = {"ratio": ("ratio", params.ratios), "real_fraction": ("fraction", params.real_fractions)}
    focus = [classes.index(label) for label in rare or classes]
    result: dict[str, Any] = {name: [] for name in columns}
    for name, (column, values) in columns.items():
        other = "fraction" if column == "ratio" else "ratio"
        of_sweep = predictions[(predictions[other] == 1) & ~predictions["only"] & predictions["arm"].isin(params.arms)]
        arms = [arm for arm in params.arms if (of_sweep.loc[of_sweep["arm"] == arm, column] < 1).any()]
        if not values or not arms:
            continue
        whole = of_sweep[(of_sweep["arm"] == arms[0]) & (of_sweep[column] == 1)]
        test = held_out(whole, classes, params.bootstrap)
        fewest = patients_behind(classes, focus, test)[PRIMARY]
        measured = {
            value: {str(arm): measure(at_value[at_value["arm"] == arm], classes, focus, test)[PRIMARY] for arm in arms}
            for value, at_value in of_sweep.groupby(column)
        }
        result[name] = [
            {
                "arm": arm,
                column: value,
                PRIMARY: interval(by_arm[arm].mean(0), params.confidence, fewest),
                "differences": _differences(arm, by_arm, fewest, params.confidence),
            }
            for arm in arms
            for value, by_arm in measured.items()
        ]
    return result


def _differences(arm: str, measured: Mapping[str, np.ndarray], fewest: int, confidence: float) -> dict[str, Any]:
    """Of an arm with synthetic images to the controls that are there, {control: interval}; none of another arm."""
    controls = [control for control in ALWAYS_COMPARED if control in measured]
    if arm not in GENERATOR_OF or not controls:
        return {}
    differences = paired_differences(measured, [arm], controls, fewest)[arm]
    return {control: difference.interval(confidence) for control, difference in differences.items()}


def tstr(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> list[dict[str, Any]]:
    """Train on synthetic, test on real (TSTR, arXiv 1706.02633), and the reverse (TRTS), of the rare classes.

    `trained_on` a generator: its images in place of all real rare train films. `tested_on` a generator: its images in
    place of the real rare test films, as many of them. The common classes are real everywhere. The first row is real
    on both sides.
    """
    if not params.tstr:
        return []
    names = generators(params)
    main = predictions[(predictions["ratio"] == 1) & (predictions["fraction"] == 1)]
    real = main[(main["arm"] == "real") & ~main["only"]]
    pairs = {("real", "real"): real}
    for name in names:
        pairs[name, "real"] = main[(main["arm"] == name) & main["only"]]
    for name in names:
        replaced = (real["split"] == "test") & real["label"].isin(real.loc[real["split"] == name, "label"])
        pairs["real", name] = real[~replaced].replace({"split": {name: "test"}})
    return [
        {"trained_on": trained_on, "tested_on": tested_on, **_measures(rows, classes, rare, params)}
        for (trained_on, tested_on), rows in pairs.items()
    ]


def _measures(rows: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    test = held_out(rows, classes, params.bootstrap)
    focus = [classes.index(label) for label in rare or classes]
    measured, patients = measure(rows, classes, focus, test), patients_behind(classes, focus, test)
    return {name: interval(measured[name].mean(0), params.confidence, patients[name]) for name in MEASURES}
