"""What a person sees of a run in Prefect's UI: tables of the imbalance and the results, samples, where to read on."""

import base64
import os
import re
from collections.abc import Iterator
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.places import IMBALANCE, METRICS, MODELS, REPORT, VERDICT
from tasks.provenance import read_report

SAMPLES = MODELS / "msg_sagan/samples.png"


def publish() -> None:
    """Tables, a picture and where to read on; what a partial run has not made is left out with a line in the log."""
    log = get_run_logger()
    verdict, metrics, imbalance = (read_report(path) for path in (VERDICT, METRICS, IMBALANCE))
    sentence = verdict.pop("sentence", "Measures and plan.")
    classes = imbalance_rows(imbalance)
    if classes:
        ratio = imbalance.get("imbalance_ratio", "–")
        create_table_artifact(classes, key="imbalance", description=f"Images by class and split. Ratio: {ratio}.")
    results = {"verdict": verdict, "metrics": metrics}
    rows = [{"of": part, "what": key, "value": value} for part in results for key, value in _leaves(results[part])]
    if rows:
        create_table_artifact(rows, key="results", description=plain(sentence))
    if SAMPLES.is_file():
        text = f"![Synthetic radiographs]({data_url(SAMPLES.read_bytes())})"
        named = " A row a class: " + ", ".join(map(plain, imbalance["classes"])) + "." if imbalance else ""
        create_markdown_artifact(text, key="samples", description=f"Synthetic radiographs, {SAMPLES}.{named}")
    create_markdown_artifact(where_to_read_on(), key="links", description="Where to read on.")
    for path in (VERDICT, METRICS, IMBALANCE, SAMPLES):
        if not path.is_file():
            log.info("No artifact from %s: this run has not made it.", path)


def imbalance_rows(imbalance: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a class: films by split, patients to train on, and how many images the plan adds."""
    return [
        {
            "class": label,
            **entry["images"],
            "train patients": entry["patients"]["train"],
            "rare": "yes" if label in imbalance["rare"] else "",
            "to synthesise": imbalance["plan"].get(label, 0),
        }
        for label, entry in imbalance.get("classes", {}).items()
    ]


def where_to_read_on() -> str:
    """The report and the runs in MLflow, in markdown; of a tracking server its address, without what is secret."""
    lines = [f"- the report: `{REPORT}`, in the project's folder" if REPORT.is_file() else "- no report yet"]
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        from tasks.tracking import server_address  # MLflow is slow to import

        lines.append(f"- [runs and models in MLflow]({server_address()})")
    else:
        lines.append("- runs and models: `mlflow ui --backend-store-uri sqlite:///mlflow.db`, in the project's folder")
    return "\n".join(lines)


def data_url(picture: bytes) -> str:
    """A PNG that travels in the artifact: there is no file server between a run and the UI.

    For markdown, because an image artifact prints its URL in full below the picture, here some 100,000 letters.
    """
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def plain(text: str) -> str:
    """For markdown: names of classes come from the data and must not become links or pictures."""
    return re.sub(r"([!-$&-+\-/<-@\[-^`{-~])", r"\\\1", text)  # of other signs markdown would show the backslash


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and words of a nested report, each with its dotted name; lists are for the report page."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, list):
        yield prefix, value
