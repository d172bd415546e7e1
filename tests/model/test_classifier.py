"""The downstream classifier learns, repeats, and weighs classes."""

from collections.abc import Iterator

import numpy as np

from model.classifier import ClassifierConfig, predict, train_classifier

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


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
