"""What a person sees of a run in Prefect's UI: tables of the imbalance and the results, samples, where to read on."""

import os
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.files import flattened, read_report
from tasks.paths import IMBALANCE, METRICS, MODELS, RAW_DVC, REPORT, VERDICT
from tasks.shown.numbers import number, signed
from tasks.shown.pictures import data_uri
from tasks.tracking.provenance import raw_digest

SAMPLES = MODELS / "msg_sagan/samples.png"
SHOWN = {IMBALANCE, SAMPLES, VERDICT, METRICS, REPORT}


def publish(outs: Collection[Path]) -> None:
    """Tables, a picture and where to read on, of the outputs that this run made or found up to date.

    What is of another run, or is not there, is left out with a line in the log.
    """
    log = get_run_logger()
    made = {path for path in SHOWN if path.is_file() and not {path, *path.parents}.isdisjoint(outs)}
    verdict, metrics, imbalance = (read_report(path) if path in made else {} for path in (VERDICT, METRICS, IMBALANCE))
    headline = ". ".join([verdict.pop("headline", "Measures and plan"), *verdict.pop("lines", [])])
    verdict.pop("sentence", "")
    classes = imbalance_rows(imbalance)
    if classes:
        ratio = imbalance.get("imbalance_ratio", "–")
        create_table_artifact(classes, key="imbalance", description=f"Images by class and split. Ratio: {ratio}.")
    results = {"verdict": verdict, "metrics": metrics}
    leaves = [(part, *leaf) for part in results for leaf in flattened(results[part])]
    rows = [{"of": of, "what": key, "value": value} for of, key, value in leaves if not isinstance(value, list)]
    if rows:
        create_table_artifact(rows, key="results", description=plain(headline))
    if SAMPLES in made:
        # Markdown, for an image artifact prints its URL in full below the picture; and there is no file server.
        text = f"![Synthetic radiographs]({data_uri(SAMPLES.read_bytes())})"
        named = " A row a class: " + ", ".join(map(plain, imbalance["classes"])) + "." if imbalance else ""
        create_markdown_artifact(text, key="samples", description=f"Synthetic radiographs, {SAMPLES}.{named}")
    create_markdown_artifact(where_to_read_on(REPORT in made), key="links", description="Where to read on.")
    for path in sorted(SHOWN - made):
        log.info("No artifact from %s: %s.", path, f"it is of {_age(path)}" if path.is_file() else "it is not there")


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


def where_to_read_on(of_this_run: bool = True) -> str:
    """The report and the runs in MLflow, in markdown; of a tracking server its address, without what is secret."""
    page, lines = "", ["- no report yet"]
    served = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
    if served:
        from tasks.tracking.runs import artifact_page, runs_page  # MLflow is slow to import

        page = artifact_page("report", REPORT.name) if of_this_run else ""
    if REPORT.is_file():
        whose = "" if of_this_run else f", of {_age(REPORT)}: this run did not make it"
        lines = [f"- {f'[the report]({page})' if page else 'the report'}: `{REPORT}`, in the project's folder{whose}"]
    if served:
        lines.append(f"- [runs and models in MLflow]({runs_page()})")
    else:
        lines.append("- runs and models: `mlflow ui --backend-store-uri sqlite:///mlflow.db`, in the project's folder")
    return "\n".join(lines)


def _age(path: Path) -> str:
    """When a file was written: of an earlier run that is what a reader must know of it."""
    return f"an earlier run, {datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"


def plain(text: str) -> str:
    """For markdown: names of classes come from the data and must not become links or pictures."""
    return re.sub(r"([!-$&-+\-/<-@\[-^`{-~])", r"\\\1", text)  # of other signs markdown would show the backslash


def story(
    new: int,
    drift: dict[str, Any],
    verdict: dict[str, Any],
    challenge: dict[str, Any] | None,
    decision: str,
    pushed: str,
) -> str:
    """What happened, in markdown; every word that may come from the data is escaped. `challenge`: None without one."""
    now = "The champion stays; nothing is to be done."
    if challenge and challenge["champion"] is None:
        now = "There is no champion before it to go back to." if challenge["promote"] else "There is still no champion."
    elif challenge and challenge["promote"]:
        now = "`xraysynth models rollback` brings the champion before it back."
    lines = [
        f"# {plain(capital(decision))}",
        "",
        plain(challenge["reason"]) if challenge else "The verdict is about no generator, so there is none to compare.",
        "",
        "## New films",
        "",
        f"{new} new films were added to the snapshot `{raw_digest(RAW_DVC)}`.",
        "",
        "## Drift against the champion's data",
        "",
        plain(drift.get("sentence", "Not measured.")),
        *(f"\n**Warning**: {plain(warning)}" for warning in drift.get("warnings", [])),
        "",
        "## Do synthetic images help here?",
        "",
        f"**{plain(verdict.get('headline', 'No verdict'))}**",
        "",
        *(f"- {plain(line)}" for line in verdict.get("lines", ())),
        "",
        *(_comparison(challenge) if challenge else ()),
        "## And now",
        "",
        f"- {now}",
        "- `xraysynth models list` shows all versions.",
        f"- data and models to the DVC remote: {pushed}",
        where_to_read_on(),
    ]
    return "\n".join(lines)


def _comparison(challenge: dict[str, Any]) -> list[str]:
    """Of the story, what is about two generators."""
    champion = challenge["champion"]
    opponent = f"the champion, version {champion}" if champion is not None else "no champion"
    difference = challenge["difference"]
    numbers = "no interval"
    if difference is not None:
        ends = (difference[key] for key in ("mean", "low", "high"))
        mean, low, high = map(signed, ends)
        numbers = (
            f"{plain(challenge['measure'])} {mean} (interval {low} to {high}, margin {number(challenge['margin'])})"
        )
    gates = [
        f"- {plain(name)}: {'passed' if gate['passed'] else '**not passed**'}. {plain(gate['sentence'])}"
        for name, gate in challenge["gates"].items()
    ]
    return [
        f"## Challenger {challenge['challenger']} against {opponent}",
        "",
        f"On the same current test split: {numbers}.",
        "",
        *gates,
        "",
    ]


def capital(sentence: str) -> str:
    """With a capital first letter."""
    return sentence[0].upper() + sentence[1:]
