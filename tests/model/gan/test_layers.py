"""Self-attention shows where it looks, and looks there; sets of findings are told as sums."""

import torch
from torch.nn import functional as F

from model.gan.layers import SelfAttention, class_embedding, embedded

SIDE, CHANNELS = 8, 16


def test_the_weights_shown_are_those_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    block, x = SelfAttention(CHANNELS), torch.randn(3, CHANNELS, SIDE, SIDE)
    torch.nn.init.constant_(block.gamma, 0.5)
    weights = block.weights(x)
    assert weights.shape == (3, SIDE**2, SIDE**2 // 4)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, SIDE**2))
    value = F.max_pool2d(F.conv2d(x, block.value * CHANNELS**-0.5), 2).flatten(2)  # (B, C/2, HW/4)
    mixed = torch.einsum("bqk,bck->bcq", weights, value).reshape(3, CHANNELS // 2, SIDE, SIDE)
    expected = x + 0.5 * F.conv2d(mixed, block.out * (CHANNELS // 2) ** -0.5)
    torch.testing.assert_close(block(x), expected)


def test_a_pixel_looks_at_the_key_that_answers_it() -> None:
    """One pixel asks, one answers, at different ends of the image."""
    block, x = SelfAttention(CHANNELS), torch.zeros(1, CHANNELS, SIDE, SIDE)
    with torch.no_grad():
        block.query.zero_()[0, 0] = block.key.zero_()[0, 1] = 4 * CHANNELS**0.5
    x[0, 0, 1, 6] = x[0, 1, 5, 2] = 1
    weights = block.weights(x).reshape(SIDE, SIDE, SIDE // 2, SIDE // 2)
    assert weights[1, 6, 2, 1] > 0.99
    torch.testing.assert_close(weights[0, 0], torch.full((4, 4), 1 / 16))


def test_a_set_of_one_is_its_class_and_findings_add_up_around_what_all_have_in_common() -> None:
    torch.manual_seed(0)
    embed = class_embedding(3, 5)
    torch.nn.init.normal_(embed.weight)
    weight, mean = embed.weight, embed.weight.mean(0)
    assert torch.equal(embedded(embed, torch.eye(3, dtype=torch.int64)), embedded(embed, torch.arange(3)))
    assert torch.equal(embedded(embed, torch.arange(3)), weight)
    both, unknown, none = embedded(embed, torch.tensor([[1, 0, 1], [1, -1, 0], [0, 0, 0]]))
    torch.testing.assert_close(both - mean, (weight[0] - mean) + (weight[2] - mean))
    torch.testing.assert_close(unknown, weight[0])  # what is not known is as if not there
    torch.testing.assert_close(none, mean)
