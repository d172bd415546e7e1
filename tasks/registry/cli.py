"""The command group `xraysynth models`: the registry of generators. It parses, calls and prints, as `tasks.cli`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tasks import params as params_module
from tasks.paths import CHALLENGE, CURATED, DRIFT

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The registry: register, compare, promote, go back."
)


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="msg_gan, msg_sagan, or best: the one that the verdict is about.")],
) -> None:
    """Make a trained generator the challenger."""
    from tasks.registry.register import register as register_version

    print(f"version {register_version(name)}")


@app.command("list")
def list_versions(as_json: Annotated[bool, typer.Option("--json", help="All that is known of them.")] = False) -> None:
    """Show the versions, the newest first."""
    from tasks.registry import versions

    found = versions.versions()
    if as_json:
        print(json.dumps([{**vars(one), "created": one.created.isoformat()} for one in found], indent=2))
        return
    if not found:
        print("no version is registered; `xraysynth models register best` makes the first")
    for one in found:
        aliases = ", ".join(one.aliases) or "-"
        print(
            f"{one.number:>4}  {aliases:<12}  {one.created:%Y-%m-%d %H:%M} UTC  {one.tags.get('model', ''):<10}  "
            f"{one.tags.get('verdict', ''):<13}  {one.tags.get('weights', '')[:12]}"
        )


@app.command()
def promote(
    version: Annotated[int | None, typer.Argument(min=1, help="[default: the challenger]")] = None,
    instead_of: Annotated[
        int | None, typer.Option(min=0, metavar="VERSION", help="Only if this is still champion; 0: if there is none.")
    ] = None,
) -> None:
    """Make a version the champion.

    The old champion is kept as previous.
    """
    from tasks.registry import versions

    print(versions.promote(version, instead_of))


@app.command()
def rollback() -> None:
    """Make the previous champion the champion again."""
    from tasks.registry import versions

    print(versions.rollback())


@app.command()
def challenge(
    margin: Annotated[float, typer.Option(min=0, help="By which the interval must clear 0.")] = 0.0,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of each classifier.")] = 3,
) -> None:
    """Compare challenger and champion; changes nothing.

    Both are compared on the current test split.
    """
    from tasks.registry import challenge as part

    result = part.run(CURATED, CHALLENGE, params_module.load(), margin, seeds)
    print(f"{'To be promoted' if result['promote'] else 'Not to be promoted'}: {result['reason']}")


@app.command()
def drift() -> None:
    """Compare the train split with the champion's."""
    from tasks.registry import drift as part

    print(part.run(CURATED, DRIFT)["sentence"])


@app.command()
def reproduce(
    version: Annotated[int, typer.Argument(min=1)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder, for a copy of the project.")],
) -> None:
    """Train a version again and compare the weights.

    It is made from its own revision, params and data.
    """
    from tasks.registry import reproduce as part

    equal, sentence = part.run(version, folder)
    print(sentence)
    if not equal:
        raise typer.Exit(1)
