"""A champion that was registered before `model/` and `tasks/` had wings still loads, serves and is promoted.

The archive is an entry as that code made it, with the tags of its version and four images that its generator drew.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from model.gan.sampling import sample
from tasks.registry import CHAMPION, versions
from tasks.synthesize.generator import read_generator

ARCHIVE = Path(__file__).with_name("entry_before_the_wings.zip")
REQUEST = {"label": "rare", "count": 4, "seed": 5, "truncation": 0.7}
SERVE = """
import base64, io, json, sys
import mlflow, numpy, pandas
from PIL import Image
loaded = mlflow.pyfunc.load_model(sys.argv[1])
import model
answer = loaded.predict(pandas.DataFrame([json.loads(sys.argv[2])]))
images = [numpy.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["png"]]
numpy.save("served.npy", numpy.stack(images))
print(model.__file__)
"""


@pytest.fixture
def entry(mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The entry's files, which are version 1 in the store of a project in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(mlflow_store, "mlflow.db")
    with zipfile.ZipFile(ARCHIVE) as packed:
        packed.extractall(tmp_path)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_registered_model(versions.NAME)
    tags = json.loads((tmp_path / "tags.json").read_text())
    client.create_model_version(versions.NAME, source=(tmp_path / "entry").as_uri(), tags=tags)
    return tmp_path / "entry"


def test_it_is_promoted_and_draws_what_it_drew(entry: Path) -> None:
    assert versions.promote(1) == "version 1 is the champion"
    with versions.generator(CHAMPION) as folder:
        generator, config = read_generator(folder)
        drawn = sample(generator, config["classes"].index("rare"), 4, seed=5, truncation=0.7)
    np.testing.assert_allclose(drawn.astype(int), np.load("images.npy").astype(int), atol=1)  # another CPU may round


def test_it_is_served_by_its_own_code(entry: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", SERVE, str(entry), json.dumps(REQUEST)]
    done = subprocess.run(command, cwd=entry.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]) == entry / "code/model/__init__.py"
    served, drawn = (np.load(entry.parent / f"{name}.npy").astype(int) for name in ("served", "images"))
    np.testing.assert_allclose(served, drawn, atol=1)
