"""Places on a shared axis in percent of its width, for charts that the page draws with its own text.

Such charts keep their letters at the size of the page's, on a telephone too, which a picture does not.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import LogLocator, MaxNLocator

from tasks.shown.numbers import number

LETTER = 2.4  # percent of the width of an axis

Interval = Mapping[str, Any]  # mean, low, high: numbers or None


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, both within the drawn width; logarithmic where both must be above 0."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Percent from the left, 0 to 100."""
        low, high, here = (self.low, self.high, value)
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(max(here, self.low))
        return round(min(max((here - low) / (high - low), 0.0), 1.0) * 100, 2)

    def ticks(self, wanted: int = 5) -> list[dict[str, Any]]:
        """Round values with their places, at most `wanted` + 1 of them."""
        locator = LogLocator(numticks=wanted) if self.log else MaxNLocator(wanted)
        inside = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [{"place": self.place(v), "text": number(0 if abs(v) < 1e-12 else v, 6)} for v in inside]


def around(values: Iterable[float | None], include: Iterable[float] = (), log: bool = False) -> Axis:
    """An axis with some room around all `values` that there are, and around `include`."""
    there = [v for v in (*values, *include) if v is not None and math.isfinite(v)] or [0.0, 1.0]
    low, high = min(there), max(there)
    if log and low > 0:
        room = (high / low) ** 0.06 if high > low else 1.5
        return Axis(low / room, high * room, log=True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return Axis(low - room, high + room)


def chart(
    rows: Sequence[tuple[str, Interval]],
    zones: Mapping[str, float | None] | None = None,
    zero: bool = False,
    marked: str = "",
    notes: Mapping[str, str] | None = None,
    ticks: int = 5,
) -> dict[str, Any]:
    """Rows of a name and an interval on one axis; by name of the row `zones` is a width to both sides of 0, `notes` are
    words below the name."""
    zones, notes = zones or {}, notes or {}
    edges = [edge for zone in zones.values() if zone is not None for edge in (-zone, zone)]
    values = [value[key] for _, value in rows for key in ("mean", "low", "high")]
    axis = around(values, [*edges, *([0.0] if zero else [])])
    drawn = []
    for name, value in rows:
        row: dict[str, Any] = {"name": name, "value": value, "marked": name == marked, "note": notes.get(name)}
        if value["mean"] is not None:
            row["dot"] = axis.place(value["mean"])
        if value["low"] is not None:
            row["line"] = axis.place(value["low"]), axis.place(value["high"])
        if (zone := zones.get(name)) is not None:
            row |= {"zone": (axis.place(-zone), axis.place(zone)), "effect": zone}
        drawn.append(row)
    return {"rows": drawn, "ticks": axis.ticks(ticks), "zero": axis.place(0.0) if zero else None}


def beside(measure: Mapping[str, Any]) -> dict[str, Any]:
    """A measure on an axis of its own beside floor and damaged controls; logarithmic where they lie far apart."""
    damaged = measure["damaged"]
    all_values = [measure["value"], measure["floor"], measure["low"], measure["high"], *damaged.values()]
    values = [v for v in all_values if v is not None]
    log = min(values, default=0) > 0 and max(values) > 20 * min(values)
    axis = around(values, log=log)
    there = {"dot": measure["value"], "floor": measure["floor"]}
    row: dict[str, Any] = {name: axis.place(value) for name, value in there.items() if value is not None}
    row |= {"damaged": _clusters({name: axis.place(v) for name, v in damaged.items() if v is not None}), "log": log}
    if measure["low"] is not None:
        row["line"] = axis.place(measure["low"]), axis.place(measure["high"])
    return row


def _clusters(places: Mapping[str, float]) -> list[tuple[float, list[str]]]:
    """Names from left to right; those whose letters would lie on each other stand together in their middle."""
    found: list[tuple[float, list[str]]] = []
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        names = [name]
        while found and place - found[-1][0] < LETTER * (len(names) + len(found[-1][1])) / 2:
            before, others = found.pop()
            place = (before * len(others) + place * len(names)) / (len(others) + len(names))
            names = others + names
        found.append((round(place, 2), names))
    return found


def bars(groups: Mapping[str, Mapping[str, tuple[int, int]]]) -> dict[str, Any]:
    """Stacked bars {group: {class: (real, synthetic)}} as shares of the longest one, and the ratio of each group."""
    longest = max((sum(parts) for group in groups.values() for parts in group.values()), default=0) or 1
    result: dict[str, Any] = {}
    for name, group in groups.items():
        totals = [sum(parts) for parts in group.values()]
        smallest = min(totals, default=0)
        result[name] = {
            "ratio": max(totals) / smallest if smallest else None,
            "rows": [
                {
                    "name": label,
                    "real": real,
                    "synthetic": synthetic,
                    "widths": (round(100 * real / longest, 2), round(100 * synthetic / longest, 2)),
                }
                for label, (real, synthetic) in group.items()
            ],
        }
    return result
