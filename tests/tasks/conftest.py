"""What several tests of the stages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Dask cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'xraysynth[dask]'")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None, host="127.0.0.1"
    ) as found:
        yield found.scheduler_address


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store of MLflow, to be copied: making its tables takes seconds."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    assert MlflowClient(tracking_uri=f"sqlite:///{database}").search_registered_models() == []
    return database
