"""A generator as an MLflow model: MLflow executes this file to load one (models from code, so nothing is pickled).

It runs where this project is not installed: beside it lie the package `model` and, as artifact, the generator's folder.
"""

import base64
import io
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from model.gan.sampling import hot, sample, sets_of
from model.gan.storage import load_generator

MOST = 1000  # images of one request
MAX_TRUNCATION = 2.0  # as in tasks.params, which is not in an entry


class Served(PythonModel):
    """Answers each row {label, count, seed, truncation} with `count` rows {label, number, png}.

    All but label may be left out: then it is one image, seed 0, and the truncation with which the entry was judged.
    `png` is base64. Image `number` of a label and seed is the same whatever the count. Where films had several findings
    at once, so have images of one, as `xraysynth synthesize` draws them. Images are not screened for copies of training
    films, which are not here: `xraysynth synthesize` does that.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the generator."""
        self.generator, config = load_generator(context.artifacts["generator"])
        self.classes: list[str] = config["classes"]
        self.sets: dict[str, dict[str, int]] = config["extra"].get("sets", {})  # of several findings at once
        self.defaults = {"count": 1, "seed": 0, "truncation": 1.0} | (context.model_config or {})

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """See the class. Raises MlflowException, which a server answers with status 400, for what cannot be drawn."""
        requests = [self._asked(request) for request in model_input.to_dict("records")]
        if sum(count for _, count, _, _ in requests) > MOST:
            raise MlflowException.invalid_parameter_value(f"count must be at most {MOST} in all rows of a request")
        rows = [image for request in requests for image in self._drawn(*request)]
        return pd.DataFrame(rows, columns=["label", "number", "png"])

    def _asked(self, request: dict[Any, Any]) -> tuple[str, int, int, float]:
        """Label, count, seed and truncation of a row, checked."""
        given = self.defaults | {name: value for name, value in request.items() if not pd.isna(value)}
        label, truncation = given.get("label"), float(given["truncation"])
        if any(not isinstance(given[name], int | float) or given[name] % 1 for name in ("count", "seed")):
            raise MlflowException.invalid_parameter_value("count and seed must be whole numbers")
        count, seed = int(given["count"]), int(given["seed"])
        if label not in self.classes:
            raise MlflowException.invalid_parameter_value(f"no class {label!r}; it has {', '.join(self.classes)}")
        if not 1 <= count <= MOST or seed < 0 or not 0 < truncation <= MAX_TRUNCATION:
            raise MlflowException.invalid_parameter_value(
                f"count must be from 1 to {MOST}, seed 0 or more, truncation above 0 and at most {MAX_TRUNCATION:g}"
            )
        return label, count, seed, truncation

    def _drawn(self, label: str, count: int, seed: int, truncation: float) -> list[dict[str, Any]]:
        sets = hot(sets_of(self.sets[label], count), self.classes) if self.sets else None
        images = sample(self.generator, self.classes.index(label), count, seed, truncation, sets)
        return [{"label": label, "number": number, "png": _png(image)} for number, image in enumerate(images)]


def _png(image: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


mlflow.models.set_model(Served())
