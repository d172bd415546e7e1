"""Augmentation: the same at every scale, differentiable, and absent at probability 0."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.training.augment import BRIGHTNESS, CONTRAST, CUTOUT, MOST, SHIFT, AdaptiveProbability, Augmentation, draw
from model.training.batches import pyramid


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_probability_zero_is_the_identity() -> None:
    images = pyramid(torch.rand(6, 1, 32, 32) * 2 - 1, 4)
    for before, after in zip(images, draw(6, 0.0, 32, generator())(images), strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


def test_every_scale_gets_the_same() -> None:
    """Augmenting the largest scale and shrinking it gives about what augmenting the small scale gives; another
    augmentation would be 0.2 to 0.3 away."""
    coarse = torch.rand(16, 1, 4, 4, generator=generator())
    images = pyramid(torch.nn.functional.interpolate(coarse, size=64, mode="bicubic"), 5)
    augmented = draw(16, 1.0, 64, generator())(images)
    for small, from_large in zip(augmented, pyramid(augmented[-1], 5), strict=True):
        assert (small - from_large).abs().mean() < 0.06


def test_each_operation_does_what_it_says() -> None:
    x = torch.rand(1, 1, 16, 16)
    none = {
        "shift": torch.zeros(1, 2),
        "hole": torch.full((1, 2), 2.0),
        "brightness": torch.zeros(1),
        "contrast": torch.ones(1),
        "mirrored": torch.zeros(1, dtype=torch.bool),
    }
    shifted = Augmentation(**none | {"shift": torch.tensor([[2 / 16, -1 / 16]])})([x])[0]
    torch.testing.assert_close(shifted[..., 2:, :-1], x[..., :-2, 1:])
    assert shifted[..., :2, :].abs().max() == 0
    assert shifted[..., -1].abs().max() == 0

    cut = Augmentation(**none | {"hole": torch.tensor([[0.0, 0.5]])})([x])[0]
    assert (cut == 0).float().mean().item() > 0.8 * CUTOUT**2
    assert cut[0, 0, 0, 9] == 0
    assert cut[0, 0, 15, 0] == x[0, 0, 15, 0]

    brighter = Augmentation(**none | {"brightness": torch.tensor([0.2])})([x])[0]
    torch.testing.assert_close(brighter, x + 0.2)
    mirrored = Augmentation(**none | {"mirrored": torch.ones(1, dtype=torch.bool)})([x])[0]
    torch.testing.assert_close(mirrored, x.flip(3))

    flatter = Augmentation(**none | {"contrast": torch.tensor([0.5])})([x])[0]
    torch.testing.assert_close(flatter.mean(), x.mean())
    torch.testing.assert_close(flatter.std(), x.std() * 0.5)


def test_a_mirror_image_is_drawn_only_if_asked_for_and_changes_nothing_else() -> None:
    plain, asked = draw(4000, 0.6, 64, generator()), draw(4000, 0.6, 64, generator(), mirror=True)
    assert not plain.mirrored.any()
    assert asked.mirrored.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(plain.shift, asked.shift)
    assert torch.equal(plain.contrast, asked.contrast)


def test_random_values_stay_in_range_and_hit_the_asked_share() -> None:
    change = draw(4000, 0.3, 64, generator())
    assert change.shift.abs().max() <= SHIFT
    assert change.brightness.abs().max() <= BRIGHTNESS
    assert (change.contrast - 1).abs().max() <= CONTRAST
    torch.testing.assert_close(change.shift * 64, (change.shift * 64).round())
    for share in ((change.hole[:, 0] < 2), change.brightness != 0, change.contrast != 1):
        assert abs(share.float().mean().item() - 0.3) < 0.04


def test_gradients_pass_through() -> None:
    x = torch.rand(8, 1, 16, 16, requires_grad=True)
    images = draw(8, 1.0, 16, generator())([x, x * 2])
    torch.stack([image.sum() for image in images]).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert torch.isfinite(x.grad).all()


def test_fp32_inside_autocast() -> None:
    x = torch.rand(2, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = draw(2, 0.7, 16, generator())([x])[0]
    assert torch.equal(inside, draw(2, 0.7, 16, generator())([x])[0])


def test_a_tensor_of_the_probability_is_as_good_as_a_number() -> None:
    by_number, by_tensor = draw(50, 0.3, 16, generator()), draw(50, torch.tensor(0.3), 16, generator())
    assert torch.equal(by_number.hole, by_tensor.hole)
    assert torch.equal(by_number.contrast, by_tensor.contrast)


def adaptive(target: float) -> AdaptiveProbability:
    return AdaptiveProbability(0.0, target, 800, torch.device("cpu"))


def test_the_probability_goes_from_zero_to_one_in_the_given_images_and_stops_before() -> None:
    real, fake = torch.full((8,), 0.1), torch.zeros(8)
    probability = adaptive(target=0.05)
    values = []
    for _ in range(100):
        probability.update(real, fake)
        values.append(probability.value.item())
    assert values[49] == pytest.approx(0.5)
    assert values[99] == pytest.approx(MOST)
    for _ in range(200):
        probability.update(fake, real)
    assert probability.value == 0


def test_it_settles_where_the_sign_meets_the_target() -> None:
    """D that is right more often than the target says the less is augmented."""
    noise, probability = generator(), adaptive(target=0.4)
    values = []
    for _ in range(1500):
        fake = torch.randn(8, generator=noise)
        probability.update(fake + torch.randn(8, generator=noise) + 2 * (1 - 2 * probability.value), fake)
        values.append(probability.value.item())
    # P(real > fake) = 0.7, for r = 0.4, where the shift is the 0.7 quantile of a normal distribution, 0.524
    assert sum(values[500:]) / 1000 == pytest.approx((1 - 0.524 / 2) / 2, abs=0.03)


def test_only_the_difference_of_logits_counts() -> None:
    """Relativistic losses leave the zero of the logits to chance."""
    here, there = adaptive(0.5), adaptive(0.5)
    real, fake = torch.randn(8, generator=generator(1)), torch.randn(8, generator=generator(2))
    here.update(real, fake)
    there.update(real + 100, fake + 100)
    assert here.r == there.r != 0


def test_nothing_waits_for_the_probability() -> None:
    class NoSync(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "_local_scalar_dense" not in str(func), "a value was read from the device"
            return func(*args, **(kwargs or {}))

    probability, noise = adaptive(0.5), generator()
    with NoSync():
        probability.update(torch.ones(8), torch.zeros(8))
        draw(8, probability.value, 16, noise)([torch.zeros(8, 1, 16, 16)])
        with pytest.raises(AssertionError, match="was read"):
            probability.value.item()
