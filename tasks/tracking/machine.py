"""What the machine did while a stage ran: CPU, memory, disk, network and GPUs, by MLflow's own monitors.

A thread takes the samples and sends nothing: `runs` does, with the records of the stage. They are numbers alone.
"""

import threading
import time
from collections import deque
from contextlib import suppress

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from tasks.tracking.store import defaults

KINDS: tuple[type[BaseMetricsMonitor], ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)
INTERVAL_S = 10.0
MOST = 10_000  # samples that wait for a record of the stage: more than a day of them; the oldest go
Sample = tuple[str, float, int, int]  # name, value, milliseconds since 1970, number of the sample


class Machine:
    """Samples until `end`, by default every 10 s; none where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false."""

    def __init__(self) -> None:
        self._waiting: deque[list[Sample]] = deque(maxlen=MOST)
        self._count = 0
        self._ended = threading.Event()
        with defaults({MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.name: "true"}):
            wanted = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get()
        self._thread = threading.Thread(target=self._watch, name="machine", daemon=True) if wanted else None
        if self._thread:
            self._thread.start()

    def taken(self) -> list[Sample]:
        """What has been measured since the last call."""
        found = []
        while self._waiting:
            found += self._waiting.popleft()
        return found

    def end(self) -> None:
        """Take a last sample, so that the shortest stage has one."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        monitors = []
        for kind in KINDS:
            with suppress(Exception):  # whatever it raises where this machine has none of the kind
                monitors.append(kind())
        self._sample(monitors)  # from here on the use of the CPU is counted
        self._waiting.clear()
        while not self._ended.wait(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or INTERVAL_S):
            self._sample(monitors)
        self._sample(monitors)

    def _sample(self, monitors: list[BaseMetricsMonitor]) -> None:
        values: dict[str, float] = {}
        for monitor in monitors:
            with suppress(Exception):  # a counter may fail for once: the next sample has it
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        now = int(time.time() * 1000)
        self._waiting.append([(f"system/{name}", float(value), now, self._count) for name, value in values.items()])
        self._count += 1
