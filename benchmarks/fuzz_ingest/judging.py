"""What becomes of a file: taken or refused, or trouble: an error, an identifier, much memory, the end of a process."""

import json
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.fuzz_ingest.by_hand import hostile
from benchmarks.fuzz_ingest.elements import SECRET
from benchmarks.fuzz_ingest.mutations import mutant
from tasks.ingest import workers
from tasks.ingest.films import decode
from tasks.ingest.films.film import Reading
from tasks.ingest.pseudonyms import pseudonym
from tasks.params import Fit

SIZE = 32  # pixels of the curated images
PEAK_LIMIT = 1_000_000_000  # bytes resident
KEY = b"of the campaign"


@dataclass(frozen=True)
class Verdict:
    """What became of a file: the reason of its refusal or "taken", and `trouble` where that is not good enough."""

    number: int
    kind: str
    mutations: str
    outcome: str
    seconds: float
    trouble: str = ""
    peak: int = 0  # bytes resident
    noise: str = ""  # what was printed


FITS: tuple[Fit, ...] = ("pad", "pad", "crop", "stretch")


def readings(number: int) -> tuple[Reading, float]:
    """How file `number` is read, and the clip of its CLAHE; those made by hand as it is usual."""
    if number < len(hostile()):
        return Reading(size=SIZE), 0.0
    return (
        Reading(
            size=SIZE,
            fit=FITS[number % len(FITS)],
            window="BONE" if number % 5 == 0 else "",
            lateral="take" if number % 2 else "refuse",
            label_tag="StudyDescription" if number % 7 == 0 else "",
        ),
        2.0 if number % 3 == 0 else 0.0,
    )


def judge(number: int, kind: str, mutations: str, content: bytes) -> Verdict:
    """What `decode.decode_file` makes of a file, and what the stage then does with it.

    A look at its header alone must not refuse what is taken, nor fail.
    """
    reading, clip = readings(number)
    outcome, trouble, written = "error", "", ""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "film").write_bytes(content)
        start = time.perf_counter()
        try:
            decoded = pickle.loads(pickle.dumps(decode.decode_file(Path(folder), reading, clip, "film")))
            seconds = time.perf_counter() - start
            outcome, trouble, written = _looked_at(decoded)
            looked = pickle.loads(pickle.dumps(decode.look_at_file(Path(folder), reading, "film")))
            written += json.dumps(looked.refusal)
            if outcome == "taken" and looked.refusal[0]:
                trouble = f"a look at its header says {looked.refusal[0]}"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the panic of a library in Rust is no Exception
            seconds = time.perf_counter() - start
            last = traceback.extract_tb(error.__traceback__)[-1]
            trouble = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:120]}"
    if SECRET in written:
        trouble = f"an identifier in {written[:120]}"
    return Verdict(number, kind, mutations, outcome, seconds, trouble)


def _looked_at(decoded: decode.Decoded | decode.Quarantined) -> tuple[str, str, str]:
    """Outcome and trouble of what a worker sends back, and all of it that the stage would write."""
    if isinstance(decoded, decode.Quarantined):
        return decoded.reason, "", decoded.sentence
    outcome, trouble = decoded.refusal[0] or "taken", ""
    if decoded.refusal[1].startswith(decode.UNFORESEEN):
        trouble = decoded.refusal[1]
    if outcome == "taken" and (decoded.image is None or decoded.image.shape != (SIZE, SIZE)):
        trouble = "no image of the size that was asked for"
    names = [pseudonym(KEY, f"{kind}_id", value) for kind, value in decoded.ids.items()]
    return outcome, trouble, json.dumps([decoded.refusal, names, decoded.facts])


def judge_here(seed: int, number: int) -> Verdict:
    """`judge` in a worker that may die of it."""
    made = mutant(seed, number)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    with _caught() as said:
        verdict = judge(number, *made)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    verdict = replace(verdict, peak=1024 * int(peak.split()[1]), noise=said())
    if SECRET in verdict.noise:
        return replace(verdict, trouble=f"an identifier was printed: {verdict.noise[:120]}")
    if verdict.peak > PEAK_LIMIT and not verdict.trouble:
        return replace(verdict, trouble=f"{verdict.peak / 1e6:,.0f} MB resident")
    return verdict


@contextmanager
def _caught() -> Iterator[Callable[[], str]]:
    """What is printed in the meantime, also by libraries in C; to be asked for afterwards."""
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        said: list[str] = []
        try:
            yield lambda: said[0]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(kept, 1):
                os.dup2(old, number)
                os.close(old)
            file.seek(0)
            said.append(file.read(10_000).decode(errors="replace"))


def died(seed: int, seconds: float, number: int) -> Verdict:
    """Of what a worker died: it is done again alone, for its exit code."""
    kind, name, _ = mutant(seed, number)
    process = multiprocessing.get_context("spawn").Process(target=_judge_alone, args=(seed, seconds, number))
    process.start()
    process.join()
    code = process.exitcode or 0
    cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    trouble = f"no answer in {seconds:.0f} s" if cause == "SIGALRM" else f"the process ended: {cause}"
    return Verdict(number, kind, name, "died", 0.0, trouble)


def _judge_alone(seed: int, seconds: float, number: int) -> None:
    workers._bound_memory(workers.MEMORY_LIMIT)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    judge_here(seed, number)
