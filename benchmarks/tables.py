"""Print the results of the last run in this folder as Markdown: the tables of docs/results.md.

python -m benchmarks.tables
"""

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

REPORTS, MODELS = Path("reports"), Path("models")


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [list(header), *rows]]
    lines.insert(1, "|" + "---|" * lines[0].count(" | ") + "---|")
    return "\n".join(lines)


def spread(value: dict[str, float | None]) -> str:
    """Mean and interval."""
    if value["mean"] is None or value["low"] is None:
        return "–"
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def main() -> None:
    """Everything, one table below the other."""
    imbalance, downstream, verdict = (read(REPORTS / f"{n}.json") for n in ("imbalance", "downstream", "verdict"))
    qualities = {path.stem: read(path) for path in sorted((REPORTS / "quality").glob("*.json"))}
    classes = imbalance["classes"]
    print(f"Machine: {torch.get_num_threads()} threads of {platform.machine()}, torch {torch.__version__}.\n")
    print(f"**{verdict['sentence']}**\n")
    splits = ("train", "val", "test")
    counts = (
        (label, *(c["images"][s] for s in splits), imbalance["plan"].get(label, 0)) for label, c in classes.items()
    )
    print(table(["class", *splits, "synthesised"], counts), "\n")
    print(table(["model", "kimg", "minutes", "images/s"], (training(name) for name in qualities)), "\n")
    shown = ("frechet_xray", "kid_xray", "ms_ssim", "precision", "recall", "density", "coverage")
    header = ["model", "class", *(f"{measure} (real)" for measure in shown)]
    rows = (
        (name, label, *(f"{m['measures'][key]['value']:.3g} ({m['measures'][key]['floor']:.3g})" for key in shown))
        for name, quality in qualities.items()
        for label, m in quality["classes"].items()
    )
    print(table(header, rows), "\n")
    measures = ["rare_auprc", "auroc", "balanced_accuracy", *(f"recall_{label}" for label in classes)]
    arms = ((arm, *(spread(values[m]) for m in measures)) for arm, values in downstream["arms"].items())
    print(table(["arm", *measures], arms))


def training(name: str) -> tuple[str, str, str, str]:
    """How long a model was trained, from its history."""
    last = pd.read_csv(MODELS / name / "history.csv").iloc[-1]
    rate = 1000 * last["kimg"] / last["seconds"]
    return name, f"{last['kimg']:.1f}", f"{last['seconds'] / 60:.1f}", f"{rate:.0f}"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
