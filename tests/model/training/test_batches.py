"""Minibatches: balanced, complete, at every scale."""

import pytest
import torch

from model.training.batches import BalancedSampler, pyramid
from tests.model.tiny import labels


def test_minibatches_are_balanced_and_use_every_image() -> None:
    y = torch.from_numpy(labels(20, 4))
    sampler = BalancedSampler(y, 2, torch.Generator().manual_seed(0))
    indices, drawn = (torch.cat(parts) for parts in zip(*(sampler.next(8) for _ in range(35)), strict=True))
    assert torch.equal(y[indices], drawn)
    assert torch.bincount(drawn).tolist() == [140, 140]
    assert torch.bincount(indices).tolist() == [7] * 20 + [35] * 4
    assert (drawn.reshape(-1, 4) == drawn[::4, None]).all()  # one class in each group of minibatch_stddev


def test_of_several_findings_each_is_as_frequent_and_comes_with_what_its_image_has() -> None:
    y = torch.tensor([[1, 0, 0]] * 20 + [[0, 1, 0]] * 3 + [[0, 1, 1]] + [[0, 0, 1]] * 2 + [[0, -1, 0]])
    sampler = BalancedSampler(y, 3, torch.Generator().manual_seed(0))
    indices, drawn = (torch.cat(parts) for parts in zip(*(sampler.next(12) for _ in range(40)), strict=True))
    assert torch.equal(y[indices], drawn)
    uses = torch.bincount(indices, minlength=len(y))
    assert uses[:20].tolist() == [8] * 20
    assert uses[20:23].tolist() == [40] * 3  # a quarter of those of the second, which shares one image with the third
    assert uses[23] == pytest.approx(40 + 160 / 3, abs=1)
    assert uses[-1] == 0  # none of it is known to be there


def test_pyramid_averages() -> None:
    x = torch.rand(2, 1, 16, 16)
    scales = pyramid(x, 3)
    assert [scale.shape[-1] for scale in scales] == [4, 8, 16]
    torch.testing.assert_close(scales[0][0, 0, 0, 0], x[0, 0, :4, :4].mean())
