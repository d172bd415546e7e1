"""One sentence with numbers: do synthetic images of the rare classes help here?"""

from collections.abc import Mapping
from typing import Any

WORDS = {
    "helps": "Synthetic images help",
    "harms": "Synthetic images harm",
    "no evidence": "No evidence that synthetic images help",
}


def decide(
    downstream: dict[str, Any], plan: dict[str, int], quality: Mapping[str, Any], screening: Mapping[str, Any]
) -> dict[str, Any]:
    """The verdict from the comparison of stage `classify`.

    It is about the synthetic arm that is best on validation, against every control that is compared: the best arm
    without synthetic images (also by validation), `duplicate`, which differs in nothing but repeated real images in
    place of synthetic ones, and `real`. *helps*: the intervals of all differences lie above 0; *harms*: all lie below
    and `real` is among them; else *no evidence*. So being no match for another remedy is not harm, and beating an
    untreated classifier is not help. Where no class is rare: *not needed*.
    """
    if not sum(plan.values()):
        return {"verdict": "not needed", "sentence": "No class is rare enough to synthesise images of it."}
    if "comparison" not in downstream:
        return {"verdict": "not compared", "sentence": "classify.arms holds no arms with and without synthetic images."}
    comparison = downstream["comparison"]
    candidate, reference = comparison["candidate"], comparison["reference"]
    differences = comparison["differences"][candidate]
    verdict = "no evidence"
    if all(d["low"] is not None for d in differences.values()):
        if all(d["low"] > 0 for d in differences.values()):
            verdict = "helps"
        elif "real" in differences and all(d["high"] < 0 for d in differences.values()):
            verdict = "harms"
    return {
        "verdict": verdict,
        "sentence": f"{WORDS[verdict]}: {_numbers(downstream, candidate, reference, differences)}",
        "candidate": candidate,
        "reference": reference,
        "differences": differences,
        "confidence": comparison["confidence"],
    }


def _numbers(downstream: dict[str, Any], candidate: str, reference: str, differences: dict[str, Any]) -> str:
    rare = " and ".join(downstream["rare"])
    if differences[reference]["mean"] is None:
        return f"the test split holds no image of {rare} to measure it on."
    confidence = f"{100 * downstream['comparison']['confidence']:g} %"
    names = {
        control: f"{control} (on validation the best arm without them)" if control == reference else control
        for control in differences
    }
    changes = " and ".join(
        f"by {_change(d, confidence)} against {names[control]}" for control, d in differences.items()
    )
    return (
        f"with {candidate} the area under the precision–recall curve of {rare} changes {changes}; "
        f"intervals over {downstream['test']['patients']} test patients, {len(downstream['seeds'])} seeds averaged."
    )


def _change(difference: dict[str, float | None], confidence: str) -> str:
    if difference["low"] is None:
        return f"{difference['mean']:+.3f} (no interval)"
    return f"{difference['mean']:+.3f} ({confidence} interval {difference['low']:+.3f} to {difference['high']:+.3f})"
