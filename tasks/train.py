"""Stage `train@NAME`: train one generator on the real train split, all classes together."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.networks import Generator, NetworkConfig
from model.sampling import sample
from model.storage import save_generator
from model.training import Tick, TrainConfig, TrainingDiverged, train
from tasks import curated, plots, tracking
from tasks.errors import UserError
from tasks.params import Model, Train

TICKS = 10
GRID_COLUMNS = 8


def run(name: str, curated_folder: Path, out: Path, params: Train, model: Model) -> pd.DataFrame:
    """Train the model `name`; write generator, config, history, sample grids and model card to `out`.

    Returns the history, a row a tick. Raises UserError for params that the data does not admit.
    """
    images = curated.load(curated_folder)
    learnt = images.where(split="train")
    try:
        network = NetworkConfig(
            resolution=images.images.shape[1],
            width=params.width,
            classes=len(images.classes),
            attention_resolutions=tuple(model.attention_resolutions),
        )
        config = TrainConfig(**params.model_dump(exclude={"width"}), tick_kimg=params.kimg / TICKS)
    except ValueError as error:
        raise UserError(f"the params of {name} cannot be used: {error}") from None
    settings = {**params.model_dump(), **model.model_dump()}
    counts = {label: len(learnt.where(label=label).images) for label in images.classes}
    with (
        tracking.tracked(f"train@{name}", settings, images.digest) as tracked,
        curated.written_whole(out) as folder,
    ):
        (folder / "samples").mkdir(parents=True)
        history: list[dict[str, float]] = []

        def on_tick(tick: Tick) -> None:
            history.append(_row(tick))
            print(_line(name, tick, params.kimg), flush=True)
            tracked.metrics(history[-1], step=round(tick.kimg * 1000))
            grid = sample_grid(tick.generator, images.classes)
            (folder / "samples" / f"{round(tick.kimg * 1000):08d}.png").write_bytes(grid)

        try:
            generator = train(learnt.images, learnt.labels, network, config, on_tick)
        except TrainingDiverged as error:
            raise UserError(f"{name}: {error}") from None
        table = pd.DataFrame(history)
        table.to_csv(folder / "history.csv", index=False, float_format="%.6g")
        save_generator(folder, generator, images.classes, {"data_digest": images.digest, "params": settings})
        grid = sample_grid(generator, images.classes)
        (folder / "samples.png").write_bytes(grid)
        card = model_card(name, images.digest, counts, settings, history[-1])
        (folder / "card.md").write_text(card, encoding="utf-8")
        tracked.artifact("samples.png", grid)
        tracked.artifact("card.md", card.encode())
    return table


def sample_grid(generator: Generator, classes: list[str]) -> bytes:
    """PNG of GRID_COLUMNS images a class, one class a row, the same latents in every row."""
    rows = [sample(generator, label, GRID_COLUMNS, seed=0) for label in range(len(classes))]
    return plots.picture_png(plots.mosaic(np.concatenate(rows), GRID_COLUMNS))


def model_card(name: str, digest: str, counts: dict[str, int], settings: dict[str, Any], last: dict[str, float]) -> str:
    """What a user of the generator must know, in Markdown."""
    classes = "\n".join(f"| {label} | {n} |" for label, n in sorted(counts.items()))
    params = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    return f"""# {name}

A generator of synthetic chest radiographs, one channel, conditional on class.

- data digest: `{digest}`
- length of training: {last["kimg"]:g} thousand images

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


def _row(tick: Tick) -> dict[str, float]:
    names = (
        "kimg",
        "seconds",
        "images_per_second",
        "loss_generator",
        "loss_discriminator",
        "penalty",
        "logit_real",
        "logit_fake",
    )
    return {
        **{name: getattr(tick, name) for name in names},
        **{f"gamma.{k}": v for k, v in tick.gammas.items()},
    }


def _line(name: str, tick: Tick, kimg: float) -> str:
    return (
        f"{name}: {tick.kimg:.2f}/{kimg:g} kimg, {tick.images_per_second:.0f} images/s, {tick.eta_seconds:.0f} s left, "
        f"loss G {tick.loss_generator:.3f} D {tick.loss_discriminator:.3f}"
    )
