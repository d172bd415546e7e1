"""What a failed step leaves in the log and in its state: what went wrong, once, and nothing of Prefect's own code."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.engine import handle_engine_signals
from prefect.flow_engine import run_flow
from prefect.states import Failed

from flows.commands import Commands
from flows.steps import BAD_INPUT, run_step

pytestmark = pytest.mark.usefixtures("prefect_api")
LOGGERS = ("prefect.task_runs", "prefect.flow_runs", "prefect.engine")


class Kept(logging.Handler):
    """All that is logged, as it would be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"


@pytest.fixture
def log() -> Iterator[Kept]:
    kept = Kept()
    for name in LOGGERS:
        logging.getLogger(name).addHandler(kept)
    yield kept
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(kept)


def failing(*lines: str, code: int) -> list[str]:
    return [sys.executable, "-c", f"import sys; print({chr(10).join(lines)!r}); sys.exit({code})"]


@pytest.mark.parametrize("code", [2, 1])  # bad input, and what is tried again
def test_a_failed_run_ends_with_its_sentence_and_no_traceback(log: Kept, code: int) -> None:
    states: list[State[Any]] = []
    step = run_step.with_options(retry_delay_seconds=0)

    @flow
    def toy() -> State[Any]:
        states.append(step("toy", failing("one", "error: two", "three", code=code), Commands({}), return_state=True))
        return Failed(message="toy: error: two", name=states[-1].name)

    with pytest.raises(SystemExit), handle_engine_signals():  # as a worker runs it
        run_flow(toy, error_logger=logging.getLogger("prefect.flow_runs"))
    assert states[0].name == (BAD_INPUT if code == 2 else "Failed")
    assert states[0].message == "toy: error: two\n\nIts last lines:\none\nthree"
    assert "three\n" in log.text
    assert "Traceback" not in log.text
    assert "NoneType: None" not in log.text
    assert "toy: error: two" in log.text.splitlines()[-1]


def test_a_sentence_is_not_said_twice() -> None:
    states: list[State[Any]] = []

    @flow
    def toy() -> None:
        states.append(run_step("toy", failing("error: one", code=2), Commands({}), return_state=True))

    toy()
    assert states[0].message == "toy: error: one"


def test_an_exception_of_our_own_keeps_its_traceback(log: Kept) -> None:
    @flow
    def toy() -> None:
        raise ZeroDivisionError

    assert toy(return_state=True).is_failed()
    assert "Traceback" in log.text
