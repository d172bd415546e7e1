"""What the sweeps of stage `classify` say: how much to add, how rare a class must be, what synthetic images alone do.

They explore: no verdict looks at them, and their intervals are of the choice of test patients alone.
"""

from typing import Any

import pandas as pd

from tasks.comparison import PRIMARY, held_out, measure
from tasks.params import SYNTHETIC_ARMS, Classify
from tasks.statistics import interval

MEASURES = ("auroc", PRIMARY)


def sweeps(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    """{"ratio": [...], "real_fraction": [...]} with the end point 1, which is the main experiment, in each.

    `predictions` has the columns of `compare` and ratio, fraction and only (see `tasks.arms.Job`).
    """
    columns = {"ratio": ("ratio", params.ratios), "real_fraction": ("fraction", params.real_fractions)}
    result: dict[str, Any] = {name: [] for name in columns}
    for name, (column, values) in columns.items():
        if not values:
            continue
        other = "fraction" if column == "ratio" else "ratio"
        of_sweep = predictions[(predictions[other] == 1) & ~predictions["only"] & predictions["arm"].isin(params.arms)]
        arms = [arm for arm in params.arms if (of_sweep.loc[of_sweep["arm"] == arm, column] < 1).any()]
        for arm in arms:
            for value in sorted({*values, 1.0}):
                rows = of_sweep[(of_sweep["arm"] == arm) & (of_sweep[column] == value)]
                found = _measures(rows, classes, rare, params)
                result[name].append({"arm": arm, column: value, PRIMARY: found[PRIMARY]})
    return result


def cross(predictions: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> list[dict[str, Any]]:
    """Real and synthetic images of the rare classes in each other's place, in training or in the test.

    `trained_on` a generator: its images in place of all real rare train films. `tested_on` a generator: its images in
    place of the real rare test films, as many of them. The common classes are real everywhere. The first row is real
    on both sides.
    """
    if not params.cross:
        return []
    names = [arm for arm in params.arms if arm in SYNTHETIC_ARMS]
    main = predictions[(predictions["ratio"] == 1) & (predictions["fraction"] == 1)]
    real = main[(main["arm"] == "real") & ~main["only"]]
    pairs = {("real", "real"): real}
    for name in names:
        pairs[name, "real"] = main[(main["arm"] == name) & main["only"]]
    for name in names:
        replaced = (real["split"] == "test") & real["label"].isin(real.loc[real["split"] == name, "label"])
        pairs["real", name] = real[~replaced].replace({"split": {name: "test"}})
    found = {pair: _measures(rows, classes, rare, params) for pair, rows in pairs.items()}
    return [{"trained_on": a, "tested_on": b, **values} for (a, b), values in found.items()]


def _measures(rows: pd.DataFrame, classes: list[str], rare: list[str], params: Classify) -> dict[str, Any]:
    test = held_out(rows, classes, params.bootstrap)
    found = measure(rows, classes, [classes.index(label) for label in rare or classes], test)
    return {name: interval(found[name].mean(0), params.confidence) for name in MEASURES}
