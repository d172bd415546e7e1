"""The downstream classifier learns, repeats, and weighs classes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model import classifier
from model.classifier import (
    TEMPERATURES,
    Classifier,
    ClassifierConfig,
    calibrated_loss,
    logits,
    of_findings,
    predict,
    train_classifier,
)

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("side", [16, 64, 128, 256])
def test_larger_images_end_as_small_as_those_of_64_pixels_and_every_pixel_counts(side: int) -> None:
    torch.manual_seed(0)
    network = Classifier(2, side).eval()
    last: list[Tensor] = []
    network.blocks.register_forward_hook(lambda *found: last.append(found[2]))
    image = torch.rand(1, 1, side, side, requires_grad=True)
    network(image)[0, 0].backward()
    assert last[0].shape[2:] == (min(side, 64) // 16,) * 2
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.9


def bright_or_dark(contrast: float = 60) -> Batches:
    rng = np.random.default_rng(0)
    while True:
        labels = rng.integers(0, 2, 16)
        images = rng.normal(110 + contrast * labels[:, None, None], 25, (16, 32, 32))
        yield np.clip(images, 0, 255).astype(np.uint8), labels


def test_it_learns_what_can_be_learnt() -> None:
    network = train_classifier(bright_or_dark(), 2, ClassifierConfig(steps=40))
    images, labels = next(bright_or_dark())
    probabilities = predict(network, images)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (probabilities.argmax(1) == labels).all()


def test_a_seed_gives_the_same_network_and_another_does_not() -> None:
    images = next(bright_or_dark())[0]
    first, second, third = (
        predict(train_classifier(bright_or_dark(), 2, ClassifierConfig(steps=3, seed=seed)), images)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_class_weights_shift_the_balance() -> None:
    weights = np.array([1.0, 20.0])
    images = next(bright_or_dark(contrast=0))[0]
    plain, weighted = (
        predict(train_classifier(bright_or_dark(contrast=0), 2, ClassifierConfig(steps=30), w), images)[:, 1].mean()
        for w in (None, weights)
    )
    assert weighted > plain + 0.2


class Fading(nn.Module):
    """Knows the answer until it has been trained for `good` steps, and then turns it around."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good, self.scale = good, nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.zeros(()))
        self.steps: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps = self.steps + 1
        sign = 1.0 if self.steps <= self.good else -1.0
        bright = (images.mean((1, 2, 3)) - 0.55) * 20 * sign * self.scale
        return torch.stack([-bright, bright], dim=1)


@pytest.mark.parametrize("good", [20, 35, 99])
def test_the_best_point_on_validation_is_kept(good: int) -> None:
    images, labels = next(bright_or_dark())
    config = ClassifierConfig(steps=50, learning_rate=1e-3)
    trained = train_classifier(bright_or_dark(), 2, config, validation=(images, labels), build=lambda _: Fading(good))
    assert trained.step <= good
    assert (predict(trained, images).argmax(1) == labels).mean() > 0.8
    last = train_classifier(bright_or_dark(), 2, config, build=lambda _: Fading(good))
    assert last.step == 50
    assert ((predict(last, images).argmax(1) == labels).mean() > 0.8) == (good > 50)


@pytest.mark.parametrize(
    ("good", "patience", "cycles", "gaining"),
    [
        (1, 1, 2, False),
        (15, 1, 3, False),
        (15, 2, 4, False),
        (60, 1, 6, True),  # better for ever: the cap ends it
    ],
)
def test_a_training_ends_when_validation_no_longer_gains(good: int, patience: int, cycles: int, gaining: bool) -> None:
    """Ten steps a cycle; the loss falls for `good` of them."""
    images, labels = next(bright_or_dark())
    config = ClassifierConfig(steps=10, patience=patience, max_cycles=6)
    losses = iter([*np.linspace(1.0, 0.5, good), *[2.0] * 60])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "calibrated_loss", lambda *_: (next(losses), 1.0))
        trained = train_classifier(bright_or_dark(), 2, config, validation=(images, labels))
    assert trained.curve[-1][0] == 10 * cycles
    assert trained.gaining == gaining


def test_a_first_stage_hands_on_its_best_weights_and_is_never_the_result() -> None:
    """Planted: the first stage is best at step 4, and better than all that follows, which is best at its step 2."""
    config = ClassifierConfig(steps=20, max_cycles=2)
    losses = iter([0.3, 0.1, *[0.3] * 8, 0.5, *[0.6] * 20])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "calibrated_loss", lambda *_: (next(losses), 1.0))
        trained = train_classifier(
            *(bright_or_dark(), 2, config, None, next(bright_or_dark())),
            build=lambda _: Fading(99),
            first=bright_or_dark(),
        )
    assert [step for step, _ in trained.curve] == list(range(2, 41, 2))
    assert trained.step == 22
    assert trained.network.state_dict()["steps"] == 4 + 2


def test_a_rare_class_counts_as_much_as_a_common_one_and_may_be_missing() -> None:
    labels = np.array([0] * 95 + [1] * 5)
    good = np.stack([np.zeros(100), np.where(labels, 3.0, -3.0)], axis=1)
    misses_rare, misses_common = good.copy(), good.copy()
    misses_rare[95:, 1] = -3
    misses_common[:5, 1] = 3
    balance = 1 / np.bincount(labels)[labels]
    best, rare, common = (calibrated_loss(x, labels, balance)[0] for x in (good, misses_rare, misses_common))
    assert best < common < rare
    only_common = np.zeros(20, int)
    assert np.isfinite(calibrated_loss(good[:20], only_common, np.ones(20))[0])


def test_the_temperature_undoes_overconfidence_and_never_calls_a_flawless_network_certain() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 2000)
    labels = (rng.random(2000) < 1 / (1 + np.exp(-true))).astype(int)
    overconfident = np.stack([np.zeros(2000), 4 * true], axis=1)
    loss, temperature = calibrated_loss(overconfident, labels, np.ones(2000))
    assert temperature == np.clip(temperature, 3.5, 4.5)
    assert calibrated_loss(overconfident / 4, labels, np.ones(2000))[0] == pytest.approx(loss, abs=1e-3)
    flawless = np.stack([np.zeros(20), np.where(np.arange(20) % 2, 1.0, -1.0)], axis=1)
    _, temperature = calibrated_loss(flawless, np.arange(20) % 2, np.ones(20))
    assert 0.85 < 1 / (1 + np.exp(-1 / temperature)) < 0.95  # (10 + 1) / (10 + 2)


def test_the_calibrated_loss_is_that_of_the_definition_also_far_from_zero() -> None:
    rng = np.random.default_rng(1)
    labels, weights = rng.integers(0, 3, 50), rng.random(50) + 0.1
    counts = np.bincount(labels)
    targets = np.eye(3)[labels] * counts[labels, None] + 1
    targets /= counts[labels, None] + 3
    for scale in (1.0, 3000.0):
        x = rng.normal(0, scale, (50, 3))
        shifted = (x - x.max(1, keepdims=True))[None] / TEMPERATURES[:, None, None]
        by_image = -(targets * (shifted - np.log(np.exp(shifted).sum(2, keepdims=True)))).sum(2)
        losses = (by_image * weights).sum(1) / weights.sum()
        loss, temperature = calibrated_loss(x, labels, weights)
        assert loss == pytest.approx(losses.min(), rel=1e-12)
        assert temperature == TEMPERATURES[losses.argmin()]


def test_probabilities_are_those_of_the_logits_at_the_temperature() -> None:
    images, labels = next(bright_or_dark(contrast=20))
    trained = train_classifier(bright_or_dark(contrast=20), 2, ClassifierConfig(steps=20), None, (images, labels))
    assert not trained.network.training
    exponentials = np.exp(logits(trained.network, images) / trained.temperature)
    expected = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(predict(trained, images), expected, rtol=1e-12)


def two_findings(unknown: float = 0.0, seed: int = 0) -> Batches:
    """Left and right half brighter or not, independently, and a share of it not known."""
    rng = np.random.default_rng(seed)
    while True:
        truth = rng.integers(0, 2, (16, 2)).astype(np.int8)
        images = rng.normal(110 + 60 * truth.repeat(16, axis=1)[:, None], 25, (16, 32, 32))
        yield np.clip(images, 0, 255).astype(np.uint8), np.where(rng.random((16, 2)) < unknown, -1, truth)


def test_several_findings_are_learnt_side_by_side() -> None:
    validation = next(two_findings(seed=1))
    found = train_classifier(two_findings(0.3), 2, ClassifierConfig(steps=60), validation=validation)
    images, truth = next(two_findings(seed=2))
    probabilities = predict(found, images)
    assert ((probabilities > 0.5) == (truth == 1)).mean() > 0.9
    assert probabilities[(truth == 1).all(1)].min() > 0.5  # both at once, which no softmax could say
    assert found.several


def test_what_is_not_known_does_not_count() -> None:
    said = torch.tensor([[3.0, -50.0], [-2.0, 50.0]], requires_grad=True)
    losses = of_findings(said, torch.tensor([[1, -1], [0, -1]]))
    expected = nn.functional.softplus(torch.tensor([-3.0, -2.0]))
    torch.testing.assert_close(losses, expected)
    (gradient,) = torch.autograd.grad(losses.sum(), said)
    assert (gradient[:, 1] == 0).all()
    assert of_findings(said, torch.full((2, 2), -1)).tolist() == [0.0, 0.0]


def test_the_temperature_of_findings_makes_them_as_sure_as_they_may_be() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (4000, 2))
    labels = (rng.random((4000, 2)) < 1 / (1 + np.exp(-true))).astype(np.int8)
    unsure = np.where(rng.random((4000, 2)) < 0.5, -1, labels)
    _, temperature = calibrated_loss(3 * true, unsure, (unsure >= 0).astype(float))
    assert 2.5 < temperature < 3.6
    assert calibrated_loss(true, np.full((4000, 2), -1), np.zeros((4000, 2))) == (0.0, 1.0)


def test_weights_of_findings_are_of_the_films_that_have_them() -> None:
    said, wanted = torch.zeros(2, 2), torch.tensor([[1, 1], [0, 0]])
    losses = of_findings(said, wanted, weights=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(losses, torch.log(torch.tensor(2.0)) * torch.tensor([2.0, 1.0]))
