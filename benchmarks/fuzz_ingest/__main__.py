"""Damaged and hostile files against the decoder: every one must be taken or refused, in bounded time and memory.

python -m benchmarks.fuzz_ingest                    the campaign, then a whole ingest of some of its files
python -m benchmarks.fuzz_ingest --only NUMBER      one file of it, with what becomes of it
python -m benchmarks.fuzz_ingest --help

File NUMBER of a seed is always the same: first come the hostile ones, made by hand, then mutants of small films in
every encoding, of pictures, and of the hostile ones. Linux only (it reads peaks of memory from /proc).
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.fuzz_ingest import campaign
from benchmarks.fuzz_ingest.judging import judge
from benchmarks.fuzz_ingest.mutations import mutant

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def main(
    count: Annotated[int, typer.Option(min=0, help="Files, those made by hand included.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    first: Annotated[int, typer.Option(min=0, help="Where to start.")] = 0,
    seconds_a_file: Annotated[float, typer.Option(min=0.1)] = 10.0,
    keep: Annotated[Path | None, typer.Option(help="Where offenders are written to, by number.")] = None,
    only: Annotated[int | None, typer.Option(help="This file alone, in this process.")] = None,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    archive: Annotated[int, typer.Option(min=0, help="Files of the whole ingest at the end; 0 for none.")] = 400,
) -> None:
    """Exit code 1 when there are offenders."""
    if only is not None:
        print(judge(only, *mutant(seed, only)))
        return
    start = time.perf_counter()
    verdicts = campaign.run(seed, range(first, first + count), processes, seconds_a_file, keep)
    campaign.print_tables(verdicts)
    offenders = sum(bool(verdict.trouble) for verdict in verdicts)
    print(f"\n{len(verdicts):,} files, {offenders} offenders, {time.perf_counter() - start:.0f} s")
    if archive:
        campaign.ingest_whole(seed, [verdict for verdict in verdicts if verdict.number < archive])
    raise typer.Exit(bool(offenders))


if __name__ == "__main__":
    app()
