"""Whether the images of a generator may be used at all, apart from whether they help: three gates, with their reasons.

What was not measured has not passed.
"""

import math
from collections.abc import Mapping, Sized
from typing import Any

from tasks.shown.numbers import decimals, percent

MAX_COPIES = 0.05  # share of the images drawn that the screening took for copies of train films
MAX_FALSE_ALARMS = 0.05  # share of held-out real films that it takes for copies: above, it cannot tell
MS_SSIM_MARGIN = 0.05  # by which the MS-SSIM of synthetic pairs may lie above that of real pairs
MAX_NEAR_DUPLICATES = 0.01  # more of synthetic pairs than of real ones: that of a hundred images, repeated
FIDELITY_MARGIN = 0.15  # by which synthetic images may be recognised less often than real films
ENDS = (("value", "low", "high"), ("floor", "floor_low", "floor_high"))

Gate = dict[str, Any]


def gates(
    model: str,
    screening: Mapping[str, Any] | None,
    quality: Mapping[str, Any] | None,
    recognised: Mapping[str, Any] | None,
    plan: Mapping[str, int],
) -> dict[str, Gate]:
    """All gates of the generator `model`, by name: `passed`, `why`, and `label`, the class that decided ("": none)."""
    return {
        "memorisation": memorisation(model, screening, plan),
        "diversity": diversity(model, quality, plan),
        "fidelity": fidelity(model, recognised, plan),
    }


def memorisation(model: str, screening: Mapping[str, Any] | None, plan: Mapping[str, int]) -> Gate:
    """From the key "screening" of data/synthetic/NAME/dataset.json.

    Images taken for copies have been removed. A generator that makes many of them still fails: where it repeats films
    that openly, it is likely to do so in ways that the screening does not see. Removals up to the share of false
    alarms on held-out films are none of its doing.
    """
    if not screening:
        return _gate(False, f"Whether {model} copies train films was not measured.")
    alarms = screening["false_alarms"]
    if alarms is None:
        return _gate(False, f"Whether {model} copies train films could not be measured: no held-out films to compare.")
    if alarms > MAX_FALSE_ALARMS:
        return _gate(
            False,
            f"The screening of {model} takes {percent(alarms)} of held-out films for copies; it cannot tell them.",
        )
    classes = screening["classes"]
    missing = [label for label, count in plan.items() if count and not classes.get(label, {}).get("drawn")]
    if missing:
        return _gate(False, f"Whether {model} copies train films of {_list(missing)} was not measured.")
    share = {label: classes[label]["removed"] / classes[label]["drawn"] for label in plan if plan[label]}
    worst = max(share, key=lambda label: share[label])
    found = f"{percent(share[worst])} of the images of {worst} that {model} drew were taken for copies and removed"
    passed = share[worst] <= alarms + MAX_COPIES
    return _gate(passed, f"{_worst(worst, share)}{found}; the limit is {percent(alarms + MAX_COPIES)}.", worst)


def diversity(model: str, quality: Mapping[str, Any] | None, plan: Mapping[str, int]) -> Gate:
    """From reports/quality/NAME.json: synthetic pairs must not be surely more alike than real pairs of the class.

    It fails where the MS-SSIM of synthetic pairs lies above that of real pairs by more than MS_SSIM_MARGIN, and where
    by MAX_NEAR_DUPLICATES more of the synthetic pairs are near-duplicates: few images, each repeated, look as varied to
    a mean. Surely: with the errors of what is compared. To pass is no proof of variety: the reason is about the class
    that came nearest to failing.
    """
    above, repeated, unmeasured, worst = [], [], [], (-2.0, "", "")
    limit = f"more than {MS_SSIM_MARGIN:g} above real pairs"
    planned = [label for label, count in plan.items() if count]
    for label in planned:
        measures = (quality or {}).get("classes", {}).get(label, {}).get("measures") or {}
        if not measures.keys() >= {"ms_ssim", "near_duplicates"}:
            unmeasured.append(label)
            continue
        found, near_duplicates = measures["ms_ssim"], measures["near_duplicates"]
        surely = _surely_above(found)
        synthetic, real = ("{} ({} to {})".format(*(decimals(found[key]) for key in keys)) for keys in ENDS)
        words = f"Likeness (MS-SSIM, at most 1) of pairs of {label} by {model} {synthetic}, of real pairs {real}."
        above += [words] * (surely > MS_SSIM_MARGIN)
        worst = max(worst, (surely, words, label))
        share = "{} ({} to {})".format(*(percent(near_duplicates[key]) for key in ENDS[0]))
        if _surely_above(near_duplicates) > MAX_NEAR_DUPLICATES:
            repeated.append(f"{share} of pairs of {label} by {model} are near-duplicates")
            worst = max(worst, (1.0, words, label))
    if unmeasured:
        return _gate(False, f"The variety of the images of {_list(unmeasured)} by {model} was not measured.")
    reasons = []
    if repeated:
        reasons.append(
            f"{'; '.join(repeated)}. Even allowing for chance, more than {percent(MAX_NEAR_DUPLICATES)} above real "
            "pairs: it repeats a few images."
        )
    if above:
        reasons.append(f"{' '.join(above)} Even allowing for chance, {limit}: less varied than real ones.")
    passed = f"{_worst(worst[2], planned)}{worst[1]} Allowing for chance, no {limit}."
    return _gate(not reasons, " ".join(reasons) or passed, worst[2])


def fidelity(model: str, recognised: Mapping[str, Any] | None, plan: Mapping[str, int]) -> Gate:
    """From the key "fidelity" of reports/downstream.json, of this generator: its images must show their class.

    It fails where classifiers of real films recognise the class surely less often in synthetic images than in real test
    films, by more than FIDELITY_MARGIN; and where they tell real films themselves no better from other ones, for then
    images of another class could not be seen. The reason of an open gate is about the class that came nearest to
    failing.
    """
    reasons, unmeasured, worst = [], [], (-2.0, "", "")
    limit = f"more than {100 * FIDELITY_MARGIN:.0f} percentage points below real films."
    drawn = dict.fromkeys([*(label for label, count in plan.items() if count), *(recognised or {})])
    for label in drawn:
        found = (recognised or {}).get(label)
        if found is None or None in (found["floor"], found["others"]):
            unmeasured.append(label)
            continue
        synthetic, real = ([percent(found[key], 0) for key in keys] for keys in ENDS)
        words = (
            f"Images of {label} by {model} are recognised as {label} {synthetic[0]} of the time ({synthetic[1]} to "
            f"{synthetic[2]}), real test films {real[0]} ({real[1]} to {real[2]})"
        )
        surely = _surely_below(found)
        worst = max(worst, (surely, words, label))
        if surely > FIDELITY_MARGIN:
            reasons.append(f"{words}. Even allowing for chance, {limit}")
        elif found["floor_low"] - found["others"] <= FIDELITY_MARGIN:
            reasons.append(
                f"{words}, and other test films {percent(found['others'], 0)}: so classifiers cannot tell whether "
                "images show it."
            )
    if unmeasured:
        reasons.append(
            f"Whether the images of {_list(unmeasured)} by {model} show their class was not measured: that takes the "
            "arm classic, and real test films of each class."
        )
    passed = f"{_worst(worst[2], drawn)}{worst[1]}. Allowing for chance, no {limit}"
    return _gate(not reasons, " ".join(reasons) or passed, worst[2])


def _surely_below(found: Mapping[str, float]) -> float:
    """By how much a share lies below its floor, less the error of both (Newcombe 1998, Stat. Med. 17:873)."""
    error = math.hypot(found["high"] - found["value"], found["floor"] - found["floor_low"])
    return found["floor"] - found["value"] - error


def _surely_above(found: Mapping[str, float]) -> float:
    """By how much a measure lies above its floor, less the error of both."""
    error = math.hypot(found["value"] - found["low"], found["floor_high"] - found["floor"])
    return found["value"] - found["floor"] - error


def _gate(passed: bool, why: str, label: str = "") -> Gate:
    return {"passed": passed, "why": why, "label": label}


def _worst(label: str, labels: Sized) -> str:
    """That a reason is about one class of several."""
    return f"The worst of all classes: {label}. " if len(labels) > 1 else ""


def _list(names: list[str]) -> str:
    return " and ".join(names)
