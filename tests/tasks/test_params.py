"""params.yaml: what is in the repository loads, what is wrong is named."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from model.gan.layers import GROUP
from model.gan.networks import NetworkConfig
from model.training.config import TrainConfig
from model.training.losses import LOSSES
from tasks import params
from tasks.errors import UserError

ROOT = Path(__file__).parents[2]


def test_the_file_in_the_repository_says_every_key_and_its_default() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert params.Params.model_validate(content).model_dump() == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ingest: {sized: 3}", ["'ingest.sized'", "size, fit"]),
        ("ingset: {}", ["'ingset'", "ingest, imbalance"]),
        ("ingest: {size: 65}", ["'ingest.size'", "power of two", "65"]),
        ("ingest: {size: '64'}", ["'ingest.size'", "integer", "'64'"]),
        ("ingest: {fit: fill}", ["'ingest.fit'", "'pad', 'crop' or 'stretch'"]),
        ("ingest: {split: {train: 0.9}}", ["'ingest.split'", "must be 1"]),
        ("models: {msg_gan: {width: 3}}", ["'models.msg_gan.width'", "attention_resolutions"]),
        ("models: {msg_gan: {attention_resolutions: [256]}}", ["256 is above ingest.size (128)"]),
        ("classify: {arms: [real, magic]}", ["'classify.arms.1'", "msg_sagan", "'magic'"]),
        ("classify: {arms: [real, real]}", ["'classify.arms'", "twice"]),
        ("classify: {seeds: [0, 0]}", ["'classify.seeds'", "twice"]),
        ("classify: {arms: []}", ["'classify.arms'", "at least 1"]),
        ("train: {kimg: .inf}", ["'train.kimg'", "finite"]),
        ("train: {gamma: .nan}", ["'train.gamma'", "finite"]),
        (f"train: {{seed: {10**23}}}", ["'train.seed'", "less than"]),
        ("train: {augment_mirror: true}", ["augment_mirror does nothing", "above 0"]),
        ("train: {loss: wgan_gp}", ["penalty_interval", "4 or below"]),
        ("train: {batch: 6}", ["batch must be 2 or a multiple of 4, not 6"]),
        ("train: 3", ["'train'", "keys with values"]),
        ("ingest: [", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        params.load(path)
    for word in [*words, str(path)]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert params.load(tmp_path / "params.yaml") == params.Params()


def choices(key: str) -> tuple[str, ...]:
    return get_args(params.Train.model_fields[key].annotation)


def test_what_may_be_chosen_is_what_the_networks_and_the_training_know() -> None:
    """Written down twice, since the command line starts without torch."""
    assert params.GROUP == GROUP
    assert choices("loss") == tuple(LOSSES)
    for key in ("phi", "minibatch_stddev"):
        for value in choices(key):
            NetworkConfig(**{key: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=", ".join(choices(key))):
            NetworkConfig(**{key: "?"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=", ".join(choices("precision"))):
        TrainConfig(precision="?")


def test_values_do_not_change_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        params.Params().ingest.size = 128  # type: ignore[misc]
