"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` while showing how many of `total` are done, the rate and the time left."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit="")
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - shown >= SECONDS_BETWEEN_LINES:
            rate = done / max(now - start, 1e-9)
            print(f"{what}: {done}/{total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left", flush=True)
            shown = now
