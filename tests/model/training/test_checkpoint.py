"""Checkpoints: whole or not there, bounded, never unpickled; signals that wait."""

import math
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.training import checkpoint
from model.training.checkpoint import Checkpoints, Groups, load_optimizer, optimizer_tensors, stop_requests

GROUPS: Groups = {
    "net": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(0.1, dtype=torch.bfloat16)},
    "sampler": {"deck": torch.empty(0, dtype=torch.int64), "random": torch.Generator().get_state()},
}


def saved(folder: Path, *steps: int, fingerprint: str = "f00d") -> Checkpoints:
    store = Checkpoints(folder, fingerprint, 60.0)
    for step in steps:
        assert store.save(step, GROUPS, {"steps": step})
    return store


def test_tensors_and_facts_come_back_bit_for_bit(tmp_path: Path) -> None:
    facts = {"steps": 7, "third": 1 / 3, "rows": [{"kimg": 0.1, "frechet": math.nan}], "guard": None}
    store = Checkpoints(tmp_path / "new" / "folder", "f00d", 60.0)
    assert store.save(7, {**GROUPS, "best": {}}, facts)
    found = store.load()
    assert found is not None
    groups, read = found
    for group, tensors in GROUPS.items():
        assert groups[group].keys() == tensors.keys()
        for name, value in tensors.items():
            assert groups[group][name].dtype == value.dtype
            assert torch.equal(groups[group][name], value)
    assert groups["best"] == {}
    assert math.isnan(read["rows"][0].pop("frechet"))
    del facts["rows"][0]["frechet"]  # type: ignore[index]
    assert read == facts


def test_the_last_two_are_kept_and_those_of_others_left_alone(tmp_path: Path) -> None:
    saved(tmp_path, 1, fingerprint="beef")
    store = saved(tmp_path, 8, 9, 10, 11)
    assert [file.name.rsplit("-", 1)[0] for file in sorted(tmp_path.iterdir())] == [
        "beef-000000000001",
        "f00d-000000000010",
        "f00d-000000000011",
    ]
    found = store.load()
    assert found is not None
    assert found[1] == {"steps": 11}
    assert Checkpoints(tmp_path, "cafe", 60.0).load() is None


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path(os.environ["BOMB"]),)  # type: ignore[return-value]


def plant_pickle(file: Path) -> None:
    """With a checksum that fits."""
    file.write_bytes(pickle.dumps(Bomb()))
    file.rename(file.with_name(f"{file.name.rsplit('-', 1)[0]}-{checkpoint._checksum(file)}.safetensors"))


@pytest.mark.parametrize("damage", [cut, flip, empty, plant_pickle])
def test_a_damaged_newest_falls_back_to_the_one_before(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    store = saved(tmp_path, 5, 9)
    damage(max(tmp_path.iterdir()))
    with pytest.warns(UserWarning, match="f00d-000000000009-.* cannot be used"):
        found = store.load()
    assert found is not None
    assert found[1] == {"steps": 5}
    assert not (tmp_path / "exploded").exists()
    # The damaged one, whose step is higher, must not crowd out what is written now.
    saved(tmp_path, 6, 7)
    assert [file.name[:17] for file in sorted(tmp_path.iterdir())] == ["f00d-000000000006", "f00d-000000000007"]


@pytest.mark.filterwarnings("ignore:the checkpoint")
def test_without_a_whole_one_training_starts_anew(tmp_path: Path) -> None:
    store = saved(tmp_path, 5, 9)
    for file in tmp_path.iterdir():
        cut(file)
    with pytest.warns(UserWarning, match="starts anew"):
        assert store.load() is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_a_warning_and_leaves_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 5)
    before = sorted(tmp_path.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="no checkpoint could be written.*No space left"):
        assert not store.save(6, GROUPS, {})
    assert sorted(tmp_path.iterdir()) == before


def test_a_kill_while_writing_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not renamed is not there, and is written over by the next."""
    store = saved(tmp_path, 5)
    (tmp_path / ".f00d.tmp").write_bytes(b"half")
    found = store.load()
    assert found is not None
    assert found[1] == {"steps": 5}
    saved(tmp_path, 6)
    assert not (tmp_path / ".f00d.tmp").exists()


def test_checkpoints_are_due_at_ticks_and_by_time_within_their_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("model.training.checkpoint.time.perf_counter", lambda: now)
    store = Checkpoints(tmp_path, "f00d", 60.0)
    assert store.due(tick=True)
    assert not store.due(tick=False)
    now = 160.0
    assert store.due(tick=False)

    def slow(descriptor: int) -> None:
        nonlocal now
        now += 1.0  # twice in a save: the file and its folder

    monkeypatch.setattr(os, "fsync", slow)
    store.save(1, GROUPS, {})
    now += 399.0  # two seconds are half a percent of 400
    assert not store.due(tick=True)
    assert not store.due(tick=False)
    now += 1.0
    assert store.due(tick=False)


def test_an_optimiser_goes_on_with_its_state_in_the_parameters_layout() -> None:
    def make() -> tuple[torch.nn.Conv2d, torch.optim.Adam]:
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return layer, torch.optim.Adam(layer.parameters(), fused=True)

    def step(layer: torch.nn.Conv2d, optimizer: torch.optim.Adam, seed: int) -> None:
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    layer, optimizer = make()
    step(layer, optimizer, 1)
    other, fresh = make()
    other.load_state_dict(layer.state_dict())
    load_optimizer(fresh, {name: value.contiguous() for name, value in optimizer_tensors(optimizer).items()})
    assert fresh.state[other.weight]["exp_avg"].stride() == other.weight.stride()
    for network, adam in ((layer, optimizer), (other, fresh)):
        step(network, adam, 2)
    assert torch.equal(layer.weight, other.weight)


def test_signals_are_taken_up_and_the_former_handlers_come_back() -> None:
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with stop_requests(True) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM] * 2
    assert {number: signal.getsignal(number) for number in former} == former
    with stop_requests(False):
        assert {number: signal.getsignal(number) for number in former} == former


@pytest.mark.usefixtures("at_a_prompt")
def test_a_second_interrupt_acts_at_once() -> None:
    with stop_requests(True) as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signals_stay_ignored() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests(True) as received:
            os.kill(os.getpid(), signal.SIGINT)
            assert received == []
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)


def test_other_threads_take_up_nothing() -> None:
    seen: list[bool] = []

    def body() -> None:
        with stop_requests(True) as received:
            seen.append(received == [])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [True]
