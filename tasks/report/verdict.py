"""One sentence with numbers: do synthetic images of the rare classes help here?"""

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.params import GENERATOR_OF, TWO_STAGE
from tasks.report.gates import gates
from tasks.shown.numbers import change, decimals

WORDS = {
    "helps": "Synthetic images help",
    "harms": "Synthetic images harm",
    "no evidence": "No evidence that synthetic images help",
}
ALONE = {"helps": "it helps for", "harms": "it harms for", "no evidence": "there is no evidence for"}
FOR_HELP = {"duplicate", "classic"}  # controls without which nothing is called help
RATIO = 1.0  # of the plan: what the arms that are compared add; other ratios are a sweep, which no verdict looks at


def decide(
    downstream: dict[str, Any],
    plan: dict[str, int],
    quality: Mapping[str, Mapping[str, Any]] | None = None,
    screening: Mapping[str, Mapping[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """The verdict from the comparison of stage `classify`, and from what was measured of the generators by name.

    It is about the arm with synthetic images that is best on validation, against every control that is compared: the
    best arm without synthetic images (also by validation), `duplicate`, which has repeated real images in place of
    synthetic ones, `classic`, the cheap remedy, `two_stage_classic`, its two stages, and `real`. *helps*: the intervals
    of all differences lie above 0, and `duplicate` and `classic` are among them, for an arm of two stages
    `two_stage_classic` too; *harms*: all lie below and `real` is among them; else *no evidence*. So being no match for
    another remedy is not harm, though it is said, and beating an untreated classifier is not help. Where no class is
    rare: *not needed*. Arms of which validation was still gaining when the cap ended a training are named: figures of
    them may be of a speed of learning.

    `quality`, `screening` and the class fidelity in `downstream` open or close the gates of the candidate's generator
    (`gates`). They don't change the verdict: whether images help and whether they may be used are two questions, and
    one word that mixes them would answer neither. But help that must not be had is never stated alone: the sentence of
    *helps* then says so. That images don't show their class is said in every sentence: it may be why they don't help.
    """
    if not sum(plan.values()):
        return {"verdict": "not needed", "sentence": "No class is rare enough to synthesise images of it."}
    if "comparison" not in downstream:
        return {"verdict": "not compared", "sentence": "classify.arms holds no arms with and without synthetic images."}
    comparison = downstream["comparison"]
    candidate, reference = comparison["candidate"], comparison["reference"]
    differences = comparison["differences"][candidate]
    by_class = {label: found[candidate] for label, found in comparison["by_class"].items()}
    verdict = _word(candidate, differences)
    words = {label: _word(candidate, found) for label, found in by_class.items()}
    model = GENERATOR_OF[candidate]
    recognised = downstream.get("fidelity", {}).get(model)
    found = gates(model, (screening or {}).get(model), (quality or {}).get(model), recognised, plan)
    behind = [control for control, d in differences.items() if d["high"] is not None and d["high"] < 0]
    worse = behind if verdict == "no evidence" else []
    lost = f", and they are worse than {' and '.join(worse)}" if worse else ""
    sentence = f"{WORDS[verdict]}{lost}: {_numbers(downstream, candidate, reference, differences, words)}"
    gaining = _gaining(downstream.get("trainings", ()))
    if gaining:
        sentence += f" Validation still gained when classify.max_cycles ended the training of {' and '.join(gaining)}."
    closed = [gate["why"] for gate in found.values() if not gate["passed"]]
    if verdict == "helps" and closed:
        sentence += f" But do not use them as they are: {' '.join(closed)}"
    elif not found["fidelity"]["passed"]:
        sentence += f" {found['fidelity']['why']}"
    return {
        "verdict": verdict,
        "sentence": sentence,
        "candidate": candidate,
        "reference": reference,
        "classes": [label for label, word in words.items() if word == verdict != "no evidence"],
        "words": words,
        "worse": worse,
        "differences": differences,
        "by_class": by_class,
        "confidence": comparison["confidence"],
        "minimum_effect": comparison["minimum_effect"][candidate],
        "ratio": RATIO,
        "gaining": gaining,
        "gates": found,
    }


def hardest(differences: Mapping[str, Mapping[str, float | None]]) -> str:
    """The control that is hardest to beat: the smallest mean difference; "" where none is known."""
    known = {control: d["mean"] for control, d in differences.items() if d["mean"] is not None}
    return min(known, key=lambda control: known[control], default="")


def _gaining(trainings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The arms of which a training that the verdict looks at was still gaining."""
    return list(dict.fromkeys(found["arm"] for found in trainings if found["main"] and found["gaining"]))


def _for_help(candidate: str) -> set[str]:
    return FOR_HELP | {"two_stage_classic"} if candidate.startswith(TWO_STAGE) else FOR_HELP


def _word(candidate: str, differences: Mapping[str, Mapping[str, float | None]]) -> str:
    """What differences against every control say together."""
    lows, highs = ([d[end] for d in differences.values()] for end in ("low", "high"))
    if all(low is not None and low > 0 for low in lows) and differences.keys() >= _for_help(candidate):
        return "helps"
    if "real" in differences and all(high is not None and high < 0 for high in highs):
        return "harms"
    return "no evidence"


def _numbers(
    downstream: dict[str, Any], candidate: str, reference: str, differences: dict[str, Any], words: dict[str, str]
) -> str:
    rare, test = " and ".join(downstream["rare"]), downstream["test"]
    alone = _by_class(words)
    if differences[reference]["mean"] is None:
        absent = [label for label in downstream["rare"] if label not in test["patients_by_class"]]
        return f"the test split holds no image of {' and '.join(absent)} to measure it on.{alone}"
    comparison = downstream["comparison"]
    names = {
        control: f"{control} (on validation the best arm without them)"
        if control == reference and downstream["chosen_on_validation"]
        else control
        for control in differences
    }
    confidence = comparison["confidence"]
    changes = " ".join(f"Against {names[control]}: {change(d, confidence)}." for control, d in differences.items())
    of_class = " and ".join(f"{test['patients_by_class'].get(label, 0)} with {label}" for label in downstream["rare"])
    numbers = (
        f"with {candidate}, the area under the precision–recall curve of {rare} changes as follows. {changes} "
        f"Intervals are over {test['patients']} test patients ({of_class}) and {len(downstream['seeds'])} seeds, of "
        "one training of each generator."
    )
    numbers += alone
    if not downstream["chosen_on_validation"]:
        numbers += f" Validation has no film of {rare}, so no arm could be chosen by it; these are the first."
    if lacking := _for_help(candidate) - differences.keys():
        missing = " and ".join(sorted(lacking))
        numbers += f" Without {missing} among classify.arms nothing is called help."
    effect = comparison["minimum_effect"][candidate][reference]
    if effect is None:
        return (
            f"{numbers} A class has fewer than {downstream['min_patients']} test patients, or nothing varies: there is "
            "no interval."
        )
    if effect >= 1:
        return f"{numbers} So few patients and seeds could have shown no change at all: the largest there is is 1."
    return f"{numbers} A true change of {decimals(effect)} against {reference} would have been seen four times in five."


def _by_class(words: dict[str, str]) -> str:
    """A sentence where there are several classes and something is shown of one of them."""
    if len(words) < 2 or set(words.values()) == {"no evidence"}:
        return ""
    alone = {word: [label for label, of_label in words.items() if of_label == word] for word in ALONE}
    parts = [f"{ALONE[word]} {' and '.join(labels)}" for word, labels in alone.items() if labels]
    return f" By class, {', '.join(parts)}."
