"""A registry entry: a generator as an MLflow model, and all that is needed to judge it and to make it again."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

from tasks import image_set, params, paths
from tasks.errors import UserError
from tasks.files import read_report, write_json
from tasks.imbalance import to_draw
from tasks.params import GENERATOR_OF
from tasks.registry import CHALLENGER, versions
from tasks.registry.data_summary import summarise
from tasks.report.gates import Gate, gates
from tasks.synthesize.generator import learnt_from, read_generator, weights_digest
from tasks.tracking import provenance, runs
from tasks.tracking.store import EXPERIMENT, experiment_id

PACKAGES = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "torch")  # what the served model imports
CODE = ("model", "tasks")  # what decides about the weights; params.yaml and dvc.yaml are in the entry
RECORDED = (paths.DVC_LOCK, paths.DVC_YAML, params.PARAMS_FILE, paths.RAW_DVC, paths.VERDICT)
OUTSIDE = "(outside the project)"
NOT_MEASURED = "not measured"
LONGEST = 5000  # description that the store takes
PICTURE = re.compile(r"!\[([^\]]*)\]\((?!\w+:)([^)]+)\)")  # by a file beside the card
ANY = AnyType()  # of whole numbers: as integers MLflow would take 2.9 for 2, and refuse rows of which one has none
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(ANY, "count", required=False),
            ColSpec(ANY, "seed", required=False),
            ColSpec(DataType.double, "truncation", required=False),
        ]
    ),
    outputs=Schema(
        [ColSpec(DataType.string, "label"), ColSpec(DataType.long, "number"), ColSpec(DataType.string, "png")]
    ),
)


def register(name: str) -> int:
    """Make models/NAME a new version with the alias `challenger`; returns its number.

    `name` may be "best": the generator of the arm that the verdict is about. Where the challenger is of the same
    weights, data and verdict, an earlier attempt has registered it, and nothing is done. Raises UserError where the
    pipeline's outputs do not belong together: an entry that mixes two runs could not be made again.
    """
    name = best() if name == "best" else name
    folder = paths.MODELS / name
    weights = weights_digest(folder)
    if not learnt_from(folder, paths.CURATED):
        raise UserError(f"{folder} did not learn from what {paths.CURATED} holds now; run `dvc repro` first")
    drawn = read_report(paths.SYNTHETIC / name / "dataset.json")
    if drawn.get("model") != weights:
        raise UserError(f"{paths.SYNTHETIC / name} was not drawn by {folder}; run `dvc repro` first")
    draw = to_draw(paths.IMBALANCE)
    quality = read_report(paths.QUALITY / f"{name}.json")
    recognised = read_report(paths.DOWNSTREAM).get("fidelity", {}).get(name)
    passed = gates(name, drawn.get("screening"), quality, recognised, draw) if draw else {}
    tags = _tags(name, weights, passed)
    there = versions.holder(CHALLENGER)
    if there is not None and {**there.tags, "pipeline_id": tags["pipeline_id"]} == tags:
        return there.number
    with versions.store() as client, tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        _stage(staged, folder, passed)
        training = _training(client, name, weights)
        if training is not None:
            tags["pipeline_id"] = training.data.tags["pipeline_id"]
        model_id = _log(client, name, staged, drawn["truncation"], training)
        _named(client)
        made = client.create_model_version(
            versions.NAME,
            source=f"models:/{model_id}",
            run_id=training.info.run_id if training is not None else None,
            model_id=model_id,
            tags=tags,
            description=description((folder / "card.md").read_text(encoding="utf-8"), passed),
        )
        client.set_registered_model_alias(versions.NAME, CHALLENGER, made.version)
    return int(made.version)


def description(card: str, passed: dict[str, Gate]) -> str:
    """A model card and the gates for the page of a version; files beside the card cannot be shown there, it names them.

    The card is cut where both are longer than the store takes.
    """
    words = rf"*\1: see `\2` among the artifacts of the training run, or `{versions.GENERATOR}/\2` of the model.*"
    lines = "".join(f"- {name} {_said(gate)}\n" for name, gate in passed.items())
    said = f"\n\n## Gates\n\n{lines}"[: LONGEST // 2] if passed else ""
    return PICTURE.sub(words, card)[: LONGEST - len(said)] + said


def _training(client: MlflowClient, name: str, weights: str) -> Run | None:
    """The newest run that made these weights; None where they were not trained with this store."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    wanted = f"tags.stage = 'train@{name}' and tags.weights = '{weights}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
    return found[0] if found else None


def best() -> str:
    """The generator of the arm that the verdict is about. Raises UserError where the verdict is about none."""
    found = read_report(paths.VERDICT)
    if "candidate" not in found:
        said = found.get("sentence", "there is none")
        raise UserError(f"{paths.VERDICT} names no generator ({said.rstrip('.')}); run `dvc repro`, or name one")
    return GENERATOR_OF[found["candidate"]]


def _tags(name: str, weights: str, passed: dict[str, Gate]) -> dict[str, str]:
    revision, _, dirty = provenance.git_revision(CODE).partition(",")
    verdict, data = read_report(paths.VERDICT), image_set.load(paths.CURATED).digest
    archive = Path(params.load().ingest.source).resolve() == paths.RAW.resolve()  # DVC has no digest of another
    of_this = GENERATOR_OF.get(verdict.get("candidate", ""), name) == name
    facts = {
        "model": name,
        "weights": weights,
        "data_digest": data,
        "raw_digest": provenance.raw_digest(paths.RAW_DVC) if archive else "",
        "git_revision": revision,
        "git_dirty": str(bool(dirty)).lower(),
        "dvc_lock": str(provenance.locked(paths.DVC_LOCK, own_stage="").get("digest", "")),
        "pipeline_id": runs.pipeline_id(data),
        "verdict": verdict.get("verdict", NOT_MEASURED) if of_this else NOT_MEASURED,
    }
    return facts | {f"gate_{name}": _said(gate) for name, gate in passed.items()}


def _said(gate: Gate) -> str:
    return f"{'passed' if gate['passed'] else 'not passed'}: {gate['why']}"


def _stage(staged: Path, folder: Path, passed: dict[str, Gate]) -> None:
    """Lay out in `staged` what MLflow is to take, so that it learns of no place of this machine but that."""
    here = Path(__file__).resolve().parent
    shutil.copy(here / "mlflow_model.py", staged / "mlflow_model.py")
    not_code = shutil.ignore_patterns("__pycache__", "*.safetensors")  # the weights of the head start
    shutil.copytree(here.parents[1] / "model", staged / "model", ignore=not_code)
    shutil.copytree(folder, staged / "generator")
    record = staged / "record"
    record.mkdir()
    private = list(_absolute(params.load().model_dump()))
    for file in RECORDED:
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            for path in private:
                text = text.replace(path, OUTSIDE)
            (record / file.name).write_text(text, encoding="utf-8")
    write_json(record / "gates.json", passed)
    write_json(record / "data_summary.json", summarise(image_set.load(paths.CURATED).where(split="train")))


def _absolute(values: Any) -> Iterator[str]:
    """The paths of this machine that params hold: they may say whose films these are."""
    if isinstance(values, dict):
        for value in values.values():
            yield from _absolute(value)
    elif isinstance(values, str) and Path(values).is_absolute():
        yield values


def _log(client: MlflowClient, name: str, staged: Path, truncation: float, training: Run | None) -> str:
    """Log the model, which draws with `truncation` unless it is told otherwise, as made by `training`; returns its id.

    Its example of a request asks for one image of a class.
    """
    experiment = experiment_id(client, runs.store_uri())
    mlflow.set_experiment(experiment_id=experiment)
    made_by = training.info.run_id if training is not None else None
    model_id = str(client.create_logged_model(experiment, name, source_run_id=made_by).model_id)
    label = read_generator(staged / "generator")[1]["classes"][0]
    with _no_bytecode():  # MLflow imports the code where it has put it, to try the example
        mlflow.pyfunc.log_model(
            model_id=model_id,
            python_model=str(staged / "mlflow_model.py"),
            code_paths=[str(staged / "model")],
            artifacts={"generator": str(staged / "generator"), "record": str(staged / "record")},
            signature=SIGNATURE,
            input_example=pd.DataFrame([{"label": label, "count": 1}]),
            model_config={"truncation": truncation},
            pip_requirements=[f"{package}=={installed(package).partition('+')[0]}" for package in PACKAGES],
        )
    if made_by:
        client.log_outputs(made_by, [LoggedModelOutput(model_id, step=0)])
    return model_id


@contextmanager
def _no_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _named(client: MlflowClient) -> None:
    try:
        client.create_registered_model(versions.NAME, description="Generators of synthetic chest radiographs.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
