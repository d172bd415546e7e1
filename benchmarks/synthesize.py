"""How fast a trained generator draws, in each form, files written: `python -m benchmarks.synthesize` prints a table.

python -m benchmarks.synthesize                     networks of the default size at 64 x 64, fresh weights
python -m benchmarks.synthesize models/msg_sagan    a generator of your own
python -m benchmarks.synthesize models/msg_sagan --curated data/curated     and its images screened for copies
"""

import contextlib
import io
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.markdown import table
from model.gan.networks import Generator, NetworkConfig
from model.gan.storage import save_generator
from tasks.params import Synthesize, Train
from tasks.synthesize import stage
from tasks.synthesize.generator import read_generator
from tasks.synthesize.stage import Form

FORMS: tuple[Form, ...] = ("shards", "png", "dicom")
NETWORKS: dict[str, tuple[int, ...]] = {"msg_gan": (), "msg_sagan": (32,)}


def main(
    model: Annotated[Path | None, typer.Argument(help="The folder of a generator.")] = None,
    curated: Annotated[Path | None, typer.Option(help="The set that it learnt from: images are screened.")] = None,
    count: Annotated[int, typer.Option(min=16, help="Images of a measurement.")] = 1024,
    repeats: Annotated[int, typer.Option(min=1, help="The fastest counts: others may use the machine.")] = 3,
) -> None:
    """Draw and write, the forms in turn; loading the generator is part of it."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        models = {model.name: model} if model else {name: fresh(place / name, *NETWORKS[name]) for name in NETWORKS}
        seconds: dict[tuple[str, Form], list[float]] = {}
        for repeat in range(repeats + 1):
            for network, folder in models.items():
                for form in FORMS:
                    taken = timed(folder, place / "out", count if repeat else 16, form, curated)
                    seconds.setdefault((network, form), []).extend([taken] if repeat else [])  # the first warms up
    machine = f"{os.cpu_count()} cores of {platform.machine()}, {torch.get_num_threads()} threads"
    screened = "screened for copies" if curated else "not screened for copies"
    print(f"{machine}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the end; {screened}\n")
    rows = ((n, *(f"{60 * count / min(seconds[n, form]):,.0f}" for form in FORMS)) for n in models)
    print(table(["images a minute", *FORMS], rows))


def fresh(folder: Path, *attention: int) -> Path:
    """A generator of the default width that nobody has trained: it draws as slowly as another."""
    network = NetworkConfig(64, width=Train().width, classes=2, attention_resolutions=attention)
    save_generator(folder, Generator(network), ["normal", "rare"])
    return folder


def timed(folder: Path, out: Path, count: int, form: Form, curated: Path | None) -> float:
    """Seconds to draw and write `count` images of the first class; calibrating the screening is part of it."""
    classes = read_generator(folder)[1]["classes"]
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):  # no progress
        stage.run(folder, out, {classes[0]: count}, Synthesize(), form, curated)
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
