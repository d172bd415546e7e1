"""Image k of a class and seed is the same whatever is drawn with it."""

import numpy as np
import pytest
import torch

from model.gan.layers import on_sphere
from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import attention_blocks, attention_maps, between, hot, latents, render, sample, sets_of


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(NetworkConfig(16, width=8, latent_dim=16, classes=2, attention_resolutions=(8,), noise=True))
    assert generator.embed is not None
    torch.nn.init.normal_(generator.embed.weight)  # as if trained: classes start alike
    return generator.eval()


@pytest.mark.parametrize("count", [1, 8, 15, 16, 17, 65])
def test_image_k_does_not_depend_on_count(generator: Generator, count: int) -> None:
    many = sample(generator, 1, 130, seed=4)
    assert many.shape == (130, 16, 16)
    assert many.dtype == np.uint8
    assert np.array_equal(sample(generator, 1, count, seed=4), many[:count])


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_rendered_in_other_batches_an_image_changes_by_at_most_one_grey_level(generator: Generator, batch: int) -> None:
    reference = sample(generator, 1, 12, seed=3).astype(int)
    z = latents(1, 0, 12, seed=3, dim=generator.config.inputs)
    parts = [render(generator, part, torch.ones(len(part), dtype=torch.int64)) for part in z.split(batch)]
    assert np.abs(np.concatenate(parts) - reference).max() <= 1


def test_batches_are_always_full_and_of_large_images_small() -> None:
    """Full: kernels may round differently for another batch size. Small: memory."""
    generator = Generator(NetworkConfig(128, width=8, latent_dim=8)).eval()
    sizes: list[int] = []
    generator.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    many = sample(generator, 0, 20, seed=0)
    assert np.array_equal(sample(generator, 0, 3, seed=0), many[:3])
    assert sizes == [16, 16, 16]


def test_seeds_classes_and_numbers_differ(generator: Generator) -> None:
    images = sample(generator, 0, 4, seed=0)
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images, sample(generator, 0, 4, seed=1))
    assert not np.array_equal(images, sample(generator, 1, 4, seed=0))


def test_latents_are_standard_normal_and_addressable() -> None:
    z = latents(0, 0, 500, seed=7, dim=64)
    assert torch.equal(latents(0, 123, 2, seed=7, dim=64), z[123:125])
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02
    assert torch.corrcoef(z[:50]).fill_diagonal_(0).abs().max() < 0.6


def test_no_two_classes_or_seeds_share_a_latent() -> None:
    keys = [(label, seed) for label in (0, 1, 11) for seed in (0, 1, 10)]
    z = torch.cat([latents(label, 0, 12, seed, dim=8) for label, seed in keys])
    assert len(z.unique(dim=0)) == len(z)


def test_the_global_random_state_is_neither_used_nor_changed(generator: Generator) -> None:
    torch.manual_seed(1)
    first, state = sample(generator, 0, 3, seed=0), torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(sample(generator, 0, 3, seed=0), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_truncation_decides_about_variety(generator: Generator) -> None:
    def variety(truncation: float) -> float:
        return float(sample(generator, 0, 32, 0, truncation).std(0).mean())

    assert variety(0.0) <= 0.01 < variety(0.5) < variety(1.0) < variety(1.5)


def test_nothing_asked_nothing_drawn(generator: Generator) -> None:
    assert sample(generator, 0, 0, seed=0).shape == (0, 16, 16)


@pytest.mark.parametrize("label", [-1, 2])
def test_an_unknown_class_is_named(generator: Generator, label: int) -> None:
    with pytest.raises(ValueError, match="label must be from 0 to 1"):
        sample(generator, label, 1, seed=0)


def test_interpolation_goes_in_equal_steps_along_the_sphere() -> None:
    a, b = latents(0, 0, 2, seed=0, dim=32)
    path = between(a, b, 9)
    torch.testing.assert_close(path[[0, -1]], on_sphere(torch.stack([a, b])))
    torch.testing.assert_close(path.square().mean(1), torch.ones(9))
    steps = (path[1:] * path[:-1]).mean(1)  # cosines
    torch.testing.assert_close(steps, steps[:1].expand(8))
    assert torch.linalg.matrix_rank(path, atol=1e-3) == 2  # a circle lies in a plane
    torch.testing.assert_close(between(a, 3 * a, 4), on_sphere(a[None]).expand(4, -1))


def test_attention_maps_tell_where_a_point_of_the_image_looks() -> None:
    """In the features before attention, one pixel is made to ask and another to answer."""
    generator = Generator(NetworkConfig(16, width=8, latent_dim=8, attention_resolutions=(8,))).eval()
    block, x = attention_blocks(generator)[8], torch.zeros(1, 8, 8, 8)
    x[0, 0, 1, 6] = x[0, 1, 5, 2] = 1
    with torch.no_grad():
        block.query.zero_()[0, 0] = block.key.zero_()[0, 1] = 4.0
    generator.get_submodule("blocks.0.conv").register_forward_hook(lambda *_: x.clone())
    z, y = latents(0, 0, 1, seed=0, dim=generator.config.inputs), torch.zeros(1, dtype=torch.int64)
    images, maps = attention_maps(generator, z, y, [(1.5 / 8, 6.5 / 8), (0.0, 0.99)])
    assert np.array_equal(images, render(generator, z, y))
    assert maps.keys() == {8}
    assert maps[8].shape == (1, 2, 4, 4)
    assert maps[8][0, 0, 2, 1] > 0.99
    assert np.allclose(maps[8][0, 1], 1 / 16)


def test_attention_maps_leave_nothing_behind(generator: Generator) -> None:
    z = latents(0, 0, 3, seed=0, dim=generator.config.inputs)
    attention_maps(generator, z, torch.ones(3, dtype=torch.int64), [(0.5, 0.5)])
    assert not any(module._forward_pre_hooks for module in generator.modules())
    plain = Generator(NetworkConfig(8, width=8)).eval()
    assert attention_maps(plain, torch.ones(1, plain.config.inputs), torch.zeros(1), [])[1] == {}


@pytest.mark.parametrize("shares", [{"a": 1}, {"a": 60, "a|b": 40}, {"a": 5, "a|b": 2, "a|c": 1}])
@pytest.mark.parametrize("count", [1, 40, 333])
def test_sets_come_as_often_as_they_should_in_any_number_of_images(shares: dict[str, int], count: int) -> None:
    found = sets_of(shares, count)
    assert found == sets_of(shares, 1000)[:count]
    for names, n in shares.items():
        assert abs(found.count(names) - count * n / sum(shares.values())) < 3


def test_hot_marks_the_findings_and_refuses_others() -> None:
    assert hot(["b", "a|c"], ["a", "b", "c"]).tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(ValueError, match="d"):
        hot(["d"], ["a", "b"])


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_image_k_of_a_set_does_not_depend_on_count_either(generator: Generator, count: int) -> None:
    sets = hot(sets_of({"a": 2, "a|b": 1}, 50), ["a", "b"])
    many = sample(generator, 0, 50, seed=1, sets=sets)
    assert np.array_equal(sample(generator, 0, count, seed=1, sets=sets[:count]), many[:count])
    alone = sample(generator, 0, 50, seed=1)
    one = (sets.sum(1) == 1).numpy()
    assert np.array_equal(many[one], alone[one])  # the same latents
    assert not np.array_equal(many[~one], alone[~one])
