"""One step of training: what it augments, freezes, penalises and leaves out."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.gan.networks import Generator
from model.training.checkpoint import optimizer_tensors
from model.training.losses import Images, gradient_penalty
from model.training.trainer import Trainer
from tests.model.tiny import SHORT, TINY, films, labels


def test_bf16_and_fp32_agree_at_first() -> None:
    """The first losses, before small differences have grown."""
    losses = []
    for precision in ("bf16", "fp32"):
        config = dataclasses.replace(SHORT, loss="relativistic", precision=precision)
        trainer = Trainer(films(20), labels(20), TINY, config)
        losses.append(trainer.step()["loss_discriminator"].item())
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_both_sides_are_augmented_in_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """D never sees an image as it is: what reaches it was blanked by the patched augmentation."""
    monkeypatch.setattr("model.training.augment.Augmentation.__call__", lambda self, images: [x * 0 for x in images])
    trainer = Trainer(films(20), labels(20), TINY, dataclasses.replace(SHORT, augment_probability=1.0))
    seen: list[float] = []
    features = trainer.discriminator.features

    def look(images: list[Tensor]) -> Tensor:
        seen.append(max(x.abs().max().item() for x in images))
        return features(images)

    monkeypatch.setattr(trainer.discriminator, "features", look)
    trainer.step()
    assert len(seen) >= 2
    assert max(seen) == 0


def test_the_discriminator_is_frozen_in_the_generators_step() -> None:
    trainer = Trainer(films(20), labels(20), TINY, SHORT)
    seen: list[bool] = []

    def loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        seen.append(any(p.requires_grad for p in trainer.discriminator.parameters()))
        return -fake.mean()

    trainer.loss = trainer.loss._replace(generator=loss)
    trainer.step()
    assert seen == [False]
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


@pytest.mark.parametrize(("settings", "runs"), [({}, False), ({"augment_target": 0.6}, True)])
def test_without_augmentation_none_of_its_code_runs(
    settings: dict, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Tensor] = []
    original = torch.rand  # of augment.draw

    def rand(*shape: int, **options: Any) -> Tensor:
        calls.append(original(*shape, **options))
        return calls[-1]

    monkeypatch.setattr("model.training.augment.torch.rand", rand)
    Trainer(films(20), labels(20), TINY, dataclasses.replace(SHORT, **settings)).step()
    assert bool(calls) == runs


def test_the_probability_follows_how_surely_d_tells_real_from_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """D is always right, then always wrong."""
    config = dataclasses.replace(SHORT, augment_probability=0.2, augment_target=0.1, augment_kimg=0.8)
    trainer = Trainer(films(20), labels(20), TINY, config)
    sign = 1.0

    def features(real: list[Tensor], fake: list[Tensor]) -> tuple[Tensor, Tensor]:
        anything = torch.rand(len(real[0]))
        return anything + sign, anything - sign

    def logits(features: Tensor, y: Tensor) -> Tensor:
        return features + sum(p.sum() for p in trainer.discriminator.parameters()) * 0

    monkeypatch.setattr(trainer, "_features", features)
    monkeypatch.setattr(trainer.discriminator, "logits", logits)
    used = [trainer.step()["augment_probability"].item() for _ in range(20)]
    assert used[0] == pytest.approx(0.2)
    assert used[1] < used[0]  # one batch of 8 does not yet make the average
    assert used[-1] == pytest.approx(0.2 + 17 * 0.01)
    assert trainer.means()[0]["augment_probability"] == pytest.approx(sum(used) / 20)
    sign = -1.0
    used = [trainer.step()["augment_probability"].item() for _ in range(80)]
    assert max(used) > used[0]  # the average lags behind
    assert used[-1] == 0


def class_weights(network: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.weight": m.weight for name, m in network.named_modules() if isinstance(m, nn.Embedding)}


def images_differ(generator: Generator) -> bool:
    z = torch.randn(1, generator.config.inputs).repeat(2, 1)
    zero, one = generator(z, torch.tensor([0, 1]))[-1]
    return not torch.equal(zero, one)


def test_the_class_is_left_out_in_the_warm_up_and_learnt_from_zero_afterwards() -> None:
    network = dataclasses.replace(TINY, classes=2)
    config = dataclasses.replace(SHORT, warmup_kimg=0.04, penalty_interval=1)
    trainer = Trainer(films(20), labels(10, 10), network, config)
    networks = (trainer.generator, trainer.discriminator, trainer.ema)
    for _ in range(5):
        trainer.step()
    assert [len(class_weights(network)) for network in networks] == [5, 1, 5]
    assert all((weight == 0).all() for network in networks for weight in class_weights(network).values())
    assert not images_differ(trainer.generator)
    for optimizer, net in ((trainer.optimizer_g, trainer.generator), (trainer.optimizer_d, trainer.discriminator)):
        names = [name for name, _ in net.named_parameters()]
        with_state = {names[int(key.split(".")[0])] for key in optimizer_tensors(optimizer)}
        assert with_state == set(names) - class_weights(net).keys()
    trainer.step()
    assert all((weight != 0).any() for network in networks for weight in class_weights(network).values())
    assert images_differ(trainer.generator)
    for optimizer, net in ((trainer.optimizer_g, trainer.generator), (trainer.optimizer_d, trainer.discriminator)):
        for weight in class_weights(net).values():
            assert optimizer.state[weight]["step"] == 1  # Adam's first step of it, with a first step's size
            assert weight.abs().max().item() == pytest.approx(config.learning_rate, rel=0.01)


def test_a_wrong_label_counts_as_a_fake_at_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are made to be 10 times the class that D is told."""
    network = dataclasses.replace(TINY, classes=2)
    config = dataclasses.replace(SHORT, mismatch=0.25, penalty_interval=1000)
    trainer = Trainer(films(20), labels(10, 10), network, config)
    trainer.steps = 1  # without a penalty
    compared: list[tuple[list[float], list[float]]] = []

    def loss(real: Tensor, fake: Tensor) -> Tensor:
        compared.append((real.tolist(), fake.tolist()))
        return real.sum() * 0 + 8.0

    trainer.loss = trainer.loss._replace(discriminator=loss)
    monkeypatch.setattr(trainer.discriminator, "logits", lambda features, y: 10.0 * y + features.sum() * 0)
    totals: list[float] = []
    monkeypatch.setattr(trainer, "_descend", lambda loss, *rest: totals.append(loss.item()))
    stats = trainer.step()
    (right, of_fakes), (again, wrong) = compared
    assert right == of_fakes == again
    assert wrong == [10.0 - value for value in right]
    assert totals[0] == 8.0 + 0.25 * 8.0
    assert stats["loss_discriminator"] == 8.0


@pytest.mark.parametrize("images_of", ["one class", "several"])
def test_an_auxiliary_classifier_there_is_where_there_are_classes(images_of: str) -> None:
    classes = 1 if images_of == "one class" else 2
    network = dataclasses.replace(TINY, classes=classes)
    trainer = Trainer(films(20), labels(*[20 // classes] * classes), network, SHORT)
    assert (trainer.auxiliary is not None) == (classes > 1)
    without = Trainer(films(20), labels(*[20 // classes] * classes), network, dataclasses.replace(SHORT, auxiliary=0))
    assert without.auxiliary is None
    trainer.step()
    without.step()
    alike = all(
        torch.equal(a, b) for a, b in zip(trainer.generator.parameters(), without.generator.parameters(), strict=True)
    )
    assert alike == (classes == 1)
    for a, b in zip(trainer.discriminator.parameters(), without.discriminator.parameters(), strict=True):
        assert torch.equal(a, b)  # it tells the generator alone


@pytest.mark.parametrize(("loss", "share"), [("relativistic", 0.5), ("wgan_gp", 1.0)])
def test_a_lazy_penalty_has_the_weight_of_all_the_steps_it_stands_for(
    loss: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(SHORT, loss=loss, gamma=6.0, penalty_interval=3)
    trainer = Trainer(films(20), labels(20), TINY, config)
    totals: list[float] = []
    original = Trainer._descend

    def descend(self: Trainer, total: Tensor, optimizer: Optimizer, *rest: object) -> None:
        if optimizer is self.optimizer_d:
            totals.append(total.item())
        original(self, total, optimizer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_descend", descend)
    stats = [trainer.step() for _ in range(4)]
    added = [total - stat["loss_discriminator"].item() for total, stat in zip(totals, stats, strict=True)]
    weight = share * 6.0 * 3
    assert stats[0]["penalty"] > 0
    expected = [weight * stats[0]["penalty"].item(), 0, 0, weight * stats[3]["penalty"].item()]
    assert added == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("on", "fakes"), [("real", 0), ("both", 4)])
def test_penalties_are_taken_where_asked(on: str, fakes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(films(20, mean=250), labels(20), TINY, dataclasses.replace(SHORT, penalty_on=on))
    seen: list[Tensor] = []
    original = gradient_penalty

    def penalty(discriminator: nn.Module, images: Images, *rest: object) -> Tensor:
        seen.append(images[-1])
        return original(discriminator, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("model.training.trainer.gradient_penalty", penalty)
    trainer.step()
    (images,) = seen
    assert (images.std((1, 2, 3)) > 0.2).sum() == fakes  # films are all but white, first images of G are noise


@pytest.mark.parametrize(("loss", "penalty"), [("relativistic", 0.0), ("wgan_gp", 1.0)])
def test_each_loss_has_its_own_penalty(loss: str, penalty: float) -> None:
    """D is constant: the gradient is nought, as R1 wants it and WGAN-GP does not."""
    trainer = Trainer(films(20), labels(20), TINY, dataclasses.replace(SHORT, loss=loss))
    torch.nn.init.zeros_(trainer.discriminator.logit.weight)
    assert trainer.step()["penalty"].item() == penalty


SEVERAL = dataclasses.replace(TINY, classes=3)
FINDINGS = np.array([[1, 0, 0]] * 12 + [[0, 1, 0]] * 4 + [[0, 1, 1]] * 2 + [[0, -1, 1]] * 2, np.int8)


def test_a_wrong_set_differs_in_one_finding_that_is_known() -> None:
    trainer = Trainer(films(20), FINDINGS, SEVERAL, SHORT)
    y = torch.from_numpy(FINDINGS[[0, 12, 16, 18, 18, 18, 18, 18]]).long()
    places: set[tuple[int, int]] = set()
    for _ in range(50):
        wrong = trainer._one_flipped(y)
        changed = wrong != y
        assert (changed.sum(1) == 1).all()
        assert (wrong[changed] == 1 - y[changed]).all()
        assert not changed[y < 0].any()
        places.update((k, j) for k, j in changed.nonzero().tolist())
    assert {(0, 0), (0, 1), (0, 2)} <= places  # any of them


def test_sets_of_one_finding_train_like_classes_but_for_what_only_sets_have() -> None:
    """Without wrong labels and the auxiliary classifier, whose losses are others, to the bit."""
    config = dataclasses.replace(SHORT, mismatch=0.0, auxiliary=0.0)
    y = labels(12, 5, 3)
    steps = []
    for of in (y, np.eye(3, dtype=np.int8)[y]):
        trainer = Trainer(films(20), of, SEVERAL, config)
        steps.append([trainer.step()["loss_discriminator"].item() for _ in range(3)])
    assert steps[0] == steps[1]


def test_a_training_on_several_findings_goes_on_where_it_was() -> None:
    first = Trainer(films(20), FINDINGS, SEVERAL, SHORT)
    for _ in range(2):
        first.step()
    groups, facts = first.state()
    kept = {group: {name: value.clone() for name, value in of.items()} for group, of in groups.items()}
    second = Trainer(films(20), FINDINGS, SEVERAL, dataclasses.replace(SHORT, seed=5))
    second.load_state(kept, facts)
    one, other = (trainer.step()["loss_generator"].item() for trainer in (first, second))
    assert one == other


@pytest.mark.parametrize("wrong", [FINDINGS[:, :2], FINDINGS * 2])
def test_findings_that_do_not_fit_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="findings must be"):
        Trainer(films(20), wrong, SEVERAL, SHORT)
