"""On demand: images of a class from the champion of the registry, as a zip and a contact sheet."""

import argparse
import json
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.artifacts import plain
from flows.commands import Commands
from flows.steps import run_step
from tasks.files import written_whole
from tasks.params import MAX_TRUNCATION
from tasks.paths import EXPORTS
from tasks.registry import CHAMPION
from tasks.shown.pictures import data_uri

SHOWN, COLUMNS = 40, 8  # images on the contact sheet
Form = Literal["png", "dicom"]
ENDINGS: dict[Form, str] = {"png": ".png", "dicom": ".dcm"}


@flow(flow_run_name="{count} {label}, {format}, seed {seed}")
def synthesize(
    label: str,
    count: Annotated[int, Field(ge=1, le=100_000)] = 100,
    format: Form = "png",
    seed: Annotated[int, Field(ge=0)] = 0,
    truncation: Annotated[float, Field(ge=0.01, le=MAX_TRUNCATION)] | None = None,
) -> State[Any]:
    """Draw images of one class from the champion and pack them into a zip in the folder `exports` of the project.

    Args:
        label: the class, as the data names it.
        count: how many images.
        format: png, or dicom with SyntheticData = YES.
        seed: the same seed draws the same images.
        truncation: below 1 safer and less varied images, above 1 more varied ones; by default as params.yaml says.
    """
    commands = Commands({})
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary) / "images"
        command = ["xraysynth", "synthesize", CHAMPION, str(images), f"--label={label}", f"--count={count}"]
        command += [f"--format={format}", f"--seed={seed}"]
        if truncation is not None:
            command.append(f"--truncation={truncation:g}")
        try:
            state = run_step("synthesize", command, commands, return_state=True)
        except BaseException:
            commands.stop()
            raise
        if not state.is_completed():
            return Failed(message=state.message, name=state.name)
        files = sorted(images.rglob(f"*{ENDINGS[format]}"))
        archive = EXPORTS / f"{_slug(label)}-{len(files)}-{format}-seed{seed}-{str(flow_run.id)[:8]}.zip"
        with written_whole(archive) as path, zipfile.ZipFile(path, "w") as packed:  # they are compressed
            for file in sorted(path for path in images.rglob("*") if path.is_file()):
                packed.write(file, file.relative_to(images))
        drawn = json.loads((images / "dataset.json").read_text(encoding="utf-8"))
        text = f"{screened(drawn['screening'])}\n\n`{archive}`, in the project's folder, holds {len(files)} images."
        text += f"\n\n![Contact sheet]({data_uri(contact_sheet(files[:SHOWN]))})"
    warning = "" if drawn["screening"]["screened"] else "NOT SCREENED for copies of training films. "
    what = f"Synthetic images of {plain(label)}: {len(files)}, seed {seed}, truncation {drawn['truncation']:g}."
    create_markdown_artifact(text, key="contact-sheet", description=warning + what)
    return Completed(message=f"{warning}{len(files)} images in {archive}")


def screened(screening: Mapping[str, Any]) -> str:
    """The first line of the contact sheet, from "screening" of dataset.json: what was done about copies."""
    if not screening["screened"]:
        return (
            "**NOT SCREENED for copies of training films**: the set that the champion learnt from is neither in "
            "data/curated nor in DVC's cache. Any of these images may show a patient's film."
        )
    removed = sum(found["removed"] for found in screening["classes"].values())
    note = f" ({screening['note']})" if screening["note"] else ""
    return f"Screened for copies of training films: {removed} left out{note}."


def contact_sheet(files: list[Path]) -> bytes:
    """The images of PNG or DICOM files of one size side by side, as PNG."""
    import numpy as np
    import pydicom
    from PIL import Image

    from tasks.shown.pictures import mosaic, picture_png

    def pixels(file: Path) -> np.ndarray:
        return pydicom.dcmread(file).pixel_array if file.suffix == ".dcm" else np.asarray(Image.open(file))

    return picture_png(mosaic([pixels(file) for file in files], COLUMNS))


def _slug(label: str) -> str:
    return re.sub(r"\W+", "-", label).strip("-") or "class"


def main() -> NoReturn:
    """The flow is a deployment and has no command line: --help says how it is run, anything else is an error."""
    how = "`make serve`, then Prefect's UI, or `prefect deployment run synthesize/synthesize -p NAME=VALUE`"
    parser = argparse.ArgumentParser(prog="python -m flows.synthesize", description=f"Run as a deployment: {how}.")
    parser.parse_args()
    parser.error(f"run as a deployment: {how}")


if __name__ == "__main__":
    main()
