"""The verdict in a few words: a headline, three lines of figures, and what to do now."""

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.report.verdict import WORDS, hardest
from tasks.shown.numbers import change, decimals

HEADLINES = WORDS | {
    "not needed": "No class is rare enough to need synthetic images",
    "not compared": "Nothing was compared",
}
SMALL = 0.1  # of the area under the precision-recall curve: a test that sees no smaller change shows little
MOST = 3  # pieces of advice
GATE_ADVICE = {
    "memorisation": "Do not use these images, they repeat films: train more briefly (train.kimg), or on more films.",
    "diversity": "The images are too alike. Raise synthesize.truncation, or train on more films.",
    "fidelity": "The images do not show their class. Train for longer (train.kimg), or with more films of it.",
}


def told(verdict: Mapping[str, Any], downstream: Mapping[str, Any]) -> dict[str, Any]:
    """`headline` of at most twelve words, `lines`: what was compared, on whom, and what could have been seen; `advice`,
    at most MOST.

    Both are what `decide` gives and takes.
    """
    return {
        "headline": _headline(verdict),
        "lines": _lines(verdict, downstream) if "differences" in verdict else [],
        "advice": [advice for advice, holds in _advice(verdict, downstream) if holds][:MOST],
    }


def _headline(verdict: Mapping[str, Any]) -> str:
    word, worse = verdict["verdict"], verdict.get("worse")
    closed = [name for name, gate in verdict.get("gates", {}).items() if not gate["passed"]]
    if worse:
        others = f" and {len(worse) - 1} more" if len(worse) > 1 else ""
        return f"No evidence of help; worse than {worse[0]}{others}"
    if word == "helps" and closed:
        return f"{HEADLINES[word]}, but must not be used ({closed[0]})"
    return HEADLINES[word]


def _lines(verdict: Mapping[str, Any], downstream: Mapping[str, Any]) -> list[str]:
    """Against the control that is hardest to beat."""
    differences, candidate, test = verdict["differences"], verdict["candidate"], downstream["test"]
    control = hardest(differences)
    if not control:
        return []
    before, after = (downstream["arms"][arm][downstream["primary"]]["mean"] for arm in (control, candidate))
    effect = verdict["minimum_effect"][control]
    rare = " and ".join(downstream["rare"])
    patients = " and ".join(f"{test['patients_by_class'].get(label, 0)} with {label}" for label in downstream["rare"])
    seen = "It is not known what change this test could have shown."
    if effect is not None:
        seen = f"A true change below {decimals(effect)} would be missed more than one time in five."
        if effect >= 1:
            seen = "So few patients and seeds could have shown no change at all."
    changed, seeds = change(differences[control], verdict["confidence"]), len(downstream["seeds"])
    return [
        f"AUPRC of {rare}: {decimals(before)} without synthetic images ({control}), {decimals(after)} with them "
        f"({candidate}); {changed}.",
        f"{test['patients']} test patients ({patients}), {seeds} seeds, one training of each generator.",
        seen,
    ]


def _advice(verdict: Mapping[str, Any], downstream: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """What may be advised, the gravest first, and whether it is."""
    yield (
        "Look first at the films that are nearly equal in train and test: their patients may be named wrongly.",
        any(downstream.get("leaked", {}).values()),
    )
    yield (
        "Look first at the confound named below: classifiers may have learnt it in place of the disease.",
        bool(downstream.get("confounds", {}).get("warnings")),
    )
    word, gates = verdict["verdict"], verdict.get("gates", {})
    for name, advice in GATE_ADVICE.items():
        yield advice, name in gates and not gates[name]["passed"]
    yield "Some arms were still gaining: raise classify.max_cycles.", bool(verdict.get("gaining"))
    unknown = any(found["low"] is None for found in verdict.get("differences", {}).values())
    yield "Add test patients of the rare classes: five of each give an interval (ingest.split.test).", unknown
    effects = verdict.get("minimum_effect", {}).values()
    blind = word == "no evidence" and any(effect is not None and effect > SMALL for effect in effects)
    few = len(downstream.get("seeds", ())) < 5
    yield (
        "Use five classify.seeds or more, and more test patients: this test sees only large changes.",
        blind and few,
    )
    yield "More test patients would show smaller changes; more seeds would hardly help.", blind and not few
    worse = verdict.get("worse") or ([verdict["reference"]] if word == "harms" else [])
    if worse:
        yield f"Train with {worse[0]} alone: here it is the better remedy.", True
    yield (
        "Leave synthetic images out: a gain worth having would have been seen.",
        word == "no evidence" and not (worse or blind or unknown),
    )
    yield "Confirm it on films of another time or hospital, then draw with `xraysynth synthesize`.", word == "helps"
    yield (
        "Compare something: classify.arms needs real, duplicate, classic and an arm of a generator.",
        word == "not compared",
    )
