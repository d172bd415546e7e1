"""Challenger against champion, on the same current test split and with the same current train set.

Both generators draw what the current plan asks for; classifiers are trained with the images of each, and their paired
difference has an interval over patients and seeds, as in the verdict. Classifiers of real films alone are trained too:
they say whether the challenger's images show their class. The older champion may have learnt from patients who are in
the test split today: that can only favour it, so a challenger that wins wins in spite of it.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from tasks import image_set, imbalance
from tasks.classify.arms import training_set
from tasks.classify.comparison import PRIMARY, held_out, measure
from tasks.classify.differences import paired_differences
from tasks.classify.fidelity import ARM, fidelity
from tasks.classify.metrics import MIN_PATIENTS
from tasks.classify.stage import predictions_of
from tasks.errors import UserError
from tasks.files import write_json
from tasks.image_set import ImageSet
from tasks.params import Params
from tasks.progress import track
from tasks.quality.stage import MIN_IMAGES, of_several, variety
from tasks.registry import CHALLENGER, CHAMPION, versions
from tasks.report.gates import Gate, gates
from tasks.shown.numbers import number, signed
from tasks.synthesize import stage
from tasks.synthesize.generator import read_generator, sets_of_generator

CONTROL = ARM  # besides, how much trainings vary is estimated over three arms rather than two
ADDING = "msg_gan"  # the arm of stage `classify` that both are: real images and synthetic ones as the plan says

Interval = dict[str, float | None]


def run(curated_folder: Path, out: Path, params: Params, margin: float = 0.0, seeds: int = 3) -> dict[str, Any]:
    """Compare the versions with the aliases `challenger` and `champion`; write `out`, return it.

    Keys: champion (None: there is none), challenger, measure, difference (challenger - champion: mean, low, high;
    None where it cannot be had), margin, gates (of the challenger), promote and reason, one sentence.
    Raises UserError without a challenger, and for one that cannot draw what the plan asks for.
    """
    new, old = versions.challenger(), versions.holder(CHAMPION)
    if old is not None and old.number == new.number:
        raise UserError(f"version {new.number} is challenger and champion; register another one")
    real = image_set.load(curated_folder)
    analysis = imbalance.analyse(real.manifest, real.classes, params.imbalance)
    plan, draw = analysis["plan"], analysis["draw"]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        challenger = stack.enter_context(versions.fetched(new)) / versions.GENERATOR
        if why_not := _cannot(challenger, real, draw):
            raise UserError(f"challenger {new.number} is of no use here: {why_not}; register one of the current data")
        drawn = _Drawn(real, draw, params, curated_folder, scratch)
        images, screening, copies = drawn.by(challenger, CHALLENGER)
        passed = {"memorisation": {"passed": False, "why": f"{copies}."}} if copies else {}
        difference = None
        if images is not None:
            control = trained(CONTROL, real, None, plan, params, seeds, {CHALLENGER: images})
            passed = drawn.gates(images, screening, control)
            if old is not None and _all(passed):
                champion = stack.enter_context(versions.fetched(old)) / versions.GENERATOR
                others, why_not = drawn.by_champion(champion)
                if others is not None:
                    sets = {CHALLENGER: images, CHAMPION: others}
                    difference = compare(real, sets, control, plan, params, seeds)
    number = None if old is None else old.number
    promote, reason = decide(difference, margin, passed, new.tags.get("verdict", ""), number, why_not, bool(plan))
    result = {
        "champion": number,
        "challenger": new.number,
        "measure": PRIMARY,
        "difference": difference if difference and difference["low"] is not None else None,
        "margin": margin,
        "gates": {name: {"passed": gate["passed"], "sentence": gate["why"]} for name, gate in passed.items()},
        "promote": promote,
        "reason": reason,
    }
    write_json(out, result)
    return result


def decide(
    difference: Interval | None,
    margin: float,
    passed: Mapping[str, Gate],
    verdict: str,
    champion: int | None,
    incomparable: str = "",
    planned: bool = True,
) -> tuple[bool, str]:
    """Whether to promote the challenger, and why, as a sentence of its own. What was not measured never promotes.

    `verdict` is the challenger's word; it decides where there is no champion. `incomparable` says why there is none to
    compare with although one is registered: that is for a person to decide. `planned`: whether the plan asks for any
    image.
    """
    if not planned:
        return False, "No class is rare, so nothing is synthesised and there is nothing to compare."
    if not _all(passed):
        closed = " ".join(gate["why"] for gate in passed.values() if not gate["passed"])
        return False, closed or "Its gates were not measured."
    if champion is None:
        if verdict in ("helps", "no evidence"):
            return True, f"There is no champion, the gates pass and the verdict is {verdict!r}."
        return False, f"There is no champion, but the verdict is {verdict or 'not measured'!r}."
    if incomparable:
        return False, (
            f"Version {champion}, the champion, is not comparable ({incomparable}); if it is to be replaced, do so "
            "with `xraysynth models promote`."
        )
    if difference is None or difference["mean"] is None:
        return False, "The difference could not be measured."
    if difference["low"] is None or difference["high"] is None:
        return False, (
            f"The difference is {signed(difference['mean'])} and has no interval, for a class has fewer "
            f"than {MIN_PATIENTS} test patients, or nothing varies."
        )
    mean, low, high = (signed(difference[end]) for end in ("mean", "low", "high"))
    numbers = f"The difference is {mean} ({low} to {high})"
    if difference["low"] > margin:
        return True, f"{numbers}, all of it above the margin of {number(margin)}, and the gates pass."
    return False, f"{numbers}, not all of it above the margin of {number(margin)}."


def compare(
    real: ImageSet,
    sets: Mapping[str, ImageSet],
    control: pd.DataFrame,
    plan: Mapping[str, int],
    params: Params,
    seeds: int,
) -> Interval:
    """Challenger - champion in PRIMARY, {mean, low, high}, None where there is nothing to say (`differences`).

    `sets` has the images of CHALLENGER and of CHAMPION, of every class as many as are drawn for the plan; `control` is
    what the networks of CONTROL say (`trained`).
    """
    section = params.classify
    predictions = {arm: trained(ADDING, real, images, plan, params, seeds) for arm, images in sets.items()}
    predictions[CONTROL] = control
    test = held_out(control, real.classes, section.bootstrap)
    focus = [real.classes.index(label) for label in plan]
    measured = {arm: measure(rows, real.classes, focus, test)[PRIMARY] for arm, rows in predictions.items()}
    differences = paired_differences(measured, [CHALLENGER], [CHAMPION], test.fewest_patients_of(focus))
    return differences[CHALLENGER][CHAMPION].interval(section.confidence)


def trained(
    arm: str,
    real: ImageSet,
    synthetic: ImageSet | None,
    plan: Mapping[str, int],
    params: Params,
    seeds: int,
    shown: Mapping[str, ImageSet] | None = None,
) -> pd.DataFrame:
    """What the networks of an arm say, by `predictions_of`, of the held-out films and of the images `shown`."""
    parts = []
    for seed in track(range(seeds), seeds, f"challenge {arm}"):
        chosen = training_set(arm, real, synthetic, plan, seed, balance=params.classify.balance)
        parts.append(predictions_of(chosen, real, params.classify, seed, shown))
    return pd.concat(parts, ignore_index=True)


class _Drawn:
    """Draws what the current plan needs by any generator, and looks at it with the eyes of the gates."""

    def __init__(
        self,
        real: ImageSet,
        draw: Mapping[str, int],
        params: Params,
        curated_folder: Path,
        scratch: Path,
    ) -> None:
        self._films, self._draw, self._params = real.where(split="train"), draw, params
        self._curated, self._scratch = curated_folder, scratch

    def by(self, model: Path, name: str) -> tuple[ImageSet | None, dict[str, Any], str]:
        """The images of the generator in `model` and the screening, or why there are none: too many are copies."""
        if not self._draw:
            return None, {}, ""
        out = self._scratch / name
        params = self._params.synthesize.model_copy(
            update={"screening": "wanted"}
        )  # a champion learnt from other films
        try:
            screening = stage.run(model, out, self._draw, params, curated_folder=self._curated)
        except stage.TooManyCopies as error:
            return None, {}, str(error).partition(";")[0]
        return image_set.load(out), screening, ""

    def by_champion(self, model: Path) -> tuple[ImageSet | None, str]:
        """The images of the champion, or why it has none to compare with, as a clause."""
        if why_not := _cannot(model, self._films, self._draw):
            return None, why_not
        images, _, why_not = self.by(model, CHAMPION)
        return images, why_not

    def gates(self, images: ImageSet, screening: Mapping[str, Any], control: pd.DataFrame) -> dict[str, Gate]:
        """Those of the challenger; `control` is what the networks of CONTROL say of its images and of test films."""
        recognised = fidelity(control.assign(arm=ARM), self._films.classes, self._params.classify.confidence)
        quality = {"classes": self._variety(images)}
        return gates(f"the {CHALLENGER}", screening, quality, recognised[CHALLENGER], self._draw)

    def _variety(self, images: ImageSet) -> dict[str, Any]:
        """What the gates ask of the reports of stage `quality`; nothing of classes with too few images."""
        reports = {}
        for label in self._draw:
            films, drawn = self._films.where(label=label), images.where(label=label)
            patients = films.manifest["patient_id"].to_numpy()
            if min(len(films.images), len(drawn.images)) >= MIN_IMAGES and of_several(patients):
                reports[label] = {"measures": variety(films.images, drawn.images, self._params.quality, patients)}
        return reports


def _cannot(model: Path, real: ImageSet, draw: Mapping[str, int]) -> str:
    """Why the generator cannot draw what is to be drawn, as a clause; "" where it can."""
    generator, config = read_generator(model)
    side, missing = real.images.shape[-1], [label for label in draw if label not in config["classes"]]
    if missing:
        return f"it cannot make {' and '.join(missing)}, which the plan asks for"
    if bool(sets_of_generator(config)) != real.several:
        learnt, have = ("one class", "several findings")[:: 1 if real.several else -1]
        return f"it learnt from films with {learnt} each, and the films here have {have}"
    if generator.config.resolution != side:
        return f"it draws {generator.config.resolution} px, and the films have {side} px"
    return ""


def _all(passed: Mapping[str, Gate]) -> bool:
    return bool(passed) and all(gate["passed"] for gate in passed.values())
