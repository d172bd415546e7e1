"""The difference of two arms, and how sure one can be of it: over test patients and over trainings.

A difference measured on one test set with S seeds varies for two reasons: other patients could have been in the test
split, and another seed would have given other networks. It is the design of reader studies, many readers and many
cases, with seeds as readers: Obuchowski & Rockette (Commun. Stat. Simul. 1995), degrees of freedom after Hillis
(Stat. Med. 2007).
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes a second more to import

from tasks.classify.metrics import MIN_PATIENTS

POWER = 0.8
Arm = TypeVar("Arm", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """Mean over seeds, its standard error, and the degrees of freedom of that; NaN where there is none."""

    mean: float
    standard_error: float
    freedom: float

    def interval(self, confidence: float) -> dict[str, float | None]:
        """{mean, low, high} by Student's t, None where there is nothing to say; of measures from 0 to 1, so it ends at
        -1 and 1."""
        half = self._t(confidence) * self.standard_error
        ends = np.clip([self.mean - half, self.mean + half], -1, 1)  # np.clip keeps NaN
        values = {"mean": self.mean, "low": ends[0], "high": ends[1]}
        return {name: round(float(value), 4) if np.isfinite(value) else None for name, value in values.items()}

    def minimum_effect(self, confidence: float) -> float | None:
        """The smallest true difference whose interval leaves out 0 with probability POWER; None if not known."""
        effect = (self._t(confidence) + stdtrit(self.freedom, POWER)) * self.standard_error
        return round(float(effect), 4) if np.isfinite(effect) else None

    def _t(self, confidence: float) -> float:
        return float(stdtrit(self.freedom, (1 + confidence) / 2))


@dataclass(frozen=True)
class SeedVariance:
    """Variance between seeds of a difference of two arms, and its degrees of freedom."""

    value: float
    freedom: float


def seed_variance(measured: np.ndarray) -> SeedVariance:
    """From a measure (I, S) of I >= 2 arms with the same S >= 2 seeds, on the test set.

    Pooled over the arms: twice the mean square of what neither arm nor seed explains, with (I - 1)(S - 1) degrees of
    freedom. Two seeds alone would leave one degree of freedom, and intervals too wide to say anything.
    Raises ValueError for fewer arms or seeds: one training cannot tell how much training varies.
    """
    arms, seeds = measured.shape
    if min(arms, seeds) < 2:
        raise ValueError("how much training varies needs two arms and two seeds at least")
    left = measured - measured.mean(0) - measured.mean(1, keepdims=True) + measured.mean()
    freedom = (arms - 1) * (seeds - 1)
    return SeedVariance(2 * float((left**2).sum()) / freedom, freedom)


def paired_differences(
    measured: Mapping[Arm, np.ndarray], arms: Iterable[Arm], controls: Iterable[Arm], patients: int
) -> dict[Arm, dict[Arm, Difference]]:
    """Of each of `arms` to each of `controls`, {arm: {control: difference}}; both are keys of `measured`.

    `measured` has one measure (S, 1 + B) of two arms at least, the same S >= 2 seeds and B resamples in each. How much
    training varies is estimated over all of them, also over those that are not compared (`seed_variance`, which raises
    ValueError for fewer). `patients` is that of `paired_difference`.
    """
    between = seed_variance(np.stack([values[:, 0] for values in measured.values()]))
    controls = list(controls)
    return {
        arm: {control: paired_difference(measured[arm], measured[control], patients, between) for control in controls}
        for arm in arms
    }


def paired_difference(one: np.ndarray, other: np.ndarray, patients: int, between: SeedVariance) -> Difference:
    """The mean of `one` - `other`, measures (S, 1 + B) of S >= 2 seeds: on the test set, then on B resamples of it.

    Seeds and resamples are the same in both. `patients` is how many have a film of the class that is measured (the
    fewest, of several); below MIN_PATIENTS, and where nothing varies at all, there is no standard error.

    Variance = that between the seeds / S + covariance of different seeds' differences over the resamples. The first
    holds what training adds, and that some networks suit some patients: `between`, or the variance of these very
    differences where it is larger, for some arms may vary more than others. The second is what the choice of patients
    adds to all of them alike. It is never taken below the variance over patients of the mean given these networks. A
    bootstrap of m patients falls short by (m - 1) / m, which is mended. Degrees of freedom are Satterthwaite's, those
    of `between` for the first part and m - 1 for the second.
    """
    seeds = len(one)
    differences = one - other
    resampled = differences[:, 1:]
    resampled = resampled[:, np.isfinite(resampled).all(0)]
    mean = float(differences[:, 0].mean())
    if patients < MIN_PATIENTS or resampled.shape[1] < 2 or not np.isfinite(mean):
        return Difference(mean, np.nan, np.nan)
    covariance = np.cov(resampled) * patients / (patients - 1)
    of_patients = max(0.0, float(covariance[~np.eye(seeds, dtype=bool)].mean()))
    of_seeds = max(between.value, float(differences[:, 0].var(ddof=1))) / seeds
    variance = of_seeds + of_patients
    if variance == 0:
        return Difference(mean, np.nan, np.nan)
    freedom = variance**2 / (of_seeds**2 / between.freedom + of_patients**2 / (patients - 1))
    return Difference(mean, max(variance, float(covariance.mean())) ** 0.5, freedom)
