"""One way to write a number."""

import pytest

from tasks.shown.numbers import change, decimals, number, percent, signed


def test_minus_is_no_hyphen() -> None:
    assert (number(-0.12345), decimals(-0.5), signed(-0.0719)) == ("−0.123", "−0.500", "−0.072")
    assert number(-1e-9) == "−1e−09"
    assert signed(0.1) == "+0.100"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.975, "97.5 %"), (0.98333, "98.3 %"), (0.05, "5 %"), (0.0, "0 %"), (1.0, "100 %"), (3.0, "300 %")],
)
def test_a_share_has_a_space_before_its_sign_and_no_empty_decimal(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_share_is_rounded_as_asked() -> None:
    assert percent(0.128, 0) == "13 %"


def test_a_change_has_its_interval_where_there_is_one() -> None:
    found = {"mean": -0.0719, "low": -0.202, "high": 0.0583}
    assert change(found, 0.975) == "−0.072, 97.5 % interval −0.202 to +0.058"
    assert change(found | {"low": None, "high": None}, 0.975) == "−0.072, no interval"


def test_what_is_not_known_is_a_dash() -> None:
    assert {show(None) for show in (number, decimals, signed, percent)} == {"–"}
