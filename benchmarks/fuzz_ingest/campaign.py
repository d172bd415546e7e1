"""Many files one after the other: their verdicts, tables of them, and the stage itself on some."""

import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.fuzz_ingest.elements import SECRET
from benchmarks.fuzz_ingest.judging import SIZE, Verdict, died, judge_here
from benchmarks.fuzz_ingest.mutations import mutant
from benchmarks.fuzz_ingest.streams import film
from benchmarks.tables import table
from tasks.ingest import stage, workers
from tasks.params import Ingest
from tests.tasks.films import encode


def run(seed: int, numbers: range, processes: int, seconds_a_file: float, keep: Path | None) -> list[Verdict]:
    """Judge files in workers, which may die of them; print the offenders, and write them to the folder `keep`."""
    start = time.perf_counter()
    work, last_word = partial(judge_here, seed), partial(died, seed, seconds_a_file)
    verdicts = []
    for verdict in workers.each(work, numbers, last_word, "processes", processes, seconds_a_file):
        verdicts.append(verdict)
        if verdict.trouble:
            print(f"{verdict.number} ({verdict.kind}; {verdict.mutations}): {verdict.trouble}", flush=True)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{verdict.number}").write_bytes(mutant(seed, verdict.number)[2])
        if len(verdicts) % 1000 == 0:
            print(f"{len(verdicts)} files, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return verdicts


def print_tables(verdicts: list[Verdict]) -> None:
    """Outcomes by kind, the slowest and the largest, what libraries printed, and the offenders by trouble."""
    outcomes = pd.DataFrame([(verdict.outcome, verdict.kind) for verdict in verdicts], columns=["outcome", "kind"])
    counts = pd.crosstab(outcomes["kind"], outcomes["outcome"], margins=True, margins_name="all")
    print("\n" + table(["seed", *counts.columns], ((kind, *counts.loc[kind]) for kind in counts.index)))
    slowest = sorted(verdicts, key=lambda verdict: -verdict.seconds)[:8]
    times = ((v.number, v.kind, v.mutations, f"{v.seconds:.2f} s", v.outcome) for v in slowest)
    print("\n" + table(["slowest", "seed", "mutations", "time", "outcome"], times))
    largest = sorted(verdicts, key=lambda verdict: -verdict.peak)[:8]
    peaks = ((v.number, v.kind, v.mutations, f"{v.peak / 1e6:,.0f} MB", v.outcome) for v in largest)
    print("\n" + table(["largest", "seed", "mutations", "peak", "outcome"], peaks))
    noise = Counter(line[:80] for verdict in verdicts for line in set(verdict.noise.splitlines()))
    print("\n" + table(["printed", "files"], noise.most_common(8)))
    offenders: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.trouble:
            offenders.setdefault(verdict.trouble, []).append(verdict)
    troubles = ((trouble, len(alike), alike[0].number, alike[0].kind) for trouble, alike in offenders.items())
    print("\n" + table(["trouble", "files", "such as", "seed"], troubles))


def ingest_whole(seed: int, verdicts: list[Verdict]) -> None:
    """The stage itself on the files of `verdicts`, and healthy films, some with several findings: nothing may be lost,
    and none may end it."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            source, rows = Path("raw"), []
            source.mkdir()
            for verdict in verdicts:
                (source / f"{verdict.number}").write_bytes(mutant(seed, verdict.number)[2])
                rows.append((str(verdict.number), f"{SECRET}-M{verdict.number}", "mutant"))
            for number in range(24):
                (source / f"film{number}").write_bytes(encode(film(40, 40, 12, 1000 + number), "explicit"))
                rows.append((f"film{number}", f"{SECRET}-{number}", ("normal", "rare", "rare|odd")[number % 3]))
            pd.DataFrame(rows, columns=["path", "patient_id", "label"]).to_csv("labels.csv", index=False)
            os.environ.setdefault("XRAYSYNTH_PSEUDONYM_KEY", "of the campaign")
            params = Ingest(size=SIZE, max_quarantined=1.0, workers=1)
            counts = stage.run(source, Path("labels.csv"), Path("curated"), params)
            written = b"".join(path.read_bytes() for path in Path("curated").iterdir())
        finally:
            os.chdir(before)
    print(f"\nwhole ingest: {counts}")
    deaths = sum(verdict.outcome == "died" for verdict in verdicts)
    assert counts["inputs"] == len(rows) == counts["curated"] + counts["quarantined"]
    assert sum(counts["reasons"].values()) == counts["quarantined"]
    assert counts["reasons"].get("decoder_crashed", 0) == deaths, f"{deaths} files of the campaign ended a worker"
    assert SECRET.encode() not in written
