"""What a person sees of a run in Prefect's UI: a table of the results and a picture of the samples."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

VERDICT, METRICS, IMBALANCE = (Path(f"reports/{name}.json") for name in ("verdict", "metrics", "imbalance"))
SAMPLES = Path("models/msg_sagan/samples.png")


def publish() -> None:
    """One table and one picture; what a partial run has not made is left out with a line in the log."""
    log = get_run_logger()
    verdict, metrics, imbalance = (_read(path) for path in (VERDICT, METRICS, IMBALANCE))
    sentence = verdict.pop("sentence", "Measures and plan.")
    results = {"verdict": verdict, "metrics": metrics, "to synthesise": imbalance.get("plan", {})}
    rows = [{"of": part, "what": key, "value": value} for part in results for key, value in _leaves(results[part])]
    if rows:
        create_table_artifact(rows, key="results", description=_plain(sentence))
    if SAMPLES.is_file():
        # The picture travels in the artifact: there is no file server between a run and the UI. In markdown,
        # because an image artifact prints its URL in full below the picture, here some 100,000 letters.
        picture = base64.b64encode(SAMPLES.read_bytes()).decode()
        text = f"![Synthetic radiographs](data:image/png;base64,{picture})"
        create_markdown_artifact(text, key="samples", description=f"Synthetic radiographs, {SAMPLES}.")
    for path in (VERDICT, METRICS, IMBALANCE, SAMPLES):
        if not path.is_file():
            log.info("No artifact from %s: this run has not made it.", path)


def _plain(text: str) -> str:
    """For markdown: names of classes come from the data and must not become links or pictures."""
    return re.sub(r"([^\w\s.,:;%])", r"\\\1", text)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and words of a nested report, each with its dotted name; lists are for the report page."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif not isinstance(value, list):
        yield prefix, value
