"""The stage as a whole on a small set: what it writes, its sweeps, and that an interruption changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tasks import image_set
from tasks.classify import stage, training
from tasks.classify.arms import Job
from tasks.classify.confounds import leaked
from tasks.errors import UserError
from tasks.params import GENERATOR_OF, Arm, Classify
from tests.tasks.sets import FINDINGS, write_drawn, write_findings, write_set
from tests.test_staleness import modules

ROOT = Path(__file__).resolve().parents[3]
OUTPUTS = ("downstream.json", "predictions.csv")
SWEPT = Classify(
    arms=["real", "duplicate", "classic", "msg_gan", "classic+msg_sagan"],
    balance="rare",
    steps=6,
    max_cycles=1,
    batch=8,
    bootstrap=100,
    workers=1,
    ratios=[0.5],
    real_fractions=[0.5],
    tstr=True,
)


def prepare(folder: Path) -> Path:
    write_set(folder / "data/curated", images=150)
    for seed, name in enumerate(("msg_gan", "msg_sagan"), start=1):
        write_set(folder / "data/synthetic" / name, seed)
    (folder / "reports").mkdir()
    (folder / "reports/imbalance.json").write_text(json.dumps({"plan": {"rare": 12}, "rare": ["rare"]}))
    return folder


def run(params: Classify) -> dict[str, Any]:
    """The stage in the working folder."""
    folders = {name: Path("data/synthetic") / name for name in ("msg_gan", "msg_sagan", "phantom")}
    plan, out, predictions = (Path("reports") / name for name in ("imbalance.json", *OUTPUTS))
    return stage.run(Path("data/curated"), folders, plan, out, predictions, params)


def killed(params: Classify) -> None:
    """The stage, in a process that ends by SIGKILL in the middle of the third training."""
    steps, original = 0, torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > 2.5 * params.steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        run(params)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = prepare(tmp_path_factory.mktemp("classify") / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run(SWEPT)


def test_what_is_written_is_whole_and_free_of_patients(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, result = swept
    text = (folder / "reports/downstream.json").read_text()
    assert json.loads(text) == result
    assert not {f'"{name}"' for name in image_set.load(folder / "data/curated").manifest["patient_id"]} & set(
        text.split()
    )
    assert list(result["arms"]) == list(result["confusion"]) == list(result["curves"]) == SWEPT.arms
    measures = {"macro_f1", "sensitivity_at_90_specificity", "ece", "brier", "precision_rare", "recall_rare"}
    for arm in SWEPT.arms:
        assert measures < set(result["arms"][arm])
        assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in result["confusion"][arm])
        for curve in result["curves"][arm]["rare"].values():
            assert [len(curve[part]) for part in ("x", "mean", "low", "high")] == [101] * 4
    assert not (folder / ".xraysynth/classify").exists()


def test_sweeps_hold_every_value_and_the_main_experiment(swept: tuple[Path, dict[str, Any]]) -> None:
    _, result = swept
    found = result["sweeps"]
    adding = ["duplicate", "classic", "msg_gan", "classic+msg_sagan"]
    assert [(row["arm"], row["ratio"]) for row in found["ratio"]] == [(a, r) for a in adding for r in (0.5, 1.0)]
    assert [(row["arm"], row["fraction"]) for row in found["real_fraction"]] == [
        (a, f) for a in SWEPT.arms for f in (0.5, 1.0)
    ]
    for row in [*found["ratio"][1::2], *found["real_fraction"][1::2]]:
        assert row["rare_auprc"] == result["arms"][row["arm"]]["rare_auprc"]


def test_sweeps_compare_synthetic_images_with_the_controls_at_the_same_value(
    swept: tuple[Path, dict[str, Any]],
) -> None:
    _, result = swept
    rows = {(row["arm"], row["fraction"]): row for row in result["sweeps"]["real_fraction"]}
    assert rows["duplicate", 0.5]["differences"] == {}
    for arm in ("msg_gan", "classic+msg_sagan"):
        for value in (0.5, 1.0):
            found = rows[arm, value]["differences"]
            assert list(found) == ["duplicate", "classic", "real"]
            for control, difference in found.items():
                apart = rows[arm, value]["rare_auprc"]["mean"] - rows[control, value]["rare_auprc"]["mean"]
                assert difference["mean"] == pytest.approx(apart, abs=2e-4)
                assert difference["low"] < difference["mean"] < difference["high"]
    assert all(list(row["differences"]) == ["duplicate", "classic"] for row in result["sweeps"]["ratio"][4:])


def test_cross_puts_real_and_synthetic_in_each_others_place(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, result = swept
    pairs = [(row["trained_on"], row["tested_on"]) for row in result["tstr"]]
    drawn = [("msg_gan", "real"), ("msg_sagan", "real"), ("real", "msg_gan"), ("real", "msg_sagan")]
    assert pairs == [("real", "real"), *drawn]
    assert result["tstr"][0]["auroc"] == result["arms"]["real"]["auroc"]
    predictions = pd.read_csv(folder / "reports/predictions.csv")
    tests = predictions[(predictions["arm"] == "real") & (predictions["seed"] == 0)]["split"].value_counts()
    real = predictions[(predictions["split"] == "test") & (predictions["label"] == "rare")]["image_id"].nunique()
    assert tests["msg_gan"] == real


def test_the_networks_of_classic_alone_say_what_all_synthetic_images_show(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, result = swept
    predictions = pd.read_csv(folder / "reports/predictions.csv")
    shown = predictions[predictions["split"].isin(["msg_gan", "msg_sagan"]) & (predictions["arm"] != "real")]
    assert set(shown["arm"]) == {"classic"}
    assert (shown[["ratio", "fraction"]] == 1).all(axis=None)
    for name in ("msg_gan", "msg_sagan"):
        there = image_set.load(folder / "data/synthetic" / name).manifest["label"].value_counts()
        for seed in SWEPT.seeds:
            of_network = shown[(shown["split"] == name) & (shown["seed"] == seed)]
            assert of_network["label"].value_counts().to_dict() == there.to_dict()
            assert of_network["image_id"].is_unique
        assert list(result["fidelity"][name]) == ["normal", "rare"]
        for label, entry in result["fidelity"][name].items():
            assert sum(entry["confused"].values()) == pytest.approx(1 - entry["value"], abs=2e-4)
            assert entry["floor"] == pytest.approx(result["arms"]["classic"][f"recall_{label}"]["mean"], abs=2e-4)


def test_killed_and_run_again_gives_the_same_bytes(
    swept: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL in the third training: the two before it are not repeated, and nothing differs in the end."""
    whole, broken = prepare(tmp_path / "whole"), prepare(tmp_path / "broken")
    for folder in (whole, broken):
        shutil.copy(swept[0] / "mlflow.db", folder)  # making one takes seconds
    arms: list[Arm] = ["real", "duplicate", "msg_gan"]
    params = Classify(arms=arms, steps=10, max_cycles=1, batch=16, bootstrap=100, workers=1)
    monkeypatch.chdir(whole)
    run(params)
    monkeypatch.chdir(broken)
    code = f"from tests.tasks.classify.test_stage import Classify, killed; killed(Classify(**{params.model_dump()!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    kept = broken / ".xraysynth/classify"
    assert len(list(kept.glob("*.npz"))) == 2
    capsys.readouterr()
    run(params)
    assert capsys.readouterr().out.count("was trained before the interruption") == 2
    for name in OUTPUTS:
        assert (broken / "reports" / name).read_bytes() == (whole / "reports" / name).read_bytes()
    assert not kept.exists()


@pytest.mark.parametrize("split", ["val", "test"])
def test_without_held_out_films_nothing_is_trained(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepare(tmp_path / "project"))
    manifest = pd.read_csv("data/curated/manifest.csv")
    manifest.loc[manifest["split"] == split, "split"] = "train"
    manifest.to_csv("data/curated/manifest.csv", index=False)
    with pytest.raises(UserError, match=f"has no films in the split {split}, so classifiers cannot be compared"):
        run(Classify(arms=["real", "msg_gan"], steps=6, batch=8))


def test_a_rare_class_without_a_plan_is_none_of_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fill_to may be so low that of one of two rare classes no image is made."""
    monkeypatch.chdir(prepare(tmp_path / "project"))
    Path("reports/imbalance.json").write_text(json.dumps({"plan": {"rare": 12}, "rare": ["normal", "rare"]}))
    result = run(
        Classify(arms=["real", "duplicate", "msg_gan"], steps=6, max_cycles=1, batch=8, bootstrap=100, workers=1)
    )
    assert result["rare"] == ["rare"]
    for arm in result["arms"].values():
        assert arm["rare_auprc"] == arm["auprc_rare"]


def test_a_train_film_in_the_test_split_is_counted(tmp_path: Path) -> None:
    films = image_set.load(write_set(tmp_path / "set", images=150))
    assert leaked(films) == {"val": 0, "test": 0}
    splits = films.manifest["split"].to_numpy()
    train, test = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    noise = np.random.default_rng(0).normal(0, 1, (2, 32, 32))
    films.images[test[:2]] = np.clip(films.images[train[:2]] + noise, 0, 255)
    assert leaked(films) == {"val": 0, "test": 2}


def test_kept_predictions_are_of_the_same_data_and_params_only(tmp_path: Path) -> None:
    real = image_set.load(write_set(tmp_path / "real"))
    other = image_set.load(write_set(tmp_path / "other", seed=5))
    job = Job("msg_gan", 0)
    data = stage.Data(real, {"msg_gan": other}, {"rare": 12})
    params = Classify()
    judge, redrawn = Job("classic", 0), stage.Data(real, {"msg_gan": real}, {"rare": 12})
    assert stage._fingerprint(judge, data, params, "a") != stage._fingerprint(judge, redrawn, params, "a")
    moved = real.manifest.assign(split=np.roll(real.manifest["split"].to_numpy(), 5))
    variants = [
        (Job("msg_gan", 1), data, params),
        (Job("msg_gan", 0, ratio=0.5), data, params),
        (job, stage.Data(other, {"msg_gan": other}, {"rare": 12}), params),
        (job, redrawn, params),
        (job, stage.Data(real, {"msg_gan": other}, {"rare": 13}), params),
        (job, stage.Data(real, {"msg_gan": other}, {"rare": 12}, "rare"), params),
        (
            job,
            stage.Data(image_set.ImageSet(real.images, moved, real.classes, real.digest), data.synthetic, data.plan),
            params,
        ),
        *(
            (job, data, params.model_copy(update=change))
            for change in ({"steps": 9}, {"patience": 9}, {"max_cycles": 9}, {"batch": 9}, {"learning_rate": 9.0})
        ),
    ]
    found = {stage._fingerprint(*variant, code="a") for variant in [(job, data, params), *variants]}
    assert len(found) == 1 + len(variants)
    same = params.model_copy(update={"bootstrap": 500, "arms": ["msg_gan"], "seeds": [0, 5], "workers": 3})
    assert stage._fingerprint(job, data, same, "a") == stage._fingerprint(job, data, params, "a")


@pytest.mark.parametrize("change", [*stage.CODE, "torch", "albumentations", "nothing"])
def test_what_other_code_or_another_library_predicted_is_not_taken_up(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictions are planted; how often a network would be trained is counted."""
    monkeypatch.chdir(tmp_path)
    for name in stage.CODE:
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "code" / name)
    monkeypatch.setattr(stage, "ROOT", tmp_path / "code")
    trained: list[int] = []

    def planted(work: training.Work) -> None:
        trained.append(1)
        work.file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(work.file, probabilities=np.full((len(work.images), 2), 0.5), step=1, curve=[[1, 0.5]], gaining=False)

    monkeypatch.setattr(stage, "do", planted)
    data = stage.Data(image_set.load(write_set(tmp_path / "set")), {}, {"rare": 12})
    params = Classify(arms=["real"], seeds=[0, 1], workers=1)

    def predict() -> None:
        stage._outcomes(data, params, stage.made_by())

    predict()
    if change in stage.CODE:
        with (tmp_path / "code" / change).open("a") as file:
            file.write("LEAK = 0.1\n")
    monkeypatch.setattr(stage, "version", lambda name: "99.0" if name == change else installed(name))
    predict()
    assert len(trained) == (2 if change == "nothing" else 4)


def test_the_code_that_counts_is_what_a_training_runs() -> None:
    """What only compares predictions does not: an interrupted comparison needs no training again."""
    of_predictions = modules("tasks/classify/training.py", set())
    assert set(stage.CODE) == of_predictions | {"tasks/classify/stage.py"}


def test_densenet_needs_monai_and_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="16 pixels are too few"):
        training.architecture("densenet121", 16)
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(UserError, match="pip install 'xraysynth\\[monai\\]'"):
        training.architecture("densenet121", 64)


def test_densenet_gives_logits() -> None:
    pytest.importorskip("monai", reason="MONAI is not installed: pip install 'xraysynth[monai]'")
    network = training.architecture("densenet121", 32)(3)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_the_params_of_the_repository_have_every_control_that_help_needs() -> None:
    arms = yaml.safe_load((ROOT / "params.yaml").read_text())["classify"]["arms"]
    assert {"real", "duplicate", "classic"} < set(arms)
    assert {GENERATOR_OF.get(arm) for arm in arms} >= {"msg_gan", "msg_sagan"}


def test_many_processes_say_what_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a two-stage arm is trained on, its first stage told apart in what is kept of validation."""
    arms: list[Arm] = ["classic", "two_stage_classic", "two_stage_msg_gan"]
    for workers in (1, 2):
        monkeypatch.chdir(prepare(tmp_path / f"{workers}"))
        result = run(Classify(arms=arms, steps=10, max_cycles=2, batch=4, bootstrap=100, workers=workers))
    for name in OUTPUTS:
        assert (tmp_path / "1/reports" / name).read_bytes() == (tmp_path / "2/reports" / name).read_bytes()
    courses = {(found["arm"], found["seed"]): found for found in result["trainings"]}
    assert {found["first_stage"] for key, found in courses.items() if key[0].startswith("two_stage")} == {10}
    assert all(found["step"] > 10 for key, found in courses.items() if key[0] != "classic")
    assert courses["classic", 0]["losses"] != courses["two_stage_classic", 0]["losses"]


def test_simulated_films_are_a_control_and_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    arms: list[Arm] = ["duplicate", "classic", "classic+phantom", "classic+msg_gan"]
    params = Classify(arms=arms, steps=10, max_cycles=1, batch=8, bootstrap=100, workers=1)
    with pytest.raises(UserError, match="phantom"):
        run(params)
    write_set(tmp_path / "data/synthetic/phantom", 3)
    result = run(params)
    assert result["comparison"]["candidate"] == "classic+msg_gan"
    assert set(result["comparison"]["differences"]) == {"classic+msg_gan"}
    assert "classic+phantom" in result["comparison"]["differences"]["classic+msg_gan"]
    assert set(result["fidelity"]) == {"msg_gan"}
    first = result["arms"]["classic+phantom"]
    shutil.rmtree(tmp_path / "data/synthetic/phantom")
    write_set(tmp_path / "data/synthetic/phantom", 4)
    assert run(params)["arms"]["classic+phantom"] != first


def test_mlflow_gets_a_group_a_measure() -> None:
    arms = {arm: {m: {"mean": 0.5, "low": 0.25, "high": None} for m in ("auroc", "ece")} for arm in ("real", "a+b")}
    group = {"real": 0.5, "real.low": 0.25, "real.high": None, "a+b": 0.5, "a+b.low": 0.25, "a+b.high": None}
    assert stage.by_measure(arms) == {"auroc": group, "ece": group}


def test_films_with_several_findings_are_compared_by_finding(
    mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sweeps, and what cannot be swept refused before anything is trained."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(mlflow_store, "mlflow.db")
    write_findings(Path("data/curated"), unknown="right")
    for seed, name in enumerate(("msg_gan", "msg_sagan"), start=1):
        write_drawn(Path("data/synthetic") / name, dict.fromkeys(FINDINGS, 40), seed)
    Path("reports").mkdir()
    plan = {"plan": {"left": 25, "right": 40}, "rare": ["left", "right"]}
    Path("reports/imbalance.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"classify\.tstr .* several findings .*set it to false"):
        run(SWEPT)
    assert not Path(".xraysynth").exists()
    arms: list[Arm] = ["duplicate", "classic", "msg_gan"]
    result = run(SWEPT.model_copy(update={"tstr": False, "arms": arms}))
    predictions = pd.read_csv("reports/predictions.csv")
    main = predictions[(predictions["ratio"] == 1) & (predictions["fraction"] == 1)]
    said = main[[f"p_{label}" for label in FINDINGS]]
    assert ((said >= 0) & (said <= 1)).all().all()
    assert (said.sum(axis=1) - 1).abs().max() > 0.01  # each has a sigmoid of its own
    assert set(result["comparison"]["by_class"]) == {"left", "right"}
    assert set(result["curves"]["classic"]) == {"left", "right"}
    test = main[(main["split"] == "test") & (main["arm"] == "classic") & (main["seed"] == 0)]
    assert result["test"]["by_class"] == {label: int((test[f"finding_{label}"] == 1).sum()) for label in FINDINGS}
    assert test["finding_right"].isna().sum() > 0
    assert set(result["fidelity"]["msg_gan"]) == set(FINDINGS)
    drawn = main[(main["split"] == "msg_gan") & (main["seed"] == 0)]
    assert drawn["label"].value_counts().to_dict() == dict.fromkeys(FINDINGS, 40)
    assert (drawn["finding_left"] == 1).sum() == 60  # those drawn for it, and half of those drawn for right
    rows = result["sweeps"]["ratio"] + result["sweeps"]["real_fraction"]
    assert {row["arm"] for row in rows} == set(arms)
    assert result["confounds"]["warnings"] == []
