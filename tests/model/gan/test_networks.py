"""Shapes, folded layers, and the equality of MSG-GAN and MSG-SAGAN at gamma 0."""

import pytest
import torch
import torch.nn.functional as F

from model.gan.layers import (
    EqualizedBilinearUpConv2d,
    EqualizedDownConv2d,
    EqualizedUpConv2d,
    SelfAttention,
    minibatch_stddev,
    pixel_norm,
)
from model.gan.networks import Discriminator, Generator, Join, NetworkConfig, attention_gammas


def both(config: NetworkConfig, seed: int = 0) -> tuple[Generator, Discriminator]:
    torch.manual_seed(seed)
    return Generator(config), Discriminator(config)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("stddev", ["last", "every"])
@pytest.mark.parametrize("resolution", [8, 32, 128])
def test_an_image_at_every_scale_and_one_logit(resolution: int, stddev: str, classes: int) -> None:
    config = NetworkConfig(
        resolution, width=8, latent_dim=6, classes=classes, attention_resolutions=(8,), minibatch_stddev=stddev
    )
    generator, discriminator = both(config)
    y = torch.arange(5) % classes

    images = generator(torch.randn(5, config.inputs), y)

    assert [tuple(image.shape) for image in images] == [(5, 1, side, side) for side in config.scales]
    assert config.scales[0] == 4
    assert config.scales[-1] == resolution
    assert discriminator(images, y).shape == (5,)


def test_width_512_has_the_parameters_of_the_published_tables() -> None:
    config = NetworkConfig(resolution=128, width=512, latent_dim=512)
    assert [config.channels(side) for side in config.scales] == [512, 512, 512, 512, 256, 128]
    with torch.device("meta"):
        count = sum(p.numel() for p in Generator(config).parameters())
    assert count == pytest.approx(22.9e6, rel=0.02)


def test_networks_of_1024_pixels() -> None:
    """Of full width, without the memory or the time."""
    config = NetworkConfig(resolution=1024, width=512, latent_dim=512)
    assert config.channels(1024) == 16
    with torch.device("meta"):
        generator, discriminator = both(config)
        images = generator(torch.randn(4, config.inputs), torch.zeros(4, dtype=torch.int64))
        logits = discriminator(images, torch.zeros(4, dtype=torch.int64))
    assert [image.shape[-1] for image in images] == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert logits.shape == (4,)


@pytest.mark.parametrize(
    ("phi", "inputs"), [("simple", [8, 16 + 1, 16 + 1]), ("lin_cat", [8, 16 + 8, 16 + 8]), ("cat_lin", [8, 16, 16])]
)
def test_phi_decides_how_the_smaller_images_join(phi: str, inputs: list[int]) -> None:
    """Resolution 64: 8 channels from the largest image, 16 below."""
    config = NetworkConfig(64, width=16, latent_dim=8, phi=phi, minibatch_stddev="last")
    generator, discriminator = both(config)
    state = discriminator.state_dict()
    widths = [state[f"blocks.{block}.first.weight"].shape[1] for block in range(4)]
    assert widths == [*inputs, inputs[-1]]
    assert discriminator.last_conv.weight.shape[1] == inputs[-1] + 1  # and minibatch_stddev

    y = torch.zeros(4, dtype=torch.int64)
    images = generator(torch.randn(4, config.inputs), y)
    gradients = torch.autograd.grad(discriminator(images, y).sum(), images)
    assert all(g.abs().sum() > 0 for g in gradients)


def test_the_joins_are_linear_in_features_and_image() -> None:
    torch.manual_seed(0)
    x, image = torch.randn(2, 6, 4, 4), torch.randn(2, 1, 4, 4)
    assert torch.equal(Join("simple", 6)(x, image), torch.cat([x, image], 1))

    join = Join("lin_cat", 6)
    weight = join.state_dict()["image.weight"].reshape(1, 3, 1, 1)
    torch.testing.assert_close(join(x, image), torch.cat([x, image * weight], 1))

    join = Join("cat_lin", 6)
    weight = join.state_dict()["both.weight"][:, :, 0, 0] / 7**0.5
    expected = torch.einsum("oi,bihw->bohw", weight, torch.cat([x, image], 1))
    torch.testing.assert_close(join(x, image), expected)


@pytest.mark.parametrize("phi", ["simple", "lin_cat", "cat_lin"])
def test_at_gamma_zero_msg_sagan_is_msg_gan(phi: str) -> None:
    plain = NetworkConfig(32, width=16, latent_dim=8, classes=2, phi=phi)
    attentive = NetworkConfig(32, width=16, latent_dim=8, classes=2, phi=phi, attention_resolutions=(4, 16, 32))
    z, y = torch.randn(4, plain.inputs), torch.tensor([0, 1, 1, 0])

    (g, d), (ga, da) = both(plain, seed=3), both(attentive, seed=3)

    for without, with_attention in ((g, ga), (d, da)):
        others = {k: v for k, v in with_attention.state_dict().items() if ".attention." not in f".{k}"}
        assert others.keys() == without.state_dict().keys()
        assert all(torch.equal(v, others[k]) for k, v in without.state_dict().items())
    images, images_attention = g(z, y), ga(z, y)
    assert all(torch.equal(a, b) for a, b in zip(images, images_attention, strict=True))
    assert torch.equal(d(images, y), da(images, y))


def test_attention_stands_only_where_asked_and_its_gamma_learns() -> None:
    config = NetworkConfig(32, width=16, latent_dim=8, attention_resolutions=(32, 8))
    generator, discriminator = both(config)
    assert set(attention_gammas(generator, discriminator)) == {
        "generator.8", "generator.32", "discriminator.8", "discriminator.32",
    }  # fmt: skip
    assert attention_gammas(*both(NetworkConfig(32, width=16))) == {}

    y = torch.zeros(4, dtype=torch.int64)
    discriminator(generator(torch.randn(4, config.inputs), y), y).sum().backward()
    for network in (generator, discriminator):
        for block in (m for m in network.modules() if isinstance(m, SelfAttention)):
            assert block.gamma.grad is not None
            assert block.gamma.grad != 0


def test_attention_mixes_distant_pixels() -> None:
    torch.manual_seed(0)
    block = SelfAttention(16)
    x = torch.randn(1, 16, 8, 8, requires_grad=True)
    torch.nn.init.constant_(block.gamma, 1.0)
    (gradient,) = torch.autograd.grad(block(x)[0, :, 0, 0].sum(), x)
    assert gradient[0, :, 7, 7].abs().sum() + gradient[0, :, 6, 6].abs().sum() > 0


def test_gradients_reach_every_scale() -> None:
    config = NetworkConfig(32, width=8, latent_dim=8)
    generator, discriminator = both(config)
    y = torch.zeros(4, dtype=torch.int64)
    images = generator(torch.randn(4, config.inputs), y)
    gradients = torch.autograd.grad(discriminator(images, y).sum(), images, retain_graph=True)
    assert all(g.abs().sum() > 0 for g in gradients)
    discriminator(images, y).sum().backward()
    for name, parameter in generator.to_image.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def class_embeddings(network: Generator | Discriminator) -> dict[str, torch.nn.Embedding]:
    return {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.Embedding)}


@pytest.mark.parametrize("modulated", [True, False])
def test_conditional_networks_start_unconditional_and_can_tell_classes_apart(modulated: bool) -> None:
    config = NetworkConfig(16, width=8, latent_dim=8, classes=2, class_modulation=modulated)
    generator, discriminator = both(config)
    z = torch.randn(2, config.inputs)
    zero, one = torch.tensor([0, 0]), torch.tensor([1, 1])
    images = generator(z, zero)
    assert torch.equal(images[-1], generator(z, one)[-1])
    assert torch.equal(discriminator(images, zero), discriminator(images, one))

    for network in (generator, discriminator):
        for embedding in class_embeddings(network).values():
            torch.nn.init.normal_(embedding.weight)
    assert not torch.allclose(generator(z, zero)[-1], generator(z, one)[-1])
    assert not torch.allclose(discriminator(images, zero), discriminator(images, one))


def test_the_class_reaches_every_scale_of_the_generator_by_itself() -> None:
    """Each embedding alone parts the classes: the first layer's, and two of each scale (4, 8, 16 px)."""
    config = NetworkConfig(16, width=8, latent_dim=8, classes=2)
    z = torch.randn(4, config.inputs)
    zero, one = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    count = len(class_embeddings(Generator(config)))
    assert count == 1 + 2 * 3
    for k in range(count):
        generator, _ = both(config)
        torch.nn.init.normal_(list(class_embeddings(generator).values())[k].weight)
        assert not torch.allclose(generator(z, zero)[-1], generator(z, one)[-1])


def test_logits_of_another_class_need_no_second_pass() -> None:
    config = NetworkConfig(16, width=8, latent_dim=8, classes=3)
    generator, discriminator = both(config)
    for embedding in class_embeddings(discriminator).values():
        torch.nn.init.normal_(embedding.weight)
    y, other = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])
    images = generator(torch.randn(4, config.inputs), y)
    features = discriminator.features(images)
    torch.testing.assert_close(discriminator.logits(features, other), discriminator(images, other))
    assert not torch.allclose(discriminator(images, other), discriminator(images, y))


def test_noise_changes_the_texture_and_starts_at_nothing() -> None:
    config = NetworkConfig(16, width=8, latent_dim=8, noise=True)
    generator, _ = both(config)
    y, z = torch.zeros(2, dtype=torch.int64), torch.randn(1, config.inputs).repeat(2, 1)
    z[1, config.latent_dim :] = torch.randn(config.inputs - config.latent_dim)
    assert torch.equal(*generator(z, y)[-1])
    for name, parameter in generator.named_parameters():
        if name.endswith("strength"):
            torch.nn.init.ones_(parameter)
    coarse, *_, fine = generator(z, y)
    assert torch.equal(*coarse)  # of 4 px: no noise enters before it
    assert not torch.allclose(*fine)


def test_latents_are_put_on_the_sphere_inside() -> None:
    config = NetworkConfig(8, width=8, latent_dim=8, noise=False)
    generator, _ = both(config)
    z, y = torch.randn(3, config.inputs), torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(generator(z, y)[-1], generator(z * 7, y)[-1])


def test_truncation_zero_leaves_only_the_class() -> None:
    config = NetworkConfig(8, width=8, latent_dim=8, classes=2, noise=False)
    image = both(config)[0](torch.randn(3, config.inputs), torch.zeros(3, dtype=torch.int64), 0.0)[-1]
    torch.testing.assert_close(image[0], image[1])


def test_bilinear_upsampling_leaves_a_fainter_grid_than_nearest() -> None:
    """A wave of 8 pixels becomes one of 16, and a grid beside it: the same wave mirrored at half the sampling rate."""

    def grid(layer: torch.nn.Module) -> float:
        torch.manual_seed(1)
        wave = torch.cos(torch.arange(32) * (2 * torch.pi / 8)).expand(1, 4, 32, 32) * torch.randn(64, 4, 1, 1)
        rows = layer(wave)[:, :, 32, 16:48].detach()
        power = torch.fft.rfft(rows * torch.hann_window(32)).abs().square().mean((0, 1))
        return float(power[16 - 2] / power[2])

    torch.manual_seed(0)
    assert grid(EqualizedBilinearUpConv2d(4, 8)) < 0.2 * grid(EqualizedUpConv2d(4, 8))


def test_folded_layers_equal_their_two_steps() -> None:
    x = torch.randn(2, 5, 8, 8)
    up, down = EqualizedUpConv2d(5, 7), EqualizedDownConv2d(5, 7)
    torch.nn.init.normal_(up.bias)
    torch.nn.init.normal_(down.bias)
    two_steps = F.conv2d(F.interpolate(x, scale_factor=2), up.weight * up.scale, up.bias, padding=1)
    torch.testing.assert_close(up(x), two_steps, atol=1e-5, rtol=1e-5)
    two_steps = F.avg_pool2d(F.conv2d(x, down.weight * down.scale, down.bias, padding=1), 2)
    torch.testing.assert_close(down(x), two_steps, atol=1e-5, rtol=1e-5)


def test_pixel_norm_and_its_written_out_gradient() -> None:
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    y = pixel_norm(x)
    torch.testing.assert_close(y.square().mean(1), torch.ones(2, 3, 3, dtype=torch.float64), atol=1e-6, rtol=0)
    weight = torch.randn_like(x)
    (ours,) = torch.autograd.grad((y * weight).sum(), x)
    reference = x / torch.sqrt(x.square().mean(1, keepdim=True) + 1e-8)
    (theirs,) = torch.autograd.grad((reference * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_minibatch_stddev_sees_a_collapsed_batch() -> None:
    spread = minibatch_stddev(torch.randn(8, 3, 4, 4))
    collapsed = minibatch_stddev(torch.ones(8, 3, 4, 4))
    assert spread.shape == (8, 4, 4, 4)
    assert spread[:, 3].min() > 0.3
    assert collapsed[:, 3].max() < 1e-3
    assert minibatch_stddev(torch.randn(7, 3, 4, 4)).shape == (7, 4, 4, 4)  # no group of four fits


def test_minibatch_stddev_is_the_mean_deviation_of_a_group_and_keeps_the_layout() -> None:
    x = torch.randn(8, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    expected = torch.stack([group.var(0, correction=0).sqrt().mean() for group in x.split(4)])
    out = minibatch_stddev(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[:, 3], expected.repeat_interleave(4).reshape(8, 1, 1).expand(8, 4, 4))
    torch.testing.assert_close(out[:, :3], x)
    exact = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(minibatch_stddev, exact)
    assert torch.autograd.gradgradcheck(minibatch_stddev, exact)  # the penalty


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 48},
        {"resolution": 4},
        {"width": 0},
        {"classes": 0},
        {"attention_resolutions": (128,)},
        {"minibatch_stddev": "some"},
        {"phi": "cat"},
    ],
)
def test_impossible_networks_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NetworkConfig(**wrong)


def test_sets_of_one_finding_are_classes_to_the_bit_and_of_two_something_else() -> None:
    config = NetworkConfig(8, width=8, latent_dim=6, classes=3)
    generator, discriminator = both(config)
    for module in (*generator.modules(), *discriminator.modules()):
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.1)  # as if trained: classes start alike
    z, y = torch.randn(3, config.inputs), torch.arange(3)
    images = generator(z, y)
    of_sets = generator(z, torch.eye(3, dtype=torch.int64))
    assert all(torch.equal(one, other) for one, other in zip(images, of_sets, strict=True))
    assert torch.equal(discriminator(images, y), discriminator(images, torch.eye(3)))
    two = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    assert not torch.allclose(generator(z, two)[-1], images[-1])
    assert not torch.allclose(discriminator(images, two), discriminator(images, y))
