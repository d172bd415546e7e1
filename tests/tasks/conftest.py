"""What several tests of the stages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.services import dask_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Dask cluster of two worker processes on this machine."""
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'xraysynth[dask]'")
    with dask_cluster() as address:
        yield address


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store of MLflow, to be copied: making its tables takes seconds."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    assert MlflowClient(tracking_uri=f"sqlite:///{database}").search_registered_models() == []
    return database
