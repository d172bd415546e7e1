"""The registry of generators: versions of one MLflow model, and which of them is champion, challenger or previous.

It is in the store of `tasks.tracking`. What a version holds is written by `register`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from model.gan import WEIGHTS
from tasks.errors import Unavailable, UserError
from tasks.registry import ALIASES, CHALLENGER, CHAMPION, PREVIOUS
from tasks.synthesize.generator import read_generator, weights_digest
from tasks.tracking import runs
from tasks.tracking.store import REFUSED, defaults, first_line, is_missing

NAME = "xraysynth"
# Of MLflow's own values a bar a file is noise in a log, and a dead server takes minutes.
CALMER = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
GENERATOR, RECORD = "artifacts/generator", "artifacts/record"  # within an entry: see `register`


@dataclass(frozen=True)
class Version:
    """One registered generator."""

    number: int
    aliases: tuple[str, ...]
    created: datetime
    tags: dict[str, str]


@contextmanager
def store() -> Iterator[MlflowClient]:
    """A client of the store, also the one that MLflow's own functions use. Its errors become a sentence.

    Raises Unavailable where it cannot be reached, UserError where it answers and refuses.
    """
    uri = runs.store_uri()
    try:
        with defaults(CALMER | {"MLFLOW_TRACKING_URI": uri}):  # which the next line sets too, and would leave behind
            mlflow.set_tracking_uri(uri)
            yield MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError) as error:
        kind = UserError if getattr(error, "error_code", "") in REFUSED else Unavailable
        raise kind(f"MLflow's registry cannot be used ({first_line(error)}); see MLFLOW_TRACKING_URI") from None


def versions() -> list[Version]:
    """All versions, the newest first; of a store that is not there yet none, and none is made."""
    if is_missing(runs.store_uri()):
        return []
    with store() as client:
        aliases = _aliases(client)
        found = client.search_model_versions(f"name='{NAME}'", max_results=1000)
    result = [
        Version(
            int(entry.version),
            tuple(alias for alias in ALIASES if aliases.get(alias) == int(entry.version)),
            datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
            dict(entry.tags),
        )
        for entry in found
    ]
    return sorted(result, key=lambda version: -version.number)


def holder(alias: str) -> Version | None:
    """The version that has an alias, if one has it."""
    return next((version for version in versions() if alias in version.aliases), None)


def version(number: int) -> Version:
    """The version of that number. Raises UserError where there is none."""
    found = versions()
    for one in found:
        if one.number == number:
            return one
    known = ", ".join(str(one.number) for one in reversed(found)) or "none"
    raise UserError(f"no version {number} of {NAME} is registered (there are: {known}); see `xraysynth models list`")


def challenger() -> Version:
    """The version with that alias. Raises UserError where there is none."""
    found = holder(CHALLENGER)
    if found is None:
        raise UserError("no challenger is in the registry; register one with `xraysynth models register best`")
    return found


@contextmanager
def fetched(one: Version) -> Iterator[Path]:
    """The files of a version, in a temporary folder. Raises UserError where its weights are not those registered."""
    with tempfile.TemporaryDirectory() as temporary:
        with store():
            uri = f"models:/{NAME}/{one.number}"
            folder = Path(download_artifacts(artifact_uri=uri, dst_path=temporary))
        weights = folder / GENERATOR / WEIGHTS
        if not weights.is_file() or weights_digest(weights.parent) != one.tags.get("weights"):
            raise UserError(f"the weights of version {one.number} are not those that were registered; don't use it")
        yield folder


@contextmanager
def generator(alias: str) -> Iterator[Path]:
    """The model folder of the version with an alias. Raises UserError where none has it."""
    found = holder(alias)
    if found is None:
        raise UserError(f"no {alias} is in the registry; see `xraysynth models list`")
    with fetched(found) as folder:
        yield folder / GENERATOR


def promote(number: int | None = None, instead_of: int | None = None) -> str:
    """Make a version the champion, by default the challenger; the old champion becomes `previous`. What was done.

    The version is read and checked before any alias moves, and at no moment is there no champion. `instead_of`: the
    version that it was compared with, 0 for none. Raises UserError where another one is champion by now.
    """
    new = challenger() if number is None else version(number)
    with fetched(new) as folder:
        read_generator(folder / GENERATOR)
    old = holder(CHAMPION)
    now = old.number if old else 0
    if instead_of is not None and now not in (instead_of, new.number):
        raise UserError(
            f"version {new.number} was compared with {f'version {instead_of}' if instead_of else 'no champion'}, but "
            f"{f'version {now} is champion' if now else 'there is no champion'} by now; compare again: "
            "`xraysynth models challenge`"
        )
    with store() as client:
        if old is not None and old.number != new.number:
            client.set_registered_model_alias(NAME, PREVIOUS, str(old.number))
        elif old is None and PREVIOUS in new.aliases:
            client.delete_registered_model_alias(NAME, PREVIOUS)
        client.set_registered_model_alias(NAME, CHAMPION, str(new.number))
        if CHALLENGER in new.aliases:
            client.delete_registered_model_alias(NAME, CHALLENGER)
    if old is None or old.number == new.number:
        return f"version {new.number} is the champion" + (" already" if old else "")
    return f"version {new.number} is the champion, version {old.number} is kept as previous"


def rollback() -> str:
    """Make `previous` the champion again; the version that was it has no alias then. What was done."""
    previous, old = holder(PREVIOUS), holder(CHAMPION)
    if previous is None:
        raise UserError("no previous champion to go back to; name a version: `xraysynth models promote VERSION`")
    with fetched(previous) as folder:
        read_generator(folder / GENERATOR)
    with store() as client:
        client.set_registered_model_alias(NAME, CHAMPION, str(previous.number))
        client.delete_registered_model_alias(NAME, PREVIOUS)
    if old is None or old.number == previous.number:
        return f"version {previous.number} is the champion"
    return (
        f"version {previous.number} is the champion again; version {old.number} has been set aside, and "
        f"`xraysynth models promote {old.number}` brings it back"
    )


def _aliases(client: MlflowClient) -> dict[str, int]:
    try:
        found = client.get_registered_model(NAME).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: int(number) for alias, number in found.items()}
