"""Long work: the cores that there are for it, and its progress, a bar on a terminal and lines elsewhere."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0
LINE = re.compile(r"(?P<what>[^:]+): (?P<done>\d+(?:\.\d+)?)/(?P<total>\d+(?:\.\d+)?)(?: \w+)?, ")


class Share(NamedTuple):
    """What a `line` says: how much of what is done, in words and in per cent."""

    words: str
    percent: float


def cores() -> int:
    """Those this process may use: fewer than the machine has under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
            print(line(what, str(done), str(total), f"{rate:.1f}{unit}", (total - done) / rate, note()), flush=True)
            shown = now


def line(what: str, done: str, total: str, rate: str, seconds_left: float, note: str = "") -> str:
    """E.g. `msg_gan: 1.60/16 kimg, 80 images/s, 180 s left, loss G 0.5`; `read_line` reads what it writes."""
    return f"{what}: {done}/{total}, {rate}/s, {seconds_left:.0f} s left" + (f", {note}" if note else "")


def read_line(text: str) -> Share | None:
    """The share that a line of output says is done; None of any other line."""
    found = LINE.match(text)
    if found is None or not float(found["total"]):
        return None
    done, total = float(found["done"]), float(found["total"])
    return Share(f"{found['what']}: {found['done']}/{found['total']}", min(100.0, 100 * done / total))
