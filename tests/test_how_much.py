"""The table of how much data is enough: what it measures of a run, and that it says less of less data."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.how_much import NIH, Spread, effect, spread

PLANTED = Spread(apart=1.5, training=0.2, film=0.8, taste=0.35, luck=0.49)  # of a film's score in all: 1


def predictions(of: Spread, arms: int, seeds: int, films: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rare = np.arange(films) < films // 2
    own, parts = of.film * rng.normal(size=films), []
    for arm in range(arms):
        taste = of.taste * rng.normal(size=films)
        for seed in range(seeds):
            apart = of.apart + of.training * rng.normal()
            score = apart * rare + own + taste + of.luck * rng.normal(size=films)
            said = pd.DataFrame({"p_rare": 1 / (1 + np.exp(-2 * score)), "label": np.where(rare, "rare", "common")})
            parts.append(said.assign(arm=f"arm {arm}", seed=seed, image_id=[f"{k:05d}" for k in range(films)]))
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(split="test", ratio=1.0, fraction=1.0, only=False)


def test_what_varies_in_a_run_is_found_again() -> None:
    found = spread(predictions(PLANTED, arms=6, seeds=8, films=800), "rare")
    for name, planted in vars(PLANTED).items():
        assert getattr(found, name) == pytest.approx(planted, abs=0.08), name


def test_one_seed_cannot_tell_how_much_seeds_differ() -> None:
    with pytest.raises(SystemExit, match="two arms and two seeds"):
        spread(predictions(PLANTED, arms=3, seeds=1, films=40), "rare")


def test_more_patients_and_more_seeds_show_smaller_changes() -> None:
    def seen(patients: int, seeds: int) -> float:
        return effect(NIH, patients, seeds, repetitions=20)

    assert seen(5, 2) > 1.4 * seen(40, 2)
    assert seen(40, 2) > 1.4 * seen(40, 10)
    assert seen(4, 2) == 1.0  # below five there is no interval
