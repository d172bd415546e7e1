"""Planted collapses are found within two ticks; what is healthy, untrained or only small raises no alarm."""

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from model.gan.networks import Generator, NetworkConfig
from model.measures.similarity import frechet_distance, ms_ssim_pairs
from model.training.guard import CollapseGuard, Reading, features, warm_up
from model.training.loop import TrainConfig, train

SIDE = 32
CLASSES = ["normal", "pneumonia"]


def films(z: Tensor) -> Tensor:
    """Two soft discs, whose places, sizes and strengths are in the latents (B, 8) -> (B, 1, SIDE, SIDE) in [-1, 1]."""
    chances = torch.special.ndtr(z)
    grid = torch.linspace(0, 1, SIDE)
    image = torch.zeros(len(z), SIDE, SIDE)
    for x, y, width, strength in chances.reshape(-1, 2, 4).permute(1, 2, 0)[..., None, None]:
        distance = (grid - 0.25 - 0.5 * x) ** 2 + (grid[:, None] - 0.25 - 0.5 * y) ** 2
        image += (0.5 + 0.5 * strength) * torch.exp(-distance / (0.08 + 0.17 * width) ** 2 / 2)
    return (image[:, None] * 1.2 - 1).clamp(-1, 1)


def real(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    images = films(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)))
    images = torch.nn.functional.interpolate(images, side, mode="area")
    return images[:, 0].add(1).mul(127.5).round().byte().numpy()


class Painter(Generator):
    """Not a network: paints what `paint` makes of latents (B, 8) and classes (B,)."""

    def __init__(self, paint: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(NetworkConfig(SIDE, width=1, latent_dim=8, classes=2, noise=False))
        self.paint = paint

    def forward(self, z: Tensor, y: Tensor, truncation: float = 1.0) -> list[Tensor]:
        return [self.paint(z, y)]


def three_modes(z: Tensor) -> Tensor:
    """Each latent becomes one of three, all but exactly."""
    modes = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
    return modes[z[:, :3].argmax(1)] + 0.01 * z


def mean_film() -> Tensor:
    return torch.from_numpy(real(200)).float().mean(0) / 127.5 - 1


GOOD = Painter(lambda z, y: films(z))
PLANTED = {
    "forgets its latent": Painter(lambda z, y: films(z * 0.02)),
    "three modes": Painter(lambda z, y: films(three_modes(z))),
    "three modes of one class": Painter(lambda z, y: films(torch.where(y[:, None] == 1, three_modes(z), z))),
}


def guard(count: int = 100, **settings: float) -> CollapseGuard:
    labels = np.repeat([0, 1], [count, 30])
    return CollapseGuard(real(count + 30), labels, CLASSES, **settings)  # type: ignore[arg-type]


def readings(guard: CollapseGuard, *generators: Generator) -> list[Reading]:
    """One tick of 1 kimg for each."""
    return [guard.check(generator, k + 1.0) for k, generator in enumerate(generators)]


@pytest.mark.parametrize("name", PLANTED)
def test_a_collapse_is_found_at_the_second_tick(name: str) -> None:
    *healthy, first, second = readings(guard(), GOOD, GOOD, PLANTED[name], PLANTED[name])
    assert [reading.alarm for reading in healthy] == [None, None]
    assert first.alarm is None
    assert second.alarm is not None
    assert ("'pneumonia'" if "one class" in name else "'normal'") in second.alarm
    assert "repeats itself" in second.alarm
    assert not first.best
    assert not second.best


@pytest.mark.parametrize("what", ["noise", "grey", "negative"])
def test_images_that_are_no_films_any_more_raise_an_alarm(what: str) -> None:
    noise = torch.rand(64, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    broken = {
        "noise": Painter(lambda z, y: noise[: len(z)].roll(int(z[0, 0] * 1000), 0)),
        "grey": Painter(lambda z, y: torch.zeros(len(z), 1, SIDE, SIDE) + 0.01 * z[:, :1, None, None]),
        "negative": Painter(lambda z, y: -films(z)),
    }[what]
    alarms = [reading.alarm for reading in readings(guard(), GOOD, broken, broken)]
    assert alarms[:2] == [None, None]
    assert alarms[2] is not None


def test_weights_that_are_no_numbers_raise_an_alarm_at_once() -> None:
    broken = Generator(NetworkConfig(SIDE, width=2, latent_dim=8, classes=2, noise=False))
    with torch.no_grad():
        broken.conv.weight[0, 0, 0, 0] = math.nan
    reading = guard().check(broken, 1)
    assert reading.alarm == "a weight of the generator is not a finite number"
    assert math.isnan(reading.frechet)
    assert not reading.best


def test_a_good_generator_raises_none_and_is_like_the_real_floor() -> None:
    found = readings(guard(), *[GOOD] * 4)
    assert [reading.alarm for reading in found] == [None] * 4
    assert [reading.best for reading in found] == [True, False, False, False]  # the same is not better
    assert found[0].frechet < 1.5 * found[0].frechet_floor
    assert found[0].ms_ssim == pytest.approx(found[0].ms_ssim_real, abs=0.1)
    assert max(found[0].near_duplicates.values()) < 0.05


def test_the_training_films_with_a_little_noise_raise_none() -> None:
    known = torch.from_numpy(real(130)).float()[:, None] / 127.5 - 1
    heart = Painter(
        lambda z, y: known[(z.abs().sum(1) * 1e4).long() % len(known)] + 0.02 * torch.randn(len(z), 1, 1, 1)
    )
    assert [reading.alarm for reading in readings(guard(), *[heart] * 3)] == [None] * 3


def test_one_bad_tick_is_forgiven() -> None:
    bad = PLANTED["three modes"]
    assert all(reading.alarm is None for reading in readings(guard(), GOOD, bad, GOOD, bad, GOOD))


@pytest.mark.parametrize("warmup_kimg", [20, warm_up(10)])
def test_an_untrained_generator_that_slowly_improves_raises_none(warmup_kimg: float) -> None:
    untrained = Generator(NetworkConfig(SIDE, width=4, latent_dim=8, classes=2, noise=False)).eval()
    mean = mean_film()
    steps = [
        Painter(lambda z, y, share=share: torch.lerp(mean.expand(len(z), 1, -1, -1), films(z), share))  # type: ignore[misc]
        for share in np.linspace(0, 1, 8).tolist()
    ]
    found = readings(guard(warmup_kimg=warmup_kimg), untrained, untrained, *steps)
    assert [reading.alarm for reading in found] == [None] * 10
    assert found[2].near_duplicates["normal"] == 1
    assert found[-1].frechet < 0.2 * found[2].frechet
    assert any(reading.best for reading in found[-3:])


def test_one_that_never_learns_is_found_after_the_warm_up() -> None:
    mean = mean_film()
    stuck = Painter(lambda z, y: mean.expand(len(z), 1, -1, -1))
    alarms = [reading.alarm is not None for reading in readings(guard(warmup_kimg=4), *[stuck] * 5)]
    assert alarms == [False, False, False, False, True]
    assert not guard(warmup_kimg=0).check(stuck, 1).best


@pytest.mark.parametrize(("kimg", "expected"), [(6, 3), (1000, 20), (40, 20), (1, 2)])
def test_the_warm_up_is_half_of_a_short_training(kimg: float, expected: float) -> None:
    assert warm_up(kimg) == expected


@pytest.mark.parametrize("name", PLANTED)
def test_a_collapse_from_the_first_tick_is_found_in_the_second_half(name: str) -> None:
    """Ten ticks of the default length, 6 kimg: none of them was ever better."""
    watch = guard(warmup_kimg=warm_up(6))
    found = [watch.check(PLANTED[name], 0.6 * k) for k in range(1, 11)]
    assert not any(reading.best for reading in found)  # there is nothing to fall back on
    alarms = [reading.alarm for reading in found]
    assert alarms[:5] == [None] * 5
    assert alarms[5] is not None
    assert "repeats itself" in alarms[5]


def test_nothing_is_looked_for_before_the_first_likeness_to_films() -> None:
    mean, noise = mean_film(), torch.rand(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blob, wild = Painter(lambda z, y: mean.expand(len(z), 1, -1, -1)), Painter(lambda z, y: noise[: len(z)])
    found = readings(guard(), blob, wild, wild, wild, blob, GOOD)
    assert found[1].frechet > 4 * found[0].frechet
    assert [reading.alarm for reading in found] == [None] * 6


def test_what_still_comes_nearer_to_the_films_is_not_stopped() -> None:
    noise = torch.randn(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    varied = Painter(lambda z, y: films(z) + 0.1 * noise[: len(z)])
    alike = Painter(lambda z, y: films(0.2 * z))
    found = readings(guard(), varied, alike, alike)
    assert found[1].near_duplicates["normal"] > 0.3
    assert [reading.alarm for reading in found] == [None] * 3


def test_the_best_tick_is_the_nearest_to_the_films() -> None:
    def noisy(strength: float) -> Generator:
        noise = torch.randn(64, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        return Painter(lambda z, y: films(z) + strength * noise[: len(z)])

    found = readings(guard(), noisy(0.2), noisy(0.1), noisy(0.3), noisy(0.02), noisy(0.05))
    assert [reading.best for reading in found] == [True, True, False, True, False]


def test_the_state_of_a_guard_goes_through_json() -> None:
    first, bad = guard(), PLANTED["forgets its latent"]
    readings(first, GOOD, bad)
    again = guard()
    again.load_state(json.loads(json.dumps(first.state())))
    assert again.check(bad, 3) == first.check(bad, 3)
    assert again.state() == first.state()
    fresh = guard()
    fresh.load_state(json.loads(json.dumps(guard().state(), allow_nan=False)))
    assert fresh.check(GOOD, 1).best


CLASSY = {  # two discs, or the same darkened
    "right": Painter(lambda z, y: films(z) - 0.9 * y.view(-1, 1, 1, 1)),
    "swapped": Painter(lambda z, y: films(z) - 0.9 * (1 - y).view(-1, 1, 1, 1)),
    "nearer, of one class": Painter(lambda z, y: films(z)),
}


def judged() -> CollapseGuard:
    """Of films whose class 1 is dark."""
    labels = np.repeat([0, 1], [100, 100])
    drawn = films(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)))
    drawn -= 0.9 * torch.from_numpy(labels).view(-1, 1, 1, 1)
    images = drawn.clamp(-1, 1)[:, 0].add(1).mul(127.5).round().byte().numpy()
    return CollapseGuard(images, labels, CLASSES, judge_steps=80)


def test_the_judge_says_which_images_show_their_class() -> None:
    found = [reading.recognised for reading in readings(judged(), *CLASSY.values())]
    assert min(found[0].values()) > 0.8
    assert max(found[1].values()) < 0.2
    assert found[2]["normal"] > 0.8
    assert found[2]["pneumonia"] < 0.2
    assert min(judged().recognised_real.values()) > 0.8
    assert readings(guard(), GOOD)[0].recognised == {}


def test_of_equally_near_generators_the_best_shows_its_classes() -> None:
    """Swapped classes lie farther away too, so the distance is planted: the same for all, or a little lower."""
    watched = judged()
    distances = iter([10.0, 10.0, 9.0, 9.0, 8.0, 8.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.guard.frechet_distance", lambda *_: next(distances))
        swapped, right, again = readings(watched, CLASSY["swapped"], CLASSY["right"], CLASSY["swapped"])
    assert (swapped.best, right.best, again.best) == (True, True, False)
    assert not any(reading.alarm for reading in (swapped, right, again))


def test_a_look_leaves_no_trace_in_the_random_state() -> None:
    before = torch.get_rng_state()
    readings(guard(), GOOD)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("counts", "side"), [((1, 1), 16), ((2, 3), 16), ((8, 2), 8), ((8, 2), 128)])
def test_tiny_sets_known_by_heart_raise_none(counts: tuple[int, int], side: int) -> None:
    images, labels = real(sum(counts), side=side), np.repeat([0, 1], counts)
    known = torch.from_numpy(images).float()[:, None] / 127.5 - 1

    def paint(z: Tensor, y: Tensor) -> Tensor:
        first, count = (0, counts[0]) if y[0] == 0 else counts
        return known[first + (z.abs().sum(1) * 1e4).long() % count]

    found = readings(CollapseGuard(images, labels, CLASSES, warmup_kimg=0), *[Painter(paint)] * 3)
    assert [reading.alarm for reading in found] == [None] * 3
    assert all(math.isfinite(reading.frechet + reading.frechet_floor) for reading in found)


def test_real_pairs_are_of_different_films() -> None:
    images = real(4)
    expected = ms_ssim_pairs(images[:2], 1)[0]
    assert CollapseGuard(images, np.array([0, 0, 1, 1]), CLASSES).ms_ssim_real["normal"] == pytest.approx(expected)


def test_a_set_of_one_image_repeated_raises_none() -> None:
    images = np.repeat(real(1), 20, axis=0)
    still = Painter(lambda z, y: torch.from_numpy(images[: len(z)]).float()[:, None] / 127.5 - 1)
    found = readings(CollapseGuard(images, np.repeat([0, 1], 10), CLASSES, warmup_kimg=0), *[still] * 3)
    assert [reading.alarm for reading in found] == [None] * 3


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(ValueError, match="no images of class 'pneumonia'"):
        CollapseGuard(real(4), np.zeros(4, int), CLASSES)


def test_the_features_rank_degradations() -> None:
    reference, other = features(real(300)), real(100, seed=1)
    scale = reference.std(0).clip(0.05)

    def distance(images: np.ndarray) -> float:
        return frechet_distance(reference / scale, features(images) / scale)

    def blurred(sigma: float) -> np.ndarray:
        taps = torch.exp(-(torch.arange(-6.0, 7.0) ** 2) / 2 / sigma**2)
        kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
        x = torch.nn.functional.pad(torch.from_numpy(other).float()[:, None], (6,) * 4, mode="replicate")
        return torch.nn.functional.conv2d(x, kernel)[:, 0].round().byte().numpy()

    def noisy(sigma: float) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, sigma, other.shape)
        return (other + noise).round().clip(0, 255).astype(np.uint8)

    for worse in (blurred, noisy):
        distances = [distance(other), *(distance(worse(sigma)) for sigma in (2, 4, 6))]
        assert distances == sorted(distances)
        assert distances[-1] > 2 * distances[0]
    assert distance(np.resize(other[:3], other.shape)) > 3 * distance(other)


def test_a_healthy_training_raises_none() -> None:
    """Of one seed in fp32, so the same training everywhere; those of other seeds come to 0.54 to 0.66 of the distance
    that is looked at below, this one to 0.42, with 7 % of near-duplicates at most."""
    images, labels = real(48, side=16), np.repeat([0, 1], [40, 8])
    guard, found = CollapseGuard(images, labels, CLASSES, warmup_kimg=0.6), list[Reading]()  # as `warm_up`: half
    config = TrainConfig(kimg=1.2, tick_kimg=0.12, device="cpu", learning_rate=0.005, ema_kimg=0.1)
    train(
        images,
        labels,
        NetworkConfig(16, width=8, latent_dim=16, classes=2),
        dataclasses.replace(config, precision="fp32", seed=3),
        lambda tick: found.append(guard.check(tick.generator, tick.kimg)),
    )
    assert [reading.alarm for reading in found] == [None] * len(found)
    assert len(found) == 10
    assert guard.lowest < guard.one_film  # it did learn, and so was watched


def test_of_several_findings_images_are_drawn_with_those_of_films_and_judged_by_each() -> None:
    """Of three classes: a generator that paints every finding it is told, and one that forgets the second of two."""
    rng = np.random.default_rng(0)
    findings = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]] * 30, np.int8)
    asked: list[Tensor] = []

    def paint(y: Tensor) -> Tensor:
        grid = torch.linspace(0, 1, SIDE)
        image = torch.full((len(y), SIDE, SIDE), -0.4)
        for k, x in ((1, 0.3), (2, 0.7)):
            disc = torch.exp(-((grid - x) ** 2 + (grid[:, None] - 0.5) ** 2) / 0.02)
            image = image + (y[:, k] == 1).float()[:, None, None] * disc
        noise = torch.from_numpy(rng.normal(0, 0.15, image.shape)).float()
        return (image + noise).clamp(-1, 1)[:, None]

    def all_of_them(z: Tensor, y: Tensor) -> Tensor:
        asked.append(y)
        return paint(y)

    def without_the_last(z: Tensor, y: Tensor) -> Tensor:
        return paint(y * torch.tensor([1, 1, 0]))

    images = paint(torch.from_numpy(findings))[:, 0].add(1).mul(127.5).round().byte().numpy()
    guard = CollapseGuard(images, findings, ["none", "left", "right"], judge_steps=60)
    good = guard.check(Painter(all_of_them), 1.0)
    told = torch.cat(asked)
    assert len(told) == 3 * guard.count
    assert all((part[:, k] == 1).all() for k, part in enumerate(told.split(guard.count)))
    assert 0.4 < float((told[guard.count : 2 * guard.count, 2] == 1).float().mean()) < 0.6  # half of the left have both
    poor = guard.check(Painter(without_the_last), 2.0)
    assert min(good.recognised.values()) > 0.8
    assert poor.recognised["right"] < 0.3 < 0.8 < poor.recognised["left"]
    assert poor.recognised_real == good.recognised_real
    assert min(good.recognised_real.values()) > 0.8
