"""The verdict in a few words: a headline, three lines of figures, and what to do now."""

from collections.abc import Mapping
from typing import Any

HEADLINES = {
    "helps": "Synthetic images help",
    "harms": "Synthetic images harm",
    "no evidence": "No evidence that synthetic images help",
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
    at most MOST; `worse`: the controls that the candidate is surely behind.

    Both are what `decide` takes and gives.
    """
    differences = verdict.get("differences", {})
    worse = [control for control, d in differences.items() if d["high"] is not None and d["high"] < 0]
    return {
        "headline": _headline(verdict, worse),
        "lines": _lines(verdict, downstream) if differences else [],
        "advice": _advice(verdict, downstream, worse)[:MOST],
        "worse": worse if verdict["verdict"] == "no evidence" else [],
    }


def _headline(verdict: Mapping[str, Any], worse: list[str]) -> str:
    word = verdict["verdict"]
    closed = [name for name, gate in verdict.get("gates", {}).items() if not gate["passed"]]
    if word == "no evidence" and worse:
        others = f" and {len(worse) - 1} more" if len(worse) > 1 else ""
        return f"No evidence of help; worse than {worse[0]}{others}"
    if word == "helps" and closed:
        return f"{HEADLINES[word]}, but must not be used ({closed[0]})"
    return HEADLINES[word]


def _lines(verdict: Mapping[str, Any], downstream: Mapping[str, Any]) -> list[str]:
    """Against the control that is hardest to beat."""
    differences, candidate, test = verdict["differences"], verdict["candidate"], downstream["test"]
    known = {control: d["mean"] for control, d in differences.items() if d["mean"] is not None}
    if not known:
        return []
    control = min(known, key=lambda name: known[name])
    before, after = (downstream["arms"][arm][downstream["primary"]]["mean"] for arm in (control, candidate))
    found, effect = differences[control], verdict["minimum_effect"][control]
    interval = "no interval"
    if found["low"] is not None:
        interval = f"{100 * verdict['confidence']:.3g} % interval {found['low']:+.3f} to {found['high']:+.3f}"
    rare = " and ".join(downstream["rare"])
    patients = " and ".join(f"{test['patients_by_class'].get(label, 0)} with {label}" for label in downstream["rare"])
    seen = "It is not known what change this test could have shown."
    if effect is not None:
        seen = f"A true change of {effect:.3f} would have been seen four times in five."
        if effect >= 1:
            seen = "So few patients and seeds could have shown no change at all."
    change, seeds = f"{found['mean']:+.3f}, {interval}", len(downstream["seeds"])
    return [
        f"AUPRC of {rare}: {before:.3f} with {control}, {after:.3f} with {candidate} ({change}).",
        f"{test['patients']} test patients ({patients}), {seeds} seeds, one training of each generator.",
        seen,
    ]


def _advice(verdict: Mapping[str, Any], downstream: Mapping[str, Any], worse: list[str]) -> list[str]:
    """From what was found to what to do, the gravest first."""
    differences, effects = verdict.get("differences", {}), verdict.get("minimum_effect", {})
    word, gates = verdict["verdict"], verdict.get("gates", {})
    seeds, leaked = len(downstream.get("seeds", ())), downstream.get("leaked", {})
    unknown = any(found["low"] is None for found in differences.values())
    blind = any(effect is not None and effect > SMALL for effect in effects.values())
    found = {
        "Look first at the films that are nearly equal in train and test: their patients may be named wrongly.": any(
            leaked.values()
        ),
        "Look first at the confound named below: classifiers may have learnt it in place of the disease.": bool(
            downstream.get("confounds", {}).get("warnings")
        ),
        **{advice: not gates[name]["passed"] for name, advice in GATE_ADVICE.items() if name in gates},
        "Some arms were still gaining: raise classify.max_cycles.": bool(verdict.get("gaining")),
        "Add test patients of the rare classes: five of each give an interval (ingest.split.test).": unknown,
        "Use five classify.seeds or more, and more test patients: this test sees large changes alone.": (
            blind and word == "no evidence" and seeds < 5
        ),
        "More test patients would show smaller changes; more seeds hardly.": (
            blind and word == "no evidence" and seeds >= 5
        ),
        f"Train with {worse[0] if worse else 'classic'} alone: here it is the better remedy.": bool(worse),
        "Leave synthetic images out: a gain worth having would have been seen.": (
            word == "no evidence" and not (worse or blind or unknown)
        ),
        "Confirm it on films of another time or hospital, then draw with `xraysynth synthesize`.": word == "helps",
        "Compare something: classify.arms needs real, duplicate, classic and an arm of a generator.": (
            word == "not compared"
        ),
    }
    return [advice for advice, holds in found.items() if holds]
