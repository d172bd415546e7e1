"""The auxiliary classifier learns the classes, tells images from it, and goes on where it was."""

import numpy as np
import pytest
import torch

from model.training.augment import Augmentation
from model.training.auxiliary import AuxiliaryClassifier


def bright_and_dark(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """40 images whose left half is brighter in class 0, and 5 whose right half is, in class 1."""
    rng = np.random.default_rng(seed)
    images = rng.normal(100, 10, (45, 16, 16))
    images[:40, :, :8] += 60
    images[40:, :, 8:] += 60
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.tensor([0] * 40 + [1] * 5)


def test_it_learns_the_classes_and_tells_them_to_images() -> None:
    images, labels = bright_and_dark()
    classifier = AuxiliaryClassifier(images, labels, 2, seed=0)
    for _ in range(30):
        classifier.step()
    others, of_others = bright_and_dark(seed=1)
    x = (others[:, None].float() / 127.5 - 1).requires_grad_()
    right = classifier.losses(x, of_others)
    wrong = classifier.losses(x, 1 - of_others)
    assert right.shape == (45,)
    assert right.max() < wrong.min()
    (gradient,) = torch.autograd.grad(wrong.sum(), x)
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()
    assert all(p.grad is None or not p.requires_grad for p in classifier.network.parameters())


def test_every_class_is_equally_frequent_and_each_film_is_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = bright_and_dark()
    classifier = AuxiliaryClassifier(images, 1 - labels, 2, seed=0)  # class 0 is the rare one, and lies last
    seen: list[torch.Tensor] = []

    def losses(x: torch.Tensor, y: torch.Tensor, drawn: Augmentation) -> torch.Tensor:
        seen.append(y)
        assert ((x[..., :8].mean((1, 2, 3)) > x[..., 8:].mean((1, 2, 3))) == (y == 1)).all()
        return classifier.network((x + 1) / 2)[:, 0]

    monkeypatch.setattr(classifier, "_losses", losses)
    for _ in range(50):
        classifier.step()
    assert 0.45 < torch.cat(seen).float().mean() < 0.55


def test_what_is_saved_goes_on_to_the_bit() -> None:
    images, labels = bright_and_dark()
    first = AuxiliaryClassifier(images, labels, 2, seed=0)
    first.step()
    kept = {group: {name: value.clone() for name, value in of.items()} for group, of in first.state().items()}
    second = AuxiliaryClassifier(images, labels, 2, seed=5)
    second.load_state(kept)
    for classifier in (first, second):
        classifier.step()
    one, other = (classifier.network.state_dict() for classifier in (first, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_large_images_are_averaged_down_first() -> None:
    images = torch.zeros(8, 128, 128, dtype=torch.uint8)
    classifier = AuxiliaryClassifier(images, torch.tensor([0, 1] * 4), 2, seed=0)
    sides: list[int] = []
    classifier.network.register_forward_pre_hook(lambda module, inputs: sides.append(inputs[0].shape[-1]))
    classifier.step()
    assert classifier.losses(torch.zeros(2, 1, 128, 128), torch.tensor([0, 1])).shape == (2,)
    assert sides == [64, 64]


def test_of_several_findings_it_learns_each_and_leaves_out_what_is_not_known() -> None:
    """Left and right half are brighter or not, independently; the labels of the left are often not known."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (80, 2))
    images = rng.normal(100, 10, (80, 16, 16)) + 60 * truth.repeat(8, axis=1)[:, None]
    labels = torch.from_numpy(np.where((rng.random((80, 2)) < 0.4) & [True, False], -1, truth))
    classifier = AuxiliaryClassifier(torch.from_numpy(images.clip(0, 255).astype(np.uint8)), labels, 2, seed=0)
    for _ in range(60):
        classifier.step()
    x = (torch.from_numpy(images[:, None]).float().clamp(0, 255) / 127.5 - 1).requires_grad_()
    y = torch.from_numpy(truth)
    right, wrong = classifier.losses(x, y), classifier.losses(x, 1 - y)
    assert right.shape == (80,)
    assert right.mean() < 0.5 * wrong.mean()
    assert torch.equal(classifier.losses(x, torch.full_like(y, -1)), torch.zeros(80))
