"""Print the results of the last run in this folder as Markdown: the tables of docs/results.md.

python -m benchmarks.tables
"""

import json
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.markdown import table
from tasks.classify.comparison import ALWAYS_COMPARED
from tasks.image_set import SPLITS
from tasks.report.gates import ENDS
from tasks.report.page import DAMAGED
from tasks.report.stage import MEASURES

REPORTS, MODELS, SYNTHETIC = Path("reports"), Path("models"), Path("data/synthetic")


def spread(value: dict[str, float | None]) -> str:
    """Mean, and interval where there is one."""
    if value["mean"] is None or value["low"] is None:
        return "–" if value["mean"] is None else f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def main() -> None:
    """Everything, one table below the other."""
    imbalance, downstream, verdict = (read(REPORTS / f"{n}.json") for n in ("imbalance", "downstream", "verdict"))
    qualities = {path.stem: read(path) for path in sorted((REPORTS / "quality").glob("*.json"))}
    screening = {name: read(SYNTHETIC / name / "dataset.json")["screening"] for name in qualities}
    print(f"Machine: {torch.get_num_threads()} threads of {platform.machine()}, torch {torch.__version__}.\n")
    print(f"**{verdict['sentence']}**\n")
    for name, gate in verdict.get("gates", {}).items():
        print(f"- {name}: {'passed' if gate['passed'] else 'not passed'}; {gate['why']}")
    print()
    print(table(["class", *SPLITS, "to synthesise"], counts(imbalance)), "\n")
    print(table(["model", "kimg", "minutes", "images/s"], (training(name) for name in qualities)), "\n")
    header = ["model", "class", "measure", "synthetic", "floor", *DAMAGED]
    print(table(header, images(qualities, DAMAGED)), "\n")
    print(table(["model", "class", "drawn", "removed", "by", "false alarms"], copies(screening)), "\n")
    header = ["model", "class", "recognised", "real test films", "other test films", "taken for"]
    print(table(header, shown(downstream["fidelity"])), "\n")
    print(table(["arm", *MEASURES], ((a, *(spread(v[m]) for m in MEASURES)) for a, v in downstream["arms"].items())))
    parts = [f"{part}_{label}" for label in downstream["classes"] for part in ("recall", "precision", "auprc")]
    print()
    print(table(["arm", *parts], ((a, *(spread(v[m]) for m in parts)) for a, v in downstream["arms"].items())))
    if "comparison" in downstream:
        print()
        print(table(["arm", "against", "change of rare_auprc", "minimum effect"], differences(downstream)))
    if any(downstream["sweeps"].values()):
        print()
        against = (f"against {control}" for control in ALWAYS_COMPARED)
        print(table(["arm", "ratio", "share of the real images", "rare_auprc", *against], sweeps(downstream)))
    if downstream["tstr"]:
        print()
        cells = (
            (r["trained_on"], r["tested_on"], spread(r["auroc"]), spread(r["rare_auprc"])) for r in downstream["tstr"]
        )
        print(table(["trained on", "tested on", "auroc", "rare_auprc"], cells))


def counts(imbalance: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Images of each class by split, and what the plan adds."""
    for label, entry in imbalance["classes"].items():
        yield label, *(entry["images"][split] for split in SPLITS), imbalance["plan"].get(label, 0)


def images(qualities: dict[str, Any], controls: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Every measure beside its floor and its damaged controls."""
    for name, quality in qualities.items():
        for label, entry in quality["classes"].items():
            for measure, found in entry["measures"].items():
                value = f"{found['value']:.3g}"
                if found["low"] is not None:
                    value += f" ({found['low']:.3g} to {found['high']:.3g})"
                rest = (found["floor"], *(found["damaged"][control] for control in controls))
                yield name, label, measure, value, *(f"{number:.3g}" for number in rest)


def copies(screening: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """What was drawn and what was removed as a copy of a train film."""
    for name, found in screening.items():
        alarms = "–" if found["false_alarms"] is None else f"{found['false_alarms']:.1%}"
        for label, entry in found["classes"].items():
            by = ", ".join(f"{signal} {n}" for signal, n in entry["reasons"].items()) or "–"
            yield name, label, entry["drawn"], entry["removed"], by, alarms


def shown(fidelity: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """How often the class of the images is recognised, beside that of real films."""
    for name, classes in fidelity.items():
        for label, found in classes.items():
            ends = (["–" if found[key] is None else f"{found[key]:.0%}" for key in keys] for keys in ENDS)
            shares = (f"{value} ({low} to {high})" for value, low, high in ends)
            taken = ", ".join(f"{other} {share:.0%}" for other, share in found["confused"].items())
            yield name, label, *shares, "–" if found["others"] is None else f"{found['others']:.0%}", taken


def differences(downstream: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Paired differences, and the smallest one that the test could have shown."""
    comparison = downstream["comparison"]
    for arm, controls in comparison["differences"].items():
        for control, difference in controls.items():
            effect = comparison.get("minimum_effect", {}).get(arm, {}).get(control)
            yield arm, control, spread(difference), "–" if effect is None else f"{effect:.3f}"


def sweeps(downstream: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Both sweeps, one below the other."""
    for row in downstream["sweeps"]["ratio"] + downstream["sweeps"]["real_fraction"]:
        where = (f"{row[column]:g}" if column in row else "" for column in ("ratio", "fraction"))
        found = (row["differences"].get(control) for control in ALWAYS_COMPARED)
        yield row["arm"], *where, spread(row["rare_auprc"]), *(spread(value) if value else "" for value in found)


def training(name: str) -> tuple[str, str, str, str]:
    """How long a model was trained, from its history."""
    last = pd.read_csv(MODELS / name / "history.csv").iloc[-1]
    rate = 1000 * last["kimg"] / last["seconds"]
    return name, f"{last['kimg']:.1f}", f"{last['seconds'] / 60:.1f}", f"{rate:.0f}"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
