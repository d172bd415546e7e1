"""How much data is enough: the smallest true change that a verdict would show, by test patients and seeds.

python -m benchmarks.how_much                                            # the table of docs/how-much-data.md
python -m benchmarks.how_much --predictions reports/predictions.csv      # the same for classifiers like yours

No network is trained. What classifiers say of test films is drawn: how well each tells the classes, and what the film,
the arm and the seed add to a score. How much each of these varies was measured in a run on NIH's films at 128 px (one
in ten of the pneumonias, five seeds); `--predictions` measures it in a run of your own. The differences, and the
smallest change that is seen four times in five, are computed as in stage `classify`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks.markdown import table
from tasks.classify.comparison import columns
from tasks.classify.differences import paired_differences
from tasks.classify.metrics import average_precision, patient_weights
from tasks.params import CONTROL_ARMS, GENERATOR_OF, Classify

ARMS = Classify().arms
SYNTHETIC, CONTROLS = ([str(arm) for arm in ARMS if arm in kind] for kind in (GENERATOR_OF, CONTROL_ARMS))
CONFIDENCE = 1 - (1 - Classify().confidence) / len(SYNTHETIC)
PATIENTS, SEEDS = (5, 10, 20, 40, 80, 160), (2, 5, 10)
OTHERS = 4  # test patients of common classes for one of a rare class
RESAMPLES, REPETITIONS = 300, 100
ABOUT = "classic+msg_sagan", "classic"


@dataclass(frozen=True)
class Spread:
    """Of a classifier's score, in standard deviations of the films of a class: how far the rare class lies above the
    others (`apart`), by how much that varies from seed to seed (`training`), and how much a score varies by film
    (`film`), by film and arm (`taste`) and by film, arm and seed (`luck`)."""

    apart: float
    training: float
    film: float
    taste: float
    luck: float


NIH = Spread(apart=1.049, training=0.169, film=0.708, taste=0.397, luck=0.584)


def spread(predictions: pd.DataFrame, rare: str) -> Spread:
    """What varied in a run: from its test films, of the class `rare` against the others, by a nested analysis of
    variance. Raises SystemExit where it has fewer than two arms or seeds."""
    main = predictions[(predictions["ratio"] == 1) & (predictions["fraction"] == 1) & ~predictions["only"]]
    test = main[main["split"] == "test"].sort_values(["arm", "seed", "image_id"])
    arms, seeds = test["arm"].nunique(), test["seed"].nunique()
    if min(arms, seeds) < 2:
        raise SystemExit("how much scores vary takes the predictions of two arms and two seeds at least")
    p = test[columns([rare])[0]].to_numpy().clip(1e-6, 1 - 1e-6).reshape(arms, seeds, -1)
    of_class = (test["label"] == rare).to_numpy().reshape(p.shape)[0, 0]
    logits = np.log(p / (1 - p))
    means = np.stack([logits[:, :, ~of_class].mean(2), logits[:, :, of_class].mean(2)])
    left = logits - means[of_class.astype(int)].transpose(1, 2, 0)
    scale = left.std(2, keepdims=True)
    apart, left = (means[1] - means[0]) / scale[:, :, 0], left / scale
    luck = left.var(1, ddof=1).mean()
    taste = max(0.0, left.mean(1).var(0, ddof=1).mean() - luck / seeds)
    film = max(0.0, 1 - taste - luck)
    training = max(0.0, apart.var(1, ddof=1).mean() - (taste + luck) * (1 / of_class.sum() + 1 / (~of_class).sum()))
    return Spread(*(round(float(v), 3) for v in (apart.mean(), *np.sqrt([training, film, taste, luck]))))


def effect(of: Spread, patients: int, seeds: int, others: int = OTHERS, repetitions: int = REPETITIONS) -> float:
    """The smallest change of the rare class's area that is seen four times in five, the median over `repetitions`.

    With so many rare test patients and `others` times as many of other classes; 1 where no change would be seen.
    """
    rng = np.random.default_rng([patients, seeds])
    return median(_drawn_effect(rng, of, patients, seeds, others) for _ in range(repetitions))


def _drawn_effect(rng: np.random.Generator, of: Spread, patients: int, seeds: int, others: int) -> float:
    rare = np.arange(patients * (1 + others)) < patients
    apart = of.apart + of.training * rng.normal(size=(len(ARMS), seeds, 1))
    shared = of.film * rng.normal(size=len(rare)) + of.taste * rng.normal(size=(len(ARMS), 1, len(rare)))
    scores = apart * rare + shared + of.luck * rng.normal(size=(len(ARMS), seeds, len(rare)))
    weights = patient_weights(np.arange(len(rare)).astype(str), RESAMPLES, seed=0)
    measured: dict[str, np.ndarray] = {
        arm: np.stack([average_precision(of_seed, rare, weights) for of_seed in of_arm])
        for arm, of_arm in zip(ARMS, scores, strict=True)
    }
    about, control = ABOUT
    found = paired_differences(measured, SYNTHETIC, CONTROLS, patients)[about][control].minimum_effect(CONFIDENCE)
    return min(1.0, found if found is not None else 1.0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, help="reports/predictions.csv of a run of your own")
    parser.add_argument("--rare", help="its rare class [default: the one with the fewest test films]")
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS, help="test patients of the rare class")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--others", type=int, default=OTHERS, help="other test patients for one of the rare class")
    options = parser.parse_args()
    of = NIH
    if options.predictions:
        rows = pd.read_csv(options.predictions)
        labels = rows.loc[rows["split"] == "test", "label"].value_counts()
        of = spread(rows, options.rare or str(labels.index[-1]))
    print(of, "\n")
    lines = [[n, *(f"{effect(of, n, seeds, options.others):.2f}" for seeds in options.seeds)] for n in options.patients]
    print(table(["rare test patients", *(f"{n} seeds" for n in options.seeds)], lines))


if __name__ == "__main__":
    main()
