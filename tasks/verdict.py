"""One sentence with numbers: do synthetic images of the rare classes help here?"""

from typing import Any

WORDS = {
    "helps": "Synthetic images help",
    "harms": "Synthetic images harm",
    "no evidence": "No evidence that synthetic images help",
}


def decide(downstream: dict[str, Any], plan: dict[str, int]) -> dict[str, Any]:
    """The verdict from the comparison of stage `classify`.

    It is about the synthetic arm that is best on validation, against the best arm without synthetic images (also by
    validation) and against `duplicate`. *helps*: both intervals lie above 0; *harms*: the one against the best lies
    below 0; else *no evidence*. Where no class is rare: *not needed*.
    """
    if not sum(plan.values()):
        return {
            "verdict": "not needed",
            "sentence": "No class is rare enough to synthesise images of it: see imbalance.rare_below.",
        }
    if "comparison" not in downstream:
        return {
            "verdict": "not compared",
            "sentence": "classify.arms holds no pair of arms with and without synthetic images.",
        }
    comparison = downstream["comparison"]
    candidate, reference = comparison["candidate"], comparison["reference"]
    differences = comparison["differences"][candidate]
    difference = differences[reference]
    if any(d["low"] is None for d in differences.values()):
        verdict = "no evidence"
    elif all(d["low"] > 0 for d in differences.values()):
        verdict = "helps"
    else:
        verdict = "harms" if difference["high"] < 0 else "no evidence"
    return {
        "verdict": verdict,
        "sentence": f"{WORDS[verdict]}: {_numbers(downstream, candidate, reference, difference)}",
        "candidate": candidate,
        "reference": reference,
        "difference": difference,
        "confidence": comparison["confidence"],
    }


def _numbers(downstream: dict[str, Any], candidate: str, reference: str, difference: dict[str, float | None]) -> str:
    test, seeds = downstream["test"], len(downstream["seeds"])
    rare = " and ".join(downstream["rare"])
    if difference["mean"] is None:
        return f"the test split holds no image of {rare} to measure it on."
    span = "no interval" if difference["low"] is None else f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    confidence = f"{100 * downstream['comparison']['confidence']:g} %"
    return (
        f"with {candidate} the area under the precision–recall curve of {rare} changes by {difference['mean']:+.3f} "
        f"({confidence} interval {span}) against {reference}, the best arm without them; "
        f"{test['patients']} test patients, {seeds} seeds."
    )
