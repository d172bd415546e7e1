"""Stage `classify`: train the downstream classifier with and without synthetic images, and compare on real patients.

All arms share the optimiser steps, the seeds (so the first weights), the validation and the test images. They
differ in what they are trained on (`arms`). An interrupted stage is resumed: what a training predicts is kept until
all of them have ended, and the result is the same to the byte.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from model.classifier import Classifier, ClassifierConfig, predict, train_classifier
from tasks import image_set
from tasks.classify.arms import Job, TrainingSet, batches, first_images, jobs, training_set
from tasks.classify.comparison import columns, compare
from tasks.classify.confounds import confounds, leaked
from tasks.classify.fidelity import ARM, fidelity
from tasks.classify.sweeps import sweeps, tstr
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.image_set import ImageSet
from tasks.params import GENERATOR_OF, Classify
from tasks.progress import track
from tasks.tracking import runs

INTERRUPTED = Path(".xraysynth/classify")
ROOT = Path(__file__).resolve().parents[2]
CODE = (  # that decides what a training predicts
    *("model/classifier.py", "tasks/image_set.py"),
    *("tasks/classify/arms.py", "tasks/classify/stage.py"),
)
LIBRARIES = ("torch", "albumentations", "monai")  # the last only where it is installed


@dataclass(frozen=True)
class Data:
    """What the trainings share: real images, synthetic ones by generator, and how many of each class to add."""

    real: ImageSet
    synthetic: Mapping[str, ImageSet]
    plan: Mapping[str, int]

    def of(self, job: Job) -> TrainingSet:
        """What the job is trained on."""
        synthetic = self.synthetic.get(GENERATOR_OF.get(job.arm, ""))
        return training_set(job.arm, self.real, synthetic, self.plan, *astuple(job)[1:])


def run(
    curated_folder: Path,
    synthetic_folders: Mapping[str, Path],
    imbalance_report: Path,
    out: Path,
    predictions_file: Path,
    params: Classify,
) -> dict[str, Any]:
    """Train every arm with every seed; write the predictions and the comparison `out`, return the latter.

    Raises UserError for missing images, real ones of a split too, and for a network that cannot be made.
    """
    code = made_by()  # before the hours in which somebody may edit it
    real = image_set.load(curated_folder)
    if missing := [split for split in ("val", "test") if not len(real.where(split=split).images)]:
        raise UserError(
            f"{curated_folder} has no films in the split {' and '.join(missing)}, so classifiers cannot be compared; "
            "ingest films of more patients"
        )
    imbalance = json.loads(imbalance_report.read_text(encoding="utf-8"))
    needed = {GENERATOR_OF[arm] for arm in params.arms if arm in GENERATOR_OF}
    data = Data(real, {name: image_set.load(synthetic_folders[name]) for name in sorted(needed)}, imbalance["plan"])
    rare, wanted = list(imbalance["plan"]) or imbalance["rare"], jobs(params)  # a class without a plan gains nothing
    with runs.tracked("classify", params.model_dump(), real.digest) as tracked:
        parts = [_predictions(job, data, params, code) for job in track(wanted, len(wanted), "classify")]
        predictions = pd.concat(parts, ignore_index=True)
        main = predictions[(predictions["ratio"] == 1) & (predictions["fraction"] == 1) & ~predictions["only"]]
        result = compare(main, real.classes, rare, params)
        result["sweeps"] = sweeps(predictions, real.classes, rare, params)
        result["tstr"] = tstr(predictions, real.classes, rare, params)
        result["fidelity"] = fidelity(main, real.classes, params.confidence)
        result["leaked"] = leaked(real)
        result["confounds"] = confounds(main, real.manifest, real.classes, params.arms)
        with written_whole(predictions_file) as temporary:
            predictions.to_csv(temporary, index=False, float_format="%.6f")
        write_json(out, result)
        for measure, by_arm in by_measure(result["arms"]).items():  # one by one: MLflow takes 1,000 at once
            tracked.metrics({measure: by_arm})
        tracked.metrics({"fidelity": result["fidelity"]})
        tracked.artifact(out.name, out.read_bytes())
    shutil.rmtree(INTERRUPTED, ignore_errors=True)
    return result


def by_measure(arms: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, float | None]]:
    """From {arm: {measure: {mean, low, high}}}: {measure: {arm: the mean, arm.low: ..., arm.high: ...}}."""
    result: dict[str, dict[str, float | None]] = {}
    for arm, measures in arms.items():
        for name, found in measures.items():
            ends = {f"{arm}.{end}": found[end] for end in ("low", "high")}
            result.setdefault(name, {}).update({arm: found["mean"]} | ends)
    return result


def _predictions(job: Job, data: Data, params: Classify, code: str) -> pd.DataFrame:
    """What the job's network says of all held-out images, from an interrupted run if that has come so far."""
    images, table = held_out_images(job, data, params)
    file = INTERRUPTED / f"{_fingerprint(job, data, params, code)}.npy"
    if file.exists():
        probabilities = np.load(file)
        print(f"classify: {job.arm} with seed {job.seed} was trained before the interruption", flush=True)
    else:
        probabilities = train_and_predict(data.of(job), data.real, images, params, job.seed)
        with written_whole(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, probabilities)
    said = pd.DataFrame(probabilities, columns=columns(data.real.classes))
    said = said.assign(arm=job.arm, seed=job.seed, ratio=job.ratio, fraction=job.fraction, only=job.only)
    return table.join(said)


def held_out_images(job: Job, data: Data, params: Classify) -> tuple[np.ndarray, pd.DataFrame]:
    """Images (N, H, W) that a job is tested on, and their rows: image_id, patient_id, split, label.

    Validation and test of the real set; as a split with the name of each generator, for the arm of `fidelity` all of
    its images, and with `params.tstr` for the arm `real` as many as there are real test images of the class.
    """
    drawn, counts = _drawn(job, data, params), None
    if job.arm != ARM:
        tests = data.real.where(split="test")
        counts = {label: len(tests.where(label=label).images) for label, n in data.plan.items() if n}
    return _images_and_rows(data.real, drawn, counts)


def _drawn(job: Job, data: Data, params: Classify) -> Mapping[str, ImageSet]:
    """The synthetic images, by generator, that the job is tested on."""
    return data.synthetic if job.main and (job.arm == ARM or (params.tstr and job.arm == "real")) else {}


def _images_and_rows(
    real: ImageSet, synthetic: Mapping[str, ImageSet], counts: Mapping[str, int] | None = None
) -> tuple[np.ndarray, pd.DataFrame]:
    """Validation and test of `real`, and of each other set the first images of every class by `counts`, or all."""
    held_out = real.keep((real.manifest["split"] != "train").to_numpy())
    images, rows = [held_out.images], [held_out.manifest[["image_id", "patient_id", "split", "label"]]]
    for name, drawn in synthetic.items():
        for label, count in (Counter(drawn.manifest["label"]) if counts is None else counts).items():
            images.append(first_images(drawn, label, count, name))
            ids = [f"{name}-{label}-{k}" for k in range(count)]
            rows.append(pd.DataFrame({"image_id": ids, "patient_id": ids, "split": name, "label": label}))
    return np.concatenate(images), pd.concat(rows, ignore_index=True)


def predictions_of(
    chosen: TrainingSet, real: ImageSet, params: Classify, seed: int, synthetic: Mapping[str, ImageSet] | None = None
) -> pd.DataFrame:
    """What a network trained on `chosen` says of validation and test of `real`, one row per image, as for `measure`.

    And of all images of `synthetic`, each set a split of its name, as for `fidelity`. Columns: image_id, patient_id,
    split, label, p_CLASS of each class, seed.
    """
    images, table = _images_and_rows(real, synthetic or {})
    said = train_and_predict(chosen, real, images, params, seed)
    return table.join(pd.DataFrame(said, columns=columns(real.classes))).assign(seed=seed)


def train_and_predict(
    chosen: TrainingSet, real: ImageSet, images: np.ndarray, params: Classify, seed: int
) -> np.ndarray:
    """Calibrated probabilities (N, K) of `images` (N, H, W) by a network trained on `chosen`.

    Its best point and its temperature are chosen on the validation split of `real`.
    """
    config = ClassifierConfig(steps=params.steps, learning_rate=params.learning_rate, seed=seed)
    val = real.where(split="val")
    build = architecture(params.network, real.images.shape[1])
    stream = batches(chosen, params.batch, seed)
    trained = train_classifier(stream, len(real.classes), config, chosen.class_weights, (val.images, val.labels), build)
    return predict(trained, images)


def architecture(name: str, side: int) -> Callable[[int], nn.Module]:
    """What makes a network for a number of classes. Raises UserError where it cannot be had."""
    if name == "small":
        return Classifier
    if side < 32:
        raise UserError(f"classify.network densenet121 halves the side five times; {side} pixels are too few")
    try:
        from monai.networks.nets import DenseNet121
    except ImportError:
        raise UserError(
            "classify.network densenet121 needs MONAI, which is not installed: pip install 'xraysynth[monai]'"
        ) from None
    return lambda classes: DenseNet121(spatial_dims=2, in_channels=1, out_channels=classes)


def made_by() -> str:
    """A hash of CODE and of the versions of LIBRARIES: what others have begun would end otherwise here."""
    versions = {name: version(name) for name in LIBRARIES if find_spec(name)}
    digest = hashlib.sha256(json.dumps(versions).encode())
    for name in CODE:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _fingerprint(job: Job, data: Data, params: Classify, code: str) -> str:
    """Of all that decides what a training predicts; `code` is that of `made_by`."""
    real = data.real.manifest[["image_id", "patient_id", "split", "label"]].to_csv(index=False)
    synthetic = data.synthetic.get(GENERATOR_OF.get(job.arm, ""))
    tested = {name: drawn.digest for name, drawn in _drawn(job, data, params).items()}
    facts = [
        *(code, astuple(job), data.real.digest, real, dict(data.plan), synthetic and synthetic.digest, tested),
        *(params.network, params.steps, params.batch, params.learning_rate),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
