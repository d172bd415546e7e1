"""Damaged and hostile files are taken or refused, and nothing else. The whole campaign: benchmarks/fuzz_ingest."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from benchmarks.fuzz_ingest.by_hand import KEEPS_MEMORY, hostile
from benchmarks.fuzz_ingest.elements import SECRET
from benchmarks.fuzz_ingest.judging import judge
from benchmarks.fuzz_ingest.mutations import mutant
from tasks.ingest import stage
from tasks.params import Ingest
from tests.tasks.films import ramp, write_film

NAMES = [name for name in hostile() if name not in KEEPS_MEMORY]
MUTANTS, SLICES = 1500, 6
SECONDS_A_FILE = 5.0
SECONDS_A_TEST = 60.0


class TookTooLongError(BaseException):
    """No Exception: decoding may not take it for an error of the file."""


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_A_TEST)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_files_are_refused_with_their_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, reason = hostile()[name]
    verdict = judge(list(hostile()).index(name), "by hand", name, content)
    assert (verdict.trouble, verdict.outcome) == ("", reason)
    assert verdict.seconds < SECONDS_A_FILE
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("slice_", range(SLICES))
def test_mutants_are_taken_or_refused(slice_: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A failure names the mutant: python -m benchmarks.fuzz_ingest --seed 7 --only NUMBER."""
    first = len(hostile())
    verdicts = [judge(number, *mutant(7, number)) for number in range(first + slice_, first + MUTANTS, SLICES)]
    assert not [verdict for verdict in verdicts if verdict.trouble or verdict.seconds > SECONDS_A_FILE]
    assert {"taken", "truncated", "decode_failed", "unreadable"} < {verdict.outcome for verdict in verdicts}
    assert SECRET not in "".join(capfd.readouterr())


def test_mutants_are_reproducible() -> None:
    assert [mutant(7, number) for number in range(300, 340)] == [mutant(7, number) for number in range(300, 340)]
    assert len({mutant(7, number)[2] for number in range(300, 340)}) > 35


def test_the_stage_loses_no_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["path,patient_id,label"]
    for number in [*range(len(hostile()), len(hostile()) + 60), *map(list(hostile()).index, ("huge", "two frames"))]:
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / f"{number}").write_bytes(mutant(7, number)[2])
        rows.append(f"{number},{SECRET}-{number},mutant")
    for number in range(12):
        write_film(
            tmp_path / "raw" / f"film{number}", ramp(32, 1000 + 200 * number), WindowCenter=2000, WindowWidth=4000
        )
        rows.append(f"film{number},{SECRET}-F{number},film")
    Path("labels.csv").write_text("\n".join(rows) + "\n")
    params = Ingest(size=32, max_quarantined=1.0, workers=1)
    counts = stage.run(Path("raw"), Path("labels.csv"), Path("curated"), params)
    assert counts["inputs"] == len(rows) - 1 == counts["curated"] + counts["quarantined"]
    assert counts["quarantined"] == sum(counts["reasons"].values()) > 20
    assert "decoder_crashed" not in counts["reasons"]
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in Path("curated").iterdir())
