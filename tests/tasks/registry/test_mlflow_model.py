"""An entry is a model that MLflow loads and serves where this project is not installed."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from model.gan.networks import Generator, NetworkConfig
from model.gan.sampling import hot, sample, sets_of
from model.gan.storage import save_generator
from tasks import paths
from tasks.errors import UserError
from tasks.params import MAX_TRUNCATION
from tasks.registry import register, versions
from tasks.registry.mlflow_model import Served
from tasks.synthesize.generator import read_generator
from tests.services import free_port, mlflow_server, program, serving
from tests.tasks import projects

TRUNCATION = 1.3  # of the images by which the entry was judged
REQUESTS: list[dict[str, Any]] = [
    {"label": "rare", "count": 3, "seed": 5, "truncation": 0.7},
    {"label": "normal", "count": 1, "seed": 0},
    {"label": "normal", "count": 1, "seed": 0, "truncation": MAX_TRUNCATION},
]

# The editable install is taken away, and that is checked; `model` must then be the one in the entry.
ELSEWHERE = """
import json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [path for path in sys.path if "site-packages" in path or "python3" in path]
for name in ("tasks", "flows", "model"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
import mlflow
loaded = mlflow.pyfunc.load_model("models:/xraysynth@champion")
import model, pandas
requests = json.loads(sys.argv[1])
answers = [loaded.predict(pandas.DataFrame([request])).to_dict("records") for request in requests]
print(json.dumps({"model": model.__file__, "answers": answers}))
"""


@pytest.fixture(scope="module")
def project(mlflow_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose registry is behind an MLflow server, which also keeps the files; one champion."""
    base = tmp_path_factory.mktemp("served")
    folder, behind = base / "project", base / "server"
    folder.mkdir()
    behind.mkdir()
    shutil.copy(mlflow_store, behind / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # MLflow looks for uvicorn there
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        port = free_port()
        with mlflow_server(port, behind):
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            projects.write_data()
            projects.write_versioned()
            projects.write_generator("msg_gan", seed=1, truncation=TRUNCATION)
            register.register("msg_gan")
            versions.promote()
            yield folder


def expected(request: dict[str, Any]) -> np.ndarray:
    generator, config = read_generator(paths.MODELS / "msg_gan")
    number = config["classes"].index(request["label"])
    return sample(generator, number, request["count"], request["seed"], request.get("truncation", TRUNCATION))


def images(answer: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(row["png"])))) for row in answer])


def ask(address: str, requests: list[dict[str, Any]]) -> Any:
    body = json.dumps({"dataframe_records": requests}).encode()
    call = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as answer:
        return json.load(answer)["predictions"]


def test_the_files_are_kept_by_the_server(project: Path) -> None:
    assert list((project.parent / "server").rglob("generator.safetensors"))
    assert not (project / "mlruns").exists()
    assert not (project / "mlflow.db").exists()


def test_it_loads_in_a_process_that_does_not_know_this_project(project: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(REQUESTS)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert Path(said["model"]).parent.parent.name == "code"
    for request, answer in zip(REQUESTS, said["answers"], strict=True):
        np.testing.assert_array_equal(images(answer), expected(request))


def test_a_request_for_images_is_answered_with_pngs(project: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    command = [program("mlflow"), "models", "serve", "--model-uri", "models:/xraysynth@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    log = project.parent / "serve.log"
    with serving(command, f"{address}/health", log, {"PYTHONPATH": ""}, project):
        for request in REQUESTS:
            answer = ask(address, [request])
            assert [(row["label"], row["number"]) for row in answer] == [
                (request["label"], number) for number in range(request["count"])
            ]
            np.testing.assert_array_equal(images(answer), expected(request))
        assert len(ask(address, [{"label": "rare"}])) == 1
        example = mlflow.pyfunc.load_model("models:/xraysynth@champion").input_example
        assert example.to_dict("records") == [{"label": "normal", "count": 1}]
        assert len(ask(address, example.to_dict("records"))) == 1
        assert [row["label"] for row in ask(address, [{"label": "rare", "count": 1}, {"label": "normal"}])] == [
            "rare",
            "normal",
        ]
        refusals: list[tuple[list[dict[str, Any]], str]] = [
            ([{"label": "../../etc"}], "it has normal, rare"),
            ([{"label": "rare", "count": 1_000_000}], "count must be from 1 to 1000"),
            ([{"label": "rare", "truncation": 0.0}], "truncation above 0"),
            ([{"label": "rare", "truncation": MAX_TRUNCATION * 1.01}], f"at most {MAX_TRUNCATION:g}"),
            ([{"label": "rare", "seed": -1}], "seed 0 or more"),
            ([{"label": "rare", "count": 2.9}], "whole numbers"),
            ([{"label": "rare", "count": "two"}], "whole numbers"),
            ([{"count": 1}], "label"),
            ([{"label": "rare", "count": 600}] * 2, "at most 1000 in all rows"),
            ([{"label": "rare", "count": 2.9}, {"label": "rare"}], "whole numbers"),
        ]
        for wrong, words in refusals:
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(address, wrong)
            assert refused.value.code == 400
            assert words in refused.value.read().decode()


def test_a_version_whose_files_are_lost_is_not_promoted(project: Path) -> None:
    (weights,) = (project.parent / "server").rglob("generator.safetensors")
    kept = weights.with_suffix(".kept")
    shutil.move(weights, kept)
    try:
        with pytest.raises(UserError, match="the weights of version 1 are not those that were registered"):
            versions.promote(1)
    finally:
        shutil.move(kept, weights)


def test_images_of_a_finding_are_served_with_what_its_films_have(tmp_path: Path) -> None:
    generator = Generator(NetworkConfig(16, width=8, latent_dim=8, classes=3))
    assert generator.embed is not None
    torch.nn.init.normal_(generator.embed.weight)
    sets = {"left": {"left": 1, "left|right": 1}}
    save_generator(tmp_path, generator, ["left", "normal", "right"], {"sets": sets})
    served, context = Served(), PythonModelContext({"generator": str(tmp_path)}, None)
    served.load_context(context)
    found = served.predict(context, pd.DataFrame([{"label": "left", "count": 6}]))
    images = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in found["png"]])
    asked = hot(sets_of(sets["left"], 6), ["left", "normal", "right"])
    assert set(asked.sum(1).tolist()) == {1, 2}
    np.testing.assert_array_equal(images, sample(generator.eval(), 0, 6, 0, sets=asked))
    assert not np.array_equal(images, sample(generator, 0, 6, 0))
