"""Has the data changed since the champion learnt? The current train split against the summary in its registry entry.

Compared are the split and, apart, the films in it that the champion has not seen: among many old films a delivery from
another device would be lost. A warning needs both a change that is large and one that chance does not explain: with
many films every difference is significant, with few every difference looks large.

Of several findings a film the balance is that of the sets of findings. Each film counts once, so one test is enough;
and findings that come together more often than before are seen though each is as frequent as it was.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import kolmogorov

from tasks import image_set
from tasks.files import write_json
from tasks.registry import CHAMPION, versions
from tasks.registry.data_summary import FEWEST, OTHER_SETS, Summary, counts, histogram, marks, shares, statistics
from tasks.shown.numbers import number, percent

LARGE_PSI = 0.25  # population stability index: below 0.1 little, above 0.25 a shift (practice of credit scoring)
LARGE_VARIATION = 0.05  # total variation distance of the class shares
UNLIKELY = 0.01  # p-value, divided by the number of tests of image statistics (Bonferroni)
RESAMPLES = 1999  # of the test of sets of findings
SMALLEST_SHARE = 0.01  # an empty bin counts as this, for the index has a logarithm

Found = dict[str, Any]


def run(curated_folder: Path, out: Path) -> Found:
    """Compare, write `out`, return it: champion, and what `compare` finds."""
    train = image_set.load(curated_folder).where(split="train")
    champion = versions.holder(CHAMPION)
    result: Found = {"champion": None, "classes": {}, "images": {}, "new": {}, "warnings": []}
    if champion is None:
        result["sentence"] = "There is no champion yet, so there is no earlier data to compare with."
    else:
        with versions.fetched(champion) as folder:
            before = json.loads((folder / versions.RECORD / "data_summary.json").read_text(encoding="utf-8"))
        result |= {"champion": champion.number, **compare(before, train)}
    write_json(out, result)
    return result


def compare(before: Summary, train: image_set.ImageSet) -> Found:
    """classes, images, new, warnings and sentence, of a train split against an earlier one's summary.

    `new` are films, classes and images of what the earlier split did not hold; empty where that is nothing or all.
    """
    found, warnings = _compared(before, train, "The")
    warnings = _other_classes(found["classes"]) + warnings
    if ("sets" in before) != train.several:
        learnt, have = ("one class", "several findings")[:: 1 if train.several else -1]
        warnings.insert(0, f"The champion learnt from films with {learnt} each, and the films now have {have}.")
    side = train.images.shape[-1]
    if before["size"] != side:
        warnings.append(
            f"The images had {before['size']} pixels a side and have {side}: their statistics are not compared."
        )
    unseen = train.keep(~np.isin(marks(train), before.get("seen", [])))
    new: Found = {}
    if 0 < len(unseen.images) < len(train.images):
        new, more = _compared(before, unseen, f"In the {len(unseen.images)} new films the")
        new["films"] = len(unseen.images)
        warnings += more
    said = f"{len(warnings)} signs of drift: {' '.join(warnings)}" if warnings else "No sign of drift"
    sentence = said if warnings else f"{said} in the class balance or the image statistics of the train split."
    return {**found, "new": new, "warnings": warnings, "sentence": sentence}


def _compared(before: Summary, films: image_set.ImageSet, the: str) -> tuple[Found, list[str]]:
    """classes and images, and the warnings, which begin with `the`; images of another size are left out."""
    now = counts(films)
    classes, images = class_balance(before["counts"], now), {}
    what, most = "class balance has", ""
    if films.several or "sets" in before:
        sets = _balance_of_sets(before, films)
        classes = {**sets, "counts": classes["counts"], "sets": sets["counts"]}
        what, most = "sets of findings have", f", most of all {_most_moved(sets['counts'])}"
    warnings = []
    if classes["p"] is not None and classes["p"] < UNLIKELY and classes["total_variation"] > LARGE_VARIATION:
        moved = percent(classes["total_variation"])
        warnings.append(f"{the} {what} moved by {moved} of the films{most}.")
    if before["size"] == films.images.shape[-1]:
        common = [label for label in before["images"] if now.get(label, 0) >= FEWEST]
        for label in common:
            images[label] = _image_statistics(before, films, label)
            warnings += _image_warnings(the, label, images[label], UNLIKELY / (3 * len(common)))
    return {"classes": classes, "images": images}, warnings


def _balance_of_sets(before: Summary, films: image_set.ImageSet) -> Found:
    """The `class_balance` of sets of findings; those that the summary does not name are one."""
    named = before["sets"] if "sets" in before else before["counts"]
    now = Counter(names if names in named else OTHER_SETS for names in films.manifest["label"])
    return class_balance(named, now, RESAMPLES)


def _most_moved(sets: Mapping[str, Mapping[str, int]]) -> str:
    b, n = (max(1, sum(count[side] for count in sets.values())) for side in ("before", "now"))
    name = max(sets, key=lambda name: abs(sets[name]["now"] / n - sets[name]["before"] / b))
    return f"{name or 'rare or new sets'}, from {percent(sets[name]['before'] / b)} to {percent(sets[name]['now'] / n)}"


def class_balance(before: Mapping[str, int], now: Mapping[str, int], resamples: int = 0) -> Found:
    """Counts before and now, total variation distance of the shares, and p of a chi-square test (None without one).

    With `resamples` p is found by so many random tables: of many categories, of which a small delivery has few films
    each, the distribution of chi-square is exceeded by chance several times as often as it says.
    """
    from scipy.stats import MonteCarloMethod, chi2_contingency  # a second to import, and often nothing to compare

    labels = sorted(before.keys() | now.keys())
    counts = np.array([[side.get(label, 0) for label in labels] for side in (before, now)])
    present = counts[:, counts.sum(0) > 0]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    testable = present.shape[1] > 1 and present.sum(1).all()
    how: Found = {}
    if resamples:
        how = {"correction": False, "method": MonteCarloMethod(resamples, rng=np.random.default_rng(0))}
    p = float(chi2_contingency(present, **how).pvalue) if testable else None
    return {
        "counts": {label: {"before": int(b), "now": int(n)} for label, b, n in zip(labels, *counts, strict=True)},
        "total_variation": round(float(np.abs(share[0] - share[1]).sum() / 2), 4),
        "p": None if p is None else float(f"{p:.3g}"),
    }


def stability_index(before: list[float], now: list[float]) -> float:
    """The population stability index of two lists of shares of the same bins, 0 where they are equal."""
    b, n = (np.maximum(np.array(side), SMALLEST_SHARE) for side in (before, now))
    b, n = b / b.sum(), n / n.sum()
    return round(float(((n - b) * np.log(n / b)).sum()), 4)


def _image_statistics(before: Summary, train: image_set.ImageSet, label: str) -> Found:
    """Of a class, by statistic: means, the distance of Kolmogorov and Smirnov at the bins' edges, its p, the index."""
    films, old = train.where(label=label).images, before["images"][label]
    n, m = before["counts"][label], len(films)
    result: Found = {"films": {"before": n, "now": m}}
    for name, values in statistics(films).items():
        here = shares(values, old[name]["edges"])
        distance = float(np.abs(np.cumsum(here) - np.cumsum(old[name]["shares"])).max())
        comparable = bool(old[name]["edges"])
        p = float(kolmogorov(distance * (n * m / (n + m)) ** 0.5))  # conservative: it looks at few points
        result[name] = {
            "before": old[name]["mean"],
            "now": round(float(values.mean()), 4),
            "distance": round(distance, 4) if comparable else None,
            "p": float(f"{p:.3g}") if comparable else None,
            "psi": stability_index(old[name]["shares"], here) if comparable else None,
        }
    grey = histogram(films)
    result["histogram"] = {
        "distance": round(float(np.abs(np.array(grey) - np.array(old["histogram"])).sum() / 2), 4),
        "psi": stability_index(old["histogram"], grey),
    }
    return result


def _other_classes(classes: Found) -> list[str]:
    found = []
    for label, count in classes["counts"].items():
        if not count["before"]:
            found.append(f"The class {label} is new, with {count['now']} films.")
        elif not count["now"]:
            found.append(f"The class {label} has gone, of which there were {count['before']} films.")
    return found


def _image_warnings(the: str, label: str, found: Found, unlikely: float) -> list[str]:
    words = {"mean_grey": "mean grey", "contrast": "contrast", "sharpness": "sharpness"}
    return [
        f"{the} {words[name]} of {label} has moved from {number(found[name]['before'])} to "
        f"{number(found[name]['now'])} (stability index {found[name]['psi']:.2f})."
        for name in words
        if found[name]["p"] is not None and found[name]["p"] < unlikely and found[name]["psi"] > LARGE_PSI
    ]
