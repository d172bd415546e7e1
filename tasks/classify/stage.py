"""Stage `classify`: train the downstream classifier with and without synthetic images, and compare on real patients.

All arms share the rule by which a training ends, the seeds (so the first weights), the validation and the test
images. They differ in what they are trained on (`arms`). An interrupted stage is resumed: what a training predicts is
kept until all of them have ended, and the result is the same to the byte, whatever the number of processes.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tasks import image_set
from tasks.classify.arms import NO_TSTR, Job, TrainingSet, added, first_images, jobs, training_set
from tasks.classify.comparison import columns, compare
from tasks.classify.confounds import confounds, leaked
from tasks.classify.fidelity import ARM, fidelity
from tasks.classify.sweeps import sweeps, tstr
from tasks.classify.training import Outcome, Work, architecture, do, train_and_predict
from tasks.errors import UserError
from tasks.files import write_json, written_whole
from tasks.image_set import DRAWN_FOR, ImageSet, finding_columns
from tasks.params import IMAGES_OF, PHANTOM, TWO_STAGE, Balance, Classify
from tasks.progress import cores, side_by_side, track
from tasks.tracking import runs

INTERRUPTED = Path(".xraysynth/classify")
ROOT = Path(__file__).resolve().parents[2]
CODE = (  # that decides what a training predicts
    *("model/classifier.py", "tasks/image_set.py"),
    *("tasks/classify/arms.py", "tasks/classify/training.py", "tasks/classify/stage.py"),
)
LIBRARIES = ("torch", "albumentations", "monai")  # the last only where it is installed


@dataclass(frozen=True)
class Data:
    """What the trainings share: real images, synthetic ones by generator, how many of each class to add, and where."""

    real: ImageSet
    synthetic: Mapping[str, ImageSet]
    plan: Mapping[str, int]
    balance: Balance = "all"

    def of(self, job: Job) -> TrainingSet:
        """What the job is trained on."""
        synthetic = self.synthetic.get(IMAGES_OF.get(job.arm, ""))
        how = (job.seed, job.ratio, job.fraction, job.only, self.balance)
        return training_set(job.arm, self.real, synthetic, self.plan, *how)


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
    architecture(params.network, real.images.shape[1])
    if params.tstr and real.several:
        raise UserError(NO_TSTR)
    imbalance = json.loads(imbalance_report.read_text(encoding="utf-8"))
    synthetic = {name: image_set.load(synthetic_folders[name]) for name in sorted(added(params))}
    data = Data(real, synthetic, imbalance["plan"], params.balance)
    rare = list(imbalance["plan"]) or imbalance["rare"]  # a class without a plan gains nothing
    with runs.tracked("classify", params.model_dump(), real.digest, real.counts()) as tracked:
        outcomes = _outcomes(data, params, code)
        predictions = pd.concat([_rows(job, found, data, params) for job, found in outcomes.items()], ignore_index=True)
        main = predictions[(predictions["ratio"] == 1) & (predictions["fraction"] == 1) & ~predictions["only"]]
        result = compare(main, real.classes, rare, params)
        result["sweeps"] = sweeps(predictions, real.classes, rare, params)
        result["tstr"] = tstr(predictions, real.classes, rare, params)
        result["fidelity"] = fidelity(main, real.classes, params.confidence)
        result["trainings"] = [_course(job, found, params) for job, found in outcomes.items()]
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


def _outcomes(data: Data, params: Classify, code: str) -> dict[Job, Outcome]:
    """Of every training, from an interrupted run if that has come so far; the others are done side by side."""
    files = {job: INTERRUPTED / f"{_fingerprint(job, data, params, code)}.npz" for job in jobs(params)}
    missing = [job for job, file in files.items() if not file.exists()]
    for job in (job for job in files if job not in missing):
        print(f"classify: {job.arm} with seed {job.seed} was trained before the interruption", flush=True)
    if missing:
        # One process has the GPU, and several would share its memory.
        processes = params.workers or (1 if torch.cuda.is_available() else cores())
        done = side_by_side(do, _works(files, missing, data, params), min(processes, len(missing)))
        try:
            for _ in track(done, len(missing), "classify"):
                pass
        except BrokenProcessPool:
            raise UserError(
                "a process that trained a classifier was ended from outside, for want of memory perhaps; what is "
                "trained is kept, so run it again, with a lower classify.workers if so"
            ) from None
    return {job: Outcome.read(file) for job, file in files.items()}


def _works(files: Mapping[Job, Path], missing: list[Job], data: Data, params: Classify) -> Iterator[Work]:
    validation = data.real.where(split="val")
    for job in missing:
        images, _ = held_out_images(job, data, params)
        yield Work(files[job], data.of(job), validation, images, params, job.seed)


def _rows(job: Job, outcome: Outcome, data: Data, params: Classify) -> pd.DataFrame:
    """What the job's network says of all held-out images."""
    _, table = held_out_images(job, data, params)
    return table.join(pd.DataFrame(outcome.probabilities, columns=columns(data.real.classes))).assign(**asdict(job))


def _course(job: Job, outcome: Outcome, params: Classify) -> dict[str, Any]:
    """How validation went in a training (`Trained`): `losses` at `steps`, those of the first stage among them."""
    steps, losses = outcome.curve.T
    return {
        **asdict(job),
        "main": job.main,
        "first_stage": params.steps if job.arm.startswith(TWO_STAGE) else 0,
        "step": outcome.step,
        "gaining": outcome.gaining,
        "steps": steps.astype(int).tolist(),
        "losses": [round(float(loss), 4) if np.isfinite(loss) else None for loss in losses],
    }


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
    if not job.main or (job.arm != ARM and not (params.tstr and job.arm == "real")):
        return {}
    return {name: drawn for name, drawn in data.synthetic.items() if name != PHANTOM}


def _images_and_rows(
    real: ImageSet, synthetic: Mapping[str, ImageSet], counts: Mapping[str, int] | None = None
) -> tuple[np.ndarray, pd.DataFrame]:
    """Validation and test of `real`, and of each other set the first images of every class by `counts`, or all."""
    held_out = real.keep((real.manifest["split"] != "train").to_numpy())
    findings = finding_columns(real.manifest)
    images, rows = [held_out.images], [held_out.manifest[["image_id", "patient_id", "split", "label", *findings]]]
    for name, drawn in synthetic.items():
        of_class = drawn.manifest[DRAWN_FOR if DRAWN_FOR in drawn.manifest else "label"]
        for label, count in (Counter(of_class) if counts is None else counts).items():
            chosen = first_images(drawn, label, count, name)
            images.append(chosen.images)
            ids = [f"{name}-{label}-{k}" for k in range(count)]
            said = chosen.manifest.reindex(columns=findings)
            rows.append(pd.DataFrame({"image_id": ids, "patient_id": ids, "split": name, "label": label}).join(said))
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


def made_by() -> str:
    """A hash of CODE and of the versions of LIBRARIES: what others have begun would end otherwise here."""
    versions = {name: version(name) for name in LIBRARIES if find_spec(name)}
    digest = hashlib.sha256(json.dumps(versions).encode())
    for name in CODE:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _fingerprint(job: Job, data: Data, params: Classify, code: str) -> str:
    """Of all that decides what a training predicts; `code` is that of `made_by`."""
    named = ["image_id", "patient_id", "split", "label", *finding_columns(data.real.manifest)]
    real = data.real.manifest[named].to_csv(index=False)
    synthetic = data.synthetic.get(IMAGES_OF.get(job.arm, ""))
    tested = {name: drawn.digest for name, drawn in _drawn(job, data, params).items()}
    mixed = data.balance if synthetic else None
    facts = [
        *(code, astuple(job), data.real.digest, real, dict(data.plan), synthetic and synthetic.digest, mixed, tested),
        *(params.network, params.steps, params.patience, params.max_cycles, params.batch, params.learning_rate),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
