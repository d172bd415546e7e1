"""What lets a training be interrupted: checkpoints on disk, and signals that wait for the end of a step."""

import hashlib
import json
import os
import signal
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

KEPT = 2  # the newest and, should that one be damaged, the one before
COST = 1 / 200  # writing takes at most this part of the time, whatever the size

Groups = dict[str, dict[str, Tensor]]
State = tuple[Groups, dict[str, Any]]  # tensors by group and name; the rest, which is JSON


class Stopped(Exception):
    """A signal ended the training between two steps; 128 + `number` is the exit code that a shell expects."""

    def __init__(self, number: int, kimg: float, saved: bool) -> None:
        lost = "" if saved else ", and no checkpoint could be written"
        super().__init__(f"stopped by {signal.Signals(number).name} at {kimg:.2f} kimg{lost}")
        self.number = number


class Checkpoints:
    """The checkpoints of one training: FINGERPRINT-STEP-CHECKSUM.safetensors in `folder`, the last KEPT of them.

    The checksum is the start of the file's SHA-256; what is not a tensor is JSON in its metadata. Nothing is ever
    unpickled. Files with another fingerprint are left alone. One process may write at a time.
    """

    def __init__(self, folder: Path, fingerprint: str, interval: float) -> None:
        self.folder, self.fingerprint, self.interval = folder, fingerprint, interval
        self._last, self._cost = time.perf_counter(), 0.0

    def due(self, tick: bool) -> bool:
        """Whether to write one now: at every tick and every `interval` seconds, but no more often than COST allows."""
        waited = time.perf_counter() - self._last
        return waited >= self._cost / COST and (tick or waited >= self.interval)

    def save(self, step: int, groups: Groups, facts: dict[str, Any]) -> bool:
        """Write one, whole or not at all. A disk that takes none costs a warning, not the training: False."""
        started = time.perf_counter()
        try:
            self._write(step, groups, facts)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"no checkpoint could be written to {self.folder} ({error})", stacklevel=2)
            return False
        finally:
            self._last = time.perf_counter()
            self._cost = self._last - started
        return True

    def load(self) -> State | None:
        """The newest one that is whole, None without one. A damaged one is removed, with a warning."""
        files = self._newest_first()
        for file in files:
            try:
                return _read(file)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                warnings.warn(f"the checkpoint {file} cannot be used: {error}", stacklevel=2)
                file.unlink(missing_ok=True)
        if files:
            warnings.warn(f"no checkpoint in {self.folder} can be used: the training starts anew", stacklevel=2)
        return None

    def _write(self, step: int, groups: Groups, facts: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{group}/{name}": value.detach().cpu().contiguous()
            for group, values in groups.items()
            for name, value in values.items()
        }
        temporary = self.folder / f".{self.fingerprint}.tmp"  # one name: what a killed run left is written over
        try:
            save_file(tensors, temporary, {"facts": json.dumps(facts)})
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(self.folder / f"{self.fingerprint}-{step:012d}-{_checksum(temporary)}.safetensors")
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the new name too, before the old file goes
        finally:
            os.close(descriptor)
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.fingerprint}-*.safetensors"), reverse=True)


def _read(file: Path) -> State:
    if not file.stem.endswith(f"-{_checksum(file)}"):
        raise ValueError("its checksum differs")
    groups: Groups = defaultdict(dict)  # a group without tensors leaves no trace in the file
    with safe_open(file, "pt") as content:
        for key in content.keys():  # noqa: SIM118  it is no mapping
            group, name = key.split("/", 1)
            groups[group][name] = content.get_tensor(key).clone()  # not a view of the file
        return groups, json.loads(content.metadata()["facts"])


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an Adam, e.g. {"0.step": (), "0.exp_avg": (the parameter's shape), ...}."""
    states = optimizer.state_dict()["state"]
    return {f"{k}.{name}": value for k, state in states.items() for name, value in state.items()}


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Set the state from `optimizer_tensors`, in the memory layout of the parameters: fused kernels rely on it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in tensors.items():
        k, name = key.split(".")
        parameter = parameters[int(k)]
        like = value if name == "step" else parameter
        optimizer.state[parameter][name] = torch.empty_like(like, device=parameter.device).copy_(value)


@contextmanager
def stop_requests(enabled: bool) -> Iterator[list[int]]:
    """A list that takes up the numbers of SIGTERM and SIGINT, which then no longer end the process.

    A second SIGINT acts as ever, for the impatient. Signals that are ignored stay so, and the former handlers come
    back at the end. Outside the main thread Python handles no signals: the list stays empty.
    """
    received: list[int] = []
    former: dict[int, Any] = {}

    def take_up(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, former[number])

    if enabled and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                former[number] = signal.signal(number, take_up)
    try:
        yield received
    finally:
        for restored, handler in former.items():
            signal.signal(restored, handler)
