"""The page: its template, the words of the measures, and the figures that are pictures."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from tasks.errors import UserError
from tasks.params import IMAGES_OF, PHANTOM, TWO_STAGE
from tasks.report import figures
from tasks.shown import plots
from tasks.shown.numbers import decimals, number, percent, signed
from tasks.shown.pictures import data_uri

AGAIN = "run `dvc repro`, which makes it again"
TEMPLATES = Path(__file__).parent / "templates"
WORDS = {  # of measures: name, what it says
    "frechet_xray": ("Fréchet distance", "frechet_xray: between features learnt from this train split; not the FID"),
    "kid_xray": ("Kernel distance", "kid_xray: as above, without bias by the number of images; not the published KID"),
    "fid": ("FID", "Fréchet distance between features of the standard Inception network"),
    "kid": ("KID", "kernel distance between features of the standard Inception network"),
    "ms_ssim": (
        "MS-SSIM of pairs",
        "likeness of synthetic images to each other; above that of real ones variety is lost",
    ),
    "near_duplicates": (
        "Near-duplicates",
        "share of synthetic pairs that are all but the same image; few images repeated have many",
    ),
    "two_sample_auroc": (
        "Two-sample AUROC",
        "how well a small network tells synthetic images from real ones, of films held out: 0.5 it cannot, 1 surely",
    ),
    "excess_power": (
        "Excess of fine detail",
        "excess_power: decibels of synthetic over real power in the highest octave; below 0 soft, above it noisy",
    ),
    "grid_power": (
        "Excess of a grid",
        "grid_power: decibels by which the frequencies of a grid of 2 or 4 pixels stand out more than in real films",
    ),
    "precision": ("Precision", "share of synthetic images that lie among real ones"),
    "recall": ("Recall", "share of real images that lie among synthetic ones"),
    "density": ("Density", "how many real neighbourhoods a synthetic image lies in, against what is expected"),
    "coverage": ("Coverage", "share of real images with a synthetic one in their neighbourhood"),
    "auroc": ("AUROC", "area under the ROC curve, mean of the classes"),
    "rare_auprc": ("AUPRC, rare classes", "area under the precision–recall curve, mean of the rare classes"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes at the operating point"),
    "macro_f1": ("Macro F1", "mean F1 of the classes at the operating point"),
    "sensitivity_at_90_specificity": (
        "Sens. at 90 % spec.",
        "sensitivity at 90 % specificity, mean of the rare classes",
    ),
    "ece": ("Calibration error", "ECE: 0 is best"),
    "brier": ("Brier score", "lower is better"),
}
BETTER = {"low": "lower is better", "high": "higher is better", "floor": "nearer to the floor is better"}
MIXED = {"rare": "the rare classes", "all": "every class"}  # by classify.balance
WITHOUT, WITH = "no augmentation", "classical augmentation"
CONTROLS = {
    "real": f"real films alone, {WITHOUT}",
    "class_weight": f"real films alone, rare classes weigh more, {WITHOUT}",
    "duplicate": f"rare films repeated, {WITHOUT}",
    "classic": f"rare films repeated, {WITH} (small shifts, turns, changes of contrast)",
    "two_stage_classic": "as classic, after a first stage that is classic too",
}
DAMAGED = {  # the letter on the axis, and what it stands for
    "blurred": ("B", "blurred, 1 px"),
    "slightly_blurred": ("b", "slightly blurred, 0.5 px"),
    "noisy": ("N", "noisy, 10 grey levels"),
    "slightly_noisy": ("n", "slightly noisy, 5 grey levels"),
    "grid": ("g", "a grid of 2 grey levels"),
    "one_image": ("1", "one image repeated"),
}
GATES = {"memorisation": "Memorisation", "diversity": "Diversity", "fidelity": "Class fidelity"}
SIGNS = {"helps": "✓", "harms": "✗", "no evidence": "○"}


def render(content: Mapping[str, Any]) -> str:
    """The page as HTML. Whatever comes from data is escaped; nothing is loaded, and no script but its own runs.

    Raises UserError when `content` has not what the templates show.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_together,
    )
    environment.filters |= {"figure": figure, "number": number, "percent": percent}
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    words = {"words": WORDS, "better": BETTER, "damaged_words": DAMAGED, "gate_words": GATES, "signs": SIGNS}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    try:
        return environment.get_template("report.html").render(**content, **words, script=script, script_digest=digest)
    except jinja2.UndefinedError as error:
        raise UserError(f"a result of another stage is incomplete ({error}); {AGAIN}") from None


def _together(value: Any) -> Any:
    """No line ends between a number and its sign."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) else value


def training(histories: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """By model: panels of losses and of what the guard has read, its alarms, and the facts of the last tick."""
    result = {}
    for name, history in histories.items():
        panels = {"losses": picture(figures.losses(history))}
        labels = figures.guarded_classes(history)
        if labels:
            panels["class recognised"] = picture(figures.of_classes(history, "recognised", "share, by the judge"))
            panels["MS-SSIM of pairs"] = picture(figures.of_classes(history, "ms_ssim", "MS-SSIM of pairs"))
            panels["Fréchet distance"] = picture(figures.distance(history))
        last = history.iloc[-1]
        result[name] = {
            "panels": panels,
            "classes": [(label, figures.SERIES[k % len(figures.SERIES)]) for k, label in enumerate(labels)],
            "alarms": [(row["kimg"], row["alarm"]) for _, row in figures.alarms(history).iterrows()],
            "kimg": last["kimg"],
            "minutes": last["seconds"] / 60,
        }
    return result


def highlighted(downstream: Mapping[str, Any], verdict: Mapping[str, Any]) -> list[str]:
    """The arms to be told apart in the curves: the candidate and its controls; all where nothing is compared."""
    wanted = [verdict["candidate"], *verdict["differences"]] if "candidate" in verdict else downstream["arms"]
    return [arm for arm in wanted if arm in downstream["arms"]][:6]


def spectra(quality: Mapping[str, Any]) -> dict[str, Any]:
    """By class the `panels` of power spectra, real beside each model that made images of it; the `key` of the lines."""
    by_class: dict[str, dict[str, Any]] = {}
    for name, result in quality.items():
        for label, entry in result["classes"].items():
            by_class.setdefault(label, {})[name] = entry["spectrum"]
    names = ["real", *quality]
    return {
        "panels": {label: picture(figures.spectrum(found)) for label, found in by_class.items()},
        "key": [(name, *figures.arm_style(name)) for name in names],
    }


def arms(downstream: Mapping[str, Any], balance: str) -> dict[str, str]:
    """What each arm is trained on, in a few plain words."""

    def synthetic(arm: str) -> str:
        whose = "the simulator" if IMAGES_OF[arm] == PHANTOM else IMAGES_OF[arm]
        if arm.startswith(TWO_STAGE):
            return f"as classic, after a first stage on images of {whose} alone"
        return f"real films and {whose}'s images of {MIXED[balance]}, {WITH if augmented(arm) else WITHOUT}"

    return {arm: CONTROLS.get(arm) or synthetic(arm) for arm in downstream["arms"]}


def augmented(arm: str) -> bool:
    """Whether its films are changed by classical augmentation."""
    return arm.startswith(("classic", TWO_STAGE))


def curves(downstream: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """`key`: (arm, colour, dashes) of the highlighted ones; `classes`: {class: {"ROC": picture, ...}}."""
    shown, classes = highlighted(downstream, verdict), {}
    labels = dict.fromkeys(label for of_arm in downstream["curves"].values() for label in of_arm)
    for label in labels:
        of_class = {arm: found[label] for arm, found in downstream["curves"].items() if label in found}
        classes[label] = {
            "ROC": picture(figures.curve({arm: found["roc"] for arm, found in of_class.items()}, shown, "roc")),
            "precision–recall": picture(
                figures.curve({arm: found["pr"] for arm, found in of_class.items()}, shown, "pr")
            ),
        }
    others = len(set(downstream["curves"]) - set(shown))
    return {"key": [(arm, *figures.arm_style(arm)) for arm in shown], "classes": classes, "others": others}


def convergence(downstream: Mapping[str, Any]) -> dict[str, Any]:
    """By arm, of the trainings of the comparison: a `picture` of validation, `steps` of each, if one was `gaining`."""
    main = [found for found in downstream["trainings"] if found["main"]]
    result = {}
    for arm in dict.fromkeys(found["arm"] for found in main):
        own = [found for found in main if found["arm"] == arm]
        result[arm] = {
            "picture": picture(figures.validation(main, arm)),
            "steps": [found["steps"][-1] for found in own],
            "gaining": any(found["gaining"] for found in own),
        }
    return result


def swept(downstream: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """`panels` of the sweeps that there are, the `key` of their arms, and the controls that are compared `against`."""
    sweeps, panels, arms, against = downstream["sweeps"], {}, [], []
    controls = [verdict["reference"], "duplicate"] if "reference" in verdict else []
    lines = {arm: downstream["arms"][arm]["rare_auprc"]["mean"] for arm in controls if arm in downstream["arms"]}
    lines = {arm: value for arm, value in lines.items() if value is not None}
    for name, key, words, across in (
        ("ratio", "ratio", "ratio of synthetic images", lines),
        ("real_fraction", "fraction", "share of the rare real images", {}),
    ):
        if sweeps.get(name):
            panels[name] = picture(figures.sweep(sweeps[name], key, words, across))
            arms += [row["arm"] for row in sweeps[name]] + list(across)
            against += [control for row in sweeps[name] for control in row["differences"]]
    return {
        "panels": panels,
        "key": [(arm, *figures.arm_style(arm)) for arm in dict.fromkeys(arms)],
        "lines": lines,
        "against": list(dict.fromkeys(against)),
    }


def picture(drawn: Any) -> str:
    """A figure as SVG in a data URI."""
    return data_uri(plots.svg(drawn), "image/svg+xml")


def figure(value: Mapping[str, float | None], sign: bool = False) -> str:
    """The mean and its interval."""
    show = signed if sign else decimals
    ends = f" ({show(value['low'])} to {show(value['high'])})" if value["low"] is not None else ""
    return show(value["mean"]) + ends
