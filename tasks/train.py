"""Stage `train@NAME`: train one generator on the real train split, all classes together.

An interrupted training goes on where it was: its checkpoints lie outside the stage's output, which DVC removes before
the stage runs.
"""

import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from model.checkpoint import Stopped
from model.guard import CollapseGuard
from model.networks import Generator, NetworkConfig
from model.sampling import latents, render
from model.storage import save_generator
from model.training import Row, Tick, TrainConfig, TrainingDiverged, fingerprint, train
from tasks import curated, plots, tracking
from tasks.errors import UserError
from tasks.params import Model, Train

TICKS = 10
GRID_COLUMNS = 8
CHECKPOINTS = Path(".xraysynth/checkpoints")
INTERRUPTED = 3  # trainings of a model, each with its data and params, that can be taken up again


def run(name: str, curated_folder: Path, out: Path, params: Train, model: Model) -> pd.DataFrame:
    """Train the model `name`; write generator, config, history, sample grids and model card to `out`.

    Returns the history, a row a tick. A training that was interrupted with the same data and params is gone on with;
    SIGTERM and SIGINT write a checkpoint and end the process with 143 and 130. Raises UserError for params that the
    data does not admit.
    """
    images = curated.load(curated_folder)
    learnt = images.where(split="train")
    try:
        network = NetworkConfig(
            resolution=images.images.shape[1],
            width=params.width,
            classes=len(images.classes),
            attention_resolutions=tuple(model.attention_resolutions),
            phi=params.phi,
            minibatch_stddev=params.minibatch_stddev,
        )
        shape = {"width", "phi", "minibatch_stddev"}
        config = TrainConfig(**params.model_dump(exclude=shape), tick_kimg=params.kimg / TICKS)
    except ValueError as error:
        raise UserError(f"the params of {name} cannot be used: {error}") from None
    try:
        guard = CollapseGuard(learnt.images, learnt.labels, images.classes)
    except ValueError as error:
        raise UserError(f"{name} cannot learn from {curated_folder}: {error}; ingest more films") from None
    settings = {**params.model_dump(), **model.model_dump()}
    counts = {label: len(learnt.where(label=label).images) for label in images.classes}
    checkpoints = CHECKPOINTS / f"{name}-{fingerprint(learnt.images, learnt.labels, network, config)}"
    _make_room(name, checkpoints)
    samples = checkpoints / "samples"  # a picture a tick, kept through interruptions like the history
    with (
        tracking.tracked(f"train@{name}", settings, images.digest) as tracked,
        curated.written_whole(out) as folder,
    ):
        history: list[Row] = []

        def on_tick(tick: Tick) -> None:
            history.append(tick.row())
            print(_line(name, tick, params.kimg), flush=True)
            tracked.metrics(history[-1], step=_step(tick.kimg))
            (samples / f"{_step(tick.kimg):08d}.png").write_bytes(sample_grid(tick.generator, images.classes))

        def on_resume(kimg: float, earlier: list[Row]) -> None:
            history.extend(earlier)
            print(f"{name}: resumed at {kimg:.2f} kimg", flush=True)
            for row in history:
                tracked.metrics(row, step=_step(row["kimg"]))
            tracked.tag("resumed_at_kimg", round(kimg, 3))

        with _ended(name, checkpoints):
            samples.mkdir(parents=True, exist_ok=True)
            generator = train(
                learnt.images,
                learnt.labels,
                network,
                config,
                on_tick,
                guard=guard,
                checkpoints=checkpoints,
                on_resume=on_resume,
            )
        shutil.copytree(samples, folder / "samples")
        table = pd.DataFrame(history)
        table.to_csv(folder / "history.csv", index=False, float_format="%.6g")
        save_generator(folder, generator, images.classes, {"data_digest": images.digest, "params": settings})
        grid = sample_grid(generator, images.classes)
        (folder / "samples.png").write_bytes(grid)
        card = model_card(name, images.digest, counts, settings, history[-1])
        (folder / "card.md").write_text(card, encoding="utf-8")
        tracked.artifact("samples.png", grid)
        tracked.artifact("card.md", card.encode())
    shutil.rmtree(checkpoints)
    return table


def _make_room(name: str, checkpoints: Path) -> None:
    """Forget the interrupted trainings of a model but the last few."""
    others = [folder for folder in CHECKPOINTS.glob(f"{name}-*") if folder != checkpoints]
    for folder in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True)[INTERRUPTED - 1 :]:
        shutil.rmtree(folder)


@contextmanager
def _ended(name: str, checkpoints: Path) -> Iterator[None]:
    """Says what a training warns of or ends early by, in a sentence each."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr, flush=True)
            yield
    except TrainingDiverged as error:
        shutil.rmtree(checkpoints)  # it would diverge again
        raise UserError(f"{name}: {error}") from None
    except Stopped as stop:
        print(f"{name}: {stop}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        raise SystemExit(128 + stop.number) from None


def sample_grid(generator: Generator, classes: list[str]) -> bytes:
    """PNG of GRID_COLUMNS images a class, one class a row, the same latents in every row: what differs is the class."""
    z = latents(0, 0, GRID_COLUMNS, seed=0, dim=generator.config.latent_dim)
    rows = [render(generator, z, torch.full((GRID_COLUMNS,), label)) for label in range(len(classes))]
    return plots.picture_png(plots.mosaic(np.concatenate(rows), GRID_COLUMNS))


def model_card(name: str, digest: str, counts: dict[str, int], settings: dict[str, Any], last: Row) -> str:
    """What a user of the generator must know, in Markdown."""
    classes = "\n".join(f"| {label} | {n} |" for label, n in sorted(counts.items()))
    params = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    guard = f"{last['alarm']}; this is the best generator before" if "alarm" in last else "no alarm"
    return f"""# {name}

A generator of synthetic chest radiographs, one channel, conditional on class.

- data digest: `{digest}`
- length of training: {last["kimg"]:g} thousand images
- collapse guard: {guard}

| class | real images it learnt from |
|---|---|
{classes}

| param | value |
|---|---|
{params}

**Intended use**: additional training images of rare classes, after the report of the same pipeline was read.
**Not for** diagnosis, teaching of radiology or the test of any device. Images may show findings wrongly, and a
generator can repeat films that it learnt from: it is to be handled with the care that the films demand.
"""


def _step(kimg: float) -> int:
    """Images shown."""
    return round(kimg * 1000)


def _line(name: str, tick: Tick, kimg: float) -> str:
    return (
        f"{name}: {tick.kimg:.2f}/{kimg:g} kimg, {tick.images_per_second:.0f} images/s, {tick.eta_seconds:.0f} s left, "
        f"loss G {tick.loss_generator:.3f} D {tick.loss_discriminator:.3f}"
    )
