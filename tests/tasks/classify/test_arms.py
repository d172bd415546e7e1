"""What each arm is trained on, and that test images stay out of it."""

import numpy as np
import pytest

from tasks import image_set
from tasks.classify.arms import Job, batches, jobs, keep_patients, training_set
from tasks.errors import UserError
from tasks.image_set import ImageSet
from tasks.params import Balance, Classify
from tests.tasks.sets import FINDINGS, write_drawn, write_findings, write_set

PLAN = {"rare": 24}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return image_set.load(write_set(tmp_path_factory.mktemp("sets") / "real"))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    images = image_set.load(write_set(tmp_path_factory.mktemp("sets") / "synthetic", seed=1))
    doubled = np.concatenate([images.images, images.images])
    manifest = images.manifest.loc[list(images.manifest.index) * 2].reset_index(drop=True)
    return ImageSet(doubled, manifest, images.classes, images.digest)


def rows_of(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("arm", ["real", "class_weight", "duplicate", "classic", "msg_gan", "classic+msg_sagan"])
def test_arms_differ_in_what_they_add_and_never_see_held_out_images(
    arm: str, real: ImageSet, synthetic: ImageSet
) -> None:
    chosen = training_set(arm, real, synthetic if "msg" in arm else None, PLAN, seed=0, balance="rare")
    train, held_out = real.where(split="train"), rows_of(real.where(split="val").images)
    held_out |= rows_of(real.where(split="test").images)
    n = len(train.images)
    np.testing.assert_array_equal(chosen.images[:n], train.images)
    assert not rows_of(chosen.images) & held_out
    added = chosen.images[n:]
    if arm in ("real", "class_weight"):
        assert len(added) == 0
        assert (chosen.class_weights is not None) == (arm == "class_weight")
        return
    assert chosen.labels[n:].tolist() == [1] * 24
    assert (chosen.changed == ("classic" in arm)).all()
    rare = rows_of(synthetic.where(label="rare").images if "msg" in arm else train.where(label="rare").images)
    assert rows_of(added) <= rare


def test_class_weights_are_balanced(real: ImageSet) -> None:
    chosen = training_set("class_weight", real, None, PLAN, 0)
    assert chosen.class_weights is not None
    weight = [chosen.class_weights[k] * (chosen.labels == k).sum() for k in range(2)]
    assert weight[0] == pytest.approx(weight[1])


def test_duplicates_use_every_rare_image_about_equally(real: ImageSet) -> None:
    chosen = training_set("duplicate", real, None, PLAN, 0)
    _, uses = np.unique(chosen.images[chosen.labels == 1], axis=0, return_counts=True)
    assert len(uses) == len(real.where(split="train", label="rare").images)
    assert np.ptp(uses) <= 1


def test_too_few_synthetic_images_are_refused(real: ImageSet, synthetic: ImageSet) -> None:
    with pytest.raises(UserError, match="30 synthetic images of 'rare', the plan asks for 500"):
        training_set("msg_gan", real, synthetic, {"rare": 500}, 0)
    with pytest.raises(UserError, match="run synthesize"):
        training_set("msg_gan", real, None, PLAN, 0)


@pytest.mark.parametrize("arm", ["duplicate", "msg_gan"])
def test_the_ratio_is_of_the_plan_and_the_same_for_the_control(arm: str, real: ImageSet, synthetic: ImageSet) -> None:
    half = training_set(arm, real, synthetic if arm == "msg_gan" else None, PLAN, 0, ratio=0.5, balance="rare")
    assert len(half.labels) == len(real.where(split="train").images) + 12


@pytest.mark.parametrize("arm", ["msg_gan", "classic+msg_sagan"])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_balanced_over_all_classes_what_is_synthetic_does_not_tell_the_class(
    arm: str, ratio: float, real: ImageSet, synthetic: ImageSet
) -> None:
    """The rare class is filled with repeated films as in the control; of each class the same share is synthetic."""
    chosen = training_set(arm, real, synthetic, PLAN, 0, ratio=ratio, balance="all")
    control = training_set("duplicate", real, None, PLAN, 0)
    n = len(control.labels)
    np.testing.assert_array_equal(chosen.images[:n], control.images)
    drawn, drawn_labels = chosen.images[n:], chosen.labels[n:]
    for k, label in enumerate(real.classes):
        assert rows_of(drawn[drawn_labels == k]) <= rows_of(synthetic.where(label=label).images)
    shares = np.bincount(drawn_labels) / np.bincount(control.labels)
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert drawn_labels.size
    assert np.bincount(drawn_labels).max() <= round(ratio * PLAN["rare"])


def test_two_stages_begin_with_synthetic_images_of_all_classes_and_end_as_classic(
    real: ImageSet, synthetic: ImageSet
) -> None:
    classic = training_set("classic", real, None, PLAN, 0)
    chosen = training_set("two_stage_msg_sagan", real, synthetic, PLAN, 0)
    control = training_set("two_stage_classic", real, None, PLAN, 0)
    for some in (chosen, control):
        np.testing.assert_array_equal(some.images, classic.images)
        assert some.changed.all()
    assert chosen.first is not None
    assert control.first is not None
    np.testing.assert_array_equal(control.first.images, classic.images)
    assert np.bincount(chosen.first.labels).tolist() == [PLAN["rare"]] * 2
    assert chosen.first.changed.all()
    for k, label in enumerate(real.classes):
        of_class = chosen.first.images[chosen.first.labels == k]
        assert rows_of(of_class) <= rows_of(synthetic.where(label=label).images)
    with pytest.raises(UserError, match="run synthesize"):
        training_set("two_stage_msg_gan", real, None, PLAN, 0)


def test_two_stages_need_two_cycles() -> None:
    with pytest.raises(ValueError, match="two_stage_classic has two stages and needs max_cycles of 2 or more"):
        Classify(arms=["classic", "two_stage_classic"], max_cycles=1)


def test_a_share_of_the_rare_patients_is_kept_whole_and_nested(real: ImageSet) -> None:
    train = real.where(split="train")
    several = train.manifest.assign(patient_id=[f"p{k // 3}" for k in range(len(train.manifest))])
    train = ImageSet(train.images, several, train.classes, train.digest)
    kept: dict[float, set[str]] = {}
    for share in (0.2, 0.5, 0.9):
        found = keep_patients(train, ["rare"], share, seed=3).manifest
        assert (found["label"] == "normal").sum() == (several["label"] == "normal").sum()
        kept[share] = set(found.loc[found["label"] == "rare", "image_id"])
        patients = set(found.loc[found["label"] == "rare", "patient_id"])
        of_these = several[several["patient_id"].isin(patients) & (several["label"] == "rare")]
        assert kept[share] == set(of_these["image_id"])  # all rare films of a patient, or none
    assert kept[0.2] < kept[0.5] < kept[0.9]
    assert kept[0.2]


def test_duplicates_of_a_share_are_of_the_kept_patients_alone(real: ImageSet) -> None:
    chosen = training_set("duplicate", real, None, PLAN, 0, fraction=0.3)
    assert len(rows_of(chosen.images[chosen.labels == 1])) == round(
        0.3 * len(real.where(split="train", label="rare").images)
    )
    assert len(chosen.labels) - len(rows_of(chosen.images[chosen.labels == 0])) >= 24


def test_only_synthetic_images_of_the_rare_class(real: ImageSet, synthetic: ImageSet) -> None:
    chosen = training_set("msg_gan", real, synthetic, PLAN, 0, only=True)
    assert rows_of(chosen.images[chosen.labels == 1]) <= rows_of(synthetic.where(label="rare").images)
    assert rows_of(chosen.images[chosen.labels == 0]) == rows_of(real.where(split="train", label="normal").images)


def test_jobs_are_what_the_params_ask_for_and_none_twice() -> None:
    plain = Classify(arms=["real", "duplicate", "msg_gan"], seeds=[0, 7])
    assert jobs(plain) == [Job(arm, seed) for arm in ("real", "duplicate", "msg_gan") for seed in (0, 7)]
    more = plain.model_copy(update={"ratios": [0.5], "real_fractions": [0.25], "tstr": True})
    found = jobs(more)
    assert found[:6] == jobs(plain)
    assert len(found) == len(set(found)) == 6 + 2 * 2 + 3 * 2 + 2
    assert not any(job.main for job in found[6:])


def test_batches_cover_an_epoch_and_classic_changes_every_draw(real: ImageSet) -> None:
    for arm in ("duplicate", "classic"):
        chosen = training_set(arm, real, None, PLAN, 0)
        stream = batches(chosen, len(chosen.labels), seed=0)
        first, second = (rows_of(next(stream)[0]) for _ in range(2))
        if arm == "duplicate":
            assert first == second == rows_of(chosen.images)
        else:
            assert not first & rows_of(chosen.images)
            assert not first & second


def test_batches_do_not_alter_the_training_set(real: ImageSet) -> None:
    chosen = training_set("classic", real, None, PLAN, 0)
    before = chosen.images.copy()
    next(batches(chosen, 50, seed=0))
    np.testing.assert_array_equal(chosen.images, before)


RARE_SIDES = {"left": 30, "right": 50}


@pytest.fixture(scope="module")
def two_sided(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return image_set.load(write_findings(tmp_path_factory.mktemp("findings") / "real", unknown="right"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    counts = dict.fromkeys(FINDINGS, 50)
    return image_set.load(write_drawn(tmp_path_factory.mktemp("findings") / "synthetic", counts))


@pytest.mark.parametrize("arm", ["real", "class_weight", "duplicate", "classic", "msg_gan", "two_stage_msg_gan"])
@pytest.mark.parametrize("balance", ["rare", "all"])
def test_films_with_several_findings_keep_all_of_them_in_every_arm(
    arm: str, balance: Balance, two_sided: ImageSet, drawn: ImageSet
) -> None:
    chosen = training_set(arm, two_sided, drawn if "msg" in arm else None, RARE_SIDES, 0, balance=balance)
    said: dict[bytes, list[int]] = {}
    for films in (two_sided, drawn):
        said |= {image.tobytes(): row.tolist() for image, row in zip(films.images, films.labels, strict=True)}
    for part in (chosen, chosen.first):
        if part is not None:
            assert part.labels.shape == (len(part.images), 3)
            assert [said[image.tobytes()] for image in part.images] == part.labels.tolist()
    train = two_sided.where(split="train")
    if arm in ("real", "class_weight"):
        assert len(chosen.labels) == len(train.labels)
    elif arm == "msg_gan" and balance == "rare":
        assert (chosen.labels[len(train.labels) :].sum(0) >= (30, 0, 50)).all()
        assert len(chosen.labels) == len(train.labels) + 80
    if arm == "class_weight":
        there, absent = ((train.labels == value).sum(0) for value in (1, 0))
        assert chosen.class_weights is not None
        np.testing.assert_allclose(chosen.class_weights * there, absent)


def test_only_a_share_of_the_patients_with_each_finding_is_kept_and_at_least_one(two_sided: ImageSet) -> None:
    train = two_sided.where(split="train")
    for fraction in (0.01, 0.5):
        kept = keep_patients(train, ["left", "right"], fraction, 0)
        for label in ("left", "right"):
            n = len(train.where(label=label).images)
            assert 1 <= len(kept.where(label=label).images) <= max(2, fraction * n)
        assert len(kept.where(label="normal").images) == len(train.where(label="normal").images)


def test_synthetic_in_place_of_real_films_is_refused_for_several_findings(two_sided: ImageSet, drawn: ImageSet) -> None:
    with pytest.raises(UserError, match="tstr takes synthetic images in place of all films of the rare classes"):
        training_set("msg_gan", two_sided, drawn, RARE_SIDES, 0, only=True)
