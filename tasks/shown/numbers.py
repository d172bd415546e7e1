"""Numbers as a person reads them, in the report, the verdict and on the terminal: U+2212 for minus, a space before %.

What is not known (None) is a dash.
"""

from collections.abc import Mapping

UNKNOWN = "–"


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits."""
    return UNKNOWN if value is None else _minus(f"{value:.{digits}g}")


def decimals(value: float | None) -> str:
    """Three of them."""
    return UNKNOWN if value is None else _minus(f"{value:.3f}")


def signed(value: float | None) -> str:
    """Three decimals with a sign."""
    return UNKNOWN if value is None else _minus(f"{value:+.3f}")


def percent(value: float | None, digits: int = 1) -> str:
    """A share, 0 to 1, with so many decimals at most."""
    return UNKNOWN if value is None else f"{number(round(100 * value, digits), 15)} %"


def change(difference: Mapping[str, float | None], confidence: float) -> str:
    """mean, low and high of a difference in words."""
    if difference["low"] is None:
        return f"{signed(difference['mean'])}, no interval"
    ends = f"{signed(difference['low'])} to {signed(difference['high'])}"
    return f"{signed(difference['mean'])}, {percent(confidence)} interval {ends}"


def _minus(text: str) -> str:
    return text.replace("-", "−")
