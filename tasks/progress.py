"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], total: int, what: str, unit: str = "", note: Callable[[], str] = str) -> Iterator[T]:
    """Yield `items` while showing how many of `total` are done, the rate in `unit`, the time left and `note()`."""
    if sys.stderr.isatty():
        with tqdm(items, total=total, desc=what, unit=unit) as bar:
            for item in bar:
                yield item
                bar.set_postfix_str(note(), refresh=False)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - shown >= SECONDS_BETWEEN_LINES:
            rate = done / max(now - start, 1e-9)
            more = f", {note()}" if note() else ""
            print(f"{what}: {done}/{total}, {rate:.1f}{unit}/s, {(total - done) / rate:.0f} s left{more}", flush=True)
            shown = now
