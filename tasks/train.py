"""Stage `train@NAME`: train one generator on the real train split, all classes together.

An interrupted training goes on where it was: its checkpoints lie outside the stage's output, which DVC removes before
the stage runs.
"""

import platform
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from model.checkpoint import Stopped
from model.distributed import join
from model.guard import CollapseGuard, Reading, warm_up
from model.networks import Generator, NetworkConfig
from model.sampling import attention_blocks, attention_maps, between, latents, render
from model.storage import save_generator
from model.training import Row, Tick, TrainConfig, TrainingDiverged, fingerprint, train
from tasks import curated, plots, tracking
from tasks.errors import UserError
from tasks.params import Model, Train

TICKS, LONGEST_TICK = 10, 20.0  # of a training, if none is then longer, in kimg
GRID_COLUMNS, STRIP_COLUMNS = 8, 10
POINTS = ((0.35, 0.28), (0.35, 0.72), (0.6, 0.5), (0.9, 0.12))  # of an upright chest: lungs, middle, a corner below
CHECKPOINTS = Path(".xraysynth/checkpoints")
ALARM = "alarm"  # tag of the run: why the guard ended the training
NO_MEMORY = "can't allocate memory"  # says torch on a CPU, in a RuntimeError
INTERRUPTED = 3  # trainings of a model, each with its data and params, that can be taken up again


def run(name: str, curated_folder: Path, out: Path, params: Train, model: Model) -> pd.DataFrame:
    """Train the model `name`; write generator, config, history, pictures and model card to `out`.

    Returns the history, a row a tick; an empty one in all but the first process of those that torchrun started. A
    training that was interrupted with the same data and params is gone on with; SIGTERM and SIGINT write a checkpoint
    and end the process with 143 and 130. Raises UserError for params that the data does not admit.
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
        config = TrainConfig(**params.model_dump(exclude=shape), tick_kimg=min(params.kimg / TICKS, LONGEST_TICK))
        ranks = join(config.torch_device())
        ranks.check(config.batch)
    except ValueError as error:
        raise UserError(f"the params of {name} cannot be used: {error}") from None
    try:
        guard = CollapseGuard(learnt.images, learnt.labels, images.classes, warm_up(params.kimg))
    except ValueError as error:
        raise UserError(f"{name} cannot learn from {curated_folder}: {error}; ingest more films") from None
    settings = {**params.model_dump(), **model.model_dump()}
    counts = {label: len(learnt.where(label=label).images) for label in images.classes}
    checkpoints = CHECKPOINTS / f"{name}-{fingerprint(learnt.images, learnt.labels, network, config)}"
    if not ranks.first:  # of several processes the first one reports and writes
        with _ended(name, checkpoints):
            train(learnt.images, learnt.labels, network, config, checkpoints=checkpoints)
        return pd.DataFrame()
    _make_room(name, checkpoints)
    samples = checkpoints / "samples"  # a picture a tick, kept through interruptions like the history
    with (
        tracking.tracked(f"train@{name}", settings, images.digest) as tracked,
        curated.written_whole(out) as folder,
    ):
        history: list[Row] = []
        last: Tick

        def on_tick(tick: Tick) -> None:
            nonlocal last
            last = tick
            history.append(tick.row())
            print(_line(name, tick, params.kimg), flush=True)
            tracked.metrics(history[-1], step=_step(tick.kimg))
            if tick.alarm:
                tracked.tag(ALARM, tick.alarm)
                sentence = f"warning: {name}: {tick.alarm}; the training ends with the best generator before"
                print(sentence, file=sys.stderr, flush=True)
            (samples / f"{_step(tick.kimg):08d}.png").write_bytes(sample_grid(tick.generator, images.classes))

        def on_resume(kimg: float, earlier: list[Row]) -> None:
            history.extend(earlier)
            print(f"{name}: resumed at {kimg:.2f} kimg", flush=True)
            for row in history:
                tracked.metrics(row, step=_step(row["kimg"]))
            tracked.tag("resumed_at_kimg", round(kimg, 3))

        with _ended(name, checkpoints, tracked):
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
        facts = {"data_digest": images.digest, "params": settings, "threads": torch.get_num_threads()}
        save_generator(folder, generator, images.classes, facts)
        # Its last reading is of the generator that is kept, unless an alarm has brought back an earlier one.
        reading = last.reading if last.reading and not last.alarm else guard.check(generator, last.kimg)
        files = pictures(generator, images.classes)
        card = model_card(
            name, generator, counts, reading, last, _machine(config.torch_device()), images.digest, settings
        )
        files["card.md"] = card.encode()
        for file, content in files.items():
            (folder / file).write_bytes(content)
            tracked.artifact(file, content)
    shutil.rmtree(checkpoints)
    return table


def _make_room(name: str, checkpoints: Path) -> None:
    """Forget the interrupted trainings of a model but the last few."""
    others = [folder for folder in CHECKPOINTS.glob(f"{name}-*") if folder != checkpoints]
    for folder in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True)[INTERRUPTED - 1 :]:
        shutil.rmtree(folder)


@contextmanager
def _ended(name: str, checkpoints: Path, tracked: tracking.Run | None = None) -> Iterator[None]:
    """Says what a training warns of or ends early by, in a sentence each."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr, flush=True)
            yield
    except TrainingDiverged as error:
        if tracked:
            tracked.tag(ALARM, error)
        shutil.rmtree(checkpoints, ignore_errors=True)  # it would diverge again; another process may have done so
        raise UserError(
            f"{name}: {error}; no earlier generator is worth keeping, so change the params: a lower "
            "train.learning_rate, or another train.loss"
        ) from None
    except Stopped as stop:
        print(f"{name}: {stop}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        raise SystemExit(128 + stop.number) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and NO_MEMORY not in str(error):
            raise
        raise UserError(
            f"{name}: the memory does not suffice; lower train.batch or train.width, or take attention_resolutions of "
            "fewer pixels"
        ) from None


def pictures(generator: Generator, classes: list[str]) -> dict[str, bytes]:
    """PNG files by name: a grid of samples, interpolations and, of a generator with attention, where it looks."""
    result = {"samples.png": sample_grid(generator, classes), "interpolation.png": interpolations(generator, classes)}
    if generator.config.attention_resolutions:
        result["attention.png"] = attention(generator, classes)
    return result


def sample_grid(generator: Generator, classes: list[str]) -> bytes:
    """PNG of GRID_COLUMNS images a class, one class a row, the same latents in every row: what differs is the class."""
    return _grid(generator, classes, _latents(generator, GRID_COLUMNS))


def interpolations(generator: Generator, classes: list[str]) -> bytes:
    """PNG of STRIP_COLUMNS steps from the first latent of the sample grid to the second, one class a row."""
    first, second = _latents(generator, 2)
    return _grid(generator, classes, between(first, second, STRIP_COLUMNS))


def attention(generator: Generator, classes: list[str]) -> bytes:
    """PNG of where every attention block looks from POINTS, a row a class and block; the grid's first latent."""
    rows, z = [], _latents(generator, 1)
    for label, name in enumerate(classes):
        (image,), maps = attention_maps(generator, z, torch.tensor([label]), POINTS)
        for side, block in attention_blocks(generator).items():
            rows.append((f"{name}\n{side}×{side} px\ngamma {block.gamma.item():.3g}", image, maps[side][0]))
    return plots.png(plots.attention(rows, POINTS), dpi=100)


def _latents(generator: Generator, count: int) -> torch.Tensor:
    return latents(0, 0, count, seed=0, dim=generator.config.latent_dim)


def _grid(generator: Generator, classes: list[str], z: torch.Tensor) -> bytes:
    rows = [render(generator, z, torch.full((len(z),), label)) for label in range(len(classes))]
    return plots.picture_png(plots.mosaic(np.concatenate(rows), len(z)))


def model_card(
    name: str,
    generator: Generator,
    counts: Mapping[str, int],
    reading: Reading,
    last: Tick,
    machine: str,
    digest: str,
    settings: Mapping[str, Any],
) -> str:
    """What a user of the generator must know, in Markdown. `reading` is of it, `last` the tick that ended training."""
    side, conditional = generator.config.resolution, ", conditional on class" * (len(counts) > 1)
    guard = f"{last.alarm}; this is the best generator before" if last.alarm else "no alarm"
    classes = "\n".join(
        f"| {label} | {n} | {reading.ms_ssim[label]:.3f} | {reading.ms_ssim_real[label]:.3f} |"
        for label, n in counts.items()
    )
    blocks = attention_blocks(generator)
    gates = ", ".join(f"{block.gamma.item():.3g} at {r}×{r} px" for r, block in blocks.items()) or "no attention"
    params = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
    seen = """
![Attention](attention.png)
Where attention looks from the numbered points, the first column of the samples. A number in a tile is its highest
weight, as a multiple of an even one; gamma is the gate by which a block adds what it sees.
"""
    return f"""# {name}

A generator of synthetic chest radiographs of {side}×{side} pixels, one channel{conditional}.

![Samples](samples.png)
A row a class ({", ".join(counts)}); a column shares its latent.

- data digest: `{digest}`
- length of training: {last.kimg:g} thousand images
- time of training: {last.seconds:.0f} s on {machine}
- collapse guard: {guard}
- Fréchet distance in the guard's features, which are not those of FID: {reading.frechet:.3g} from the real images,
  {reading.frechet_floor:.3g} between halves of these
- gamma of the generator's attention: {gates}

| class | real images it learnt from | MS-SSIM of synthetic pairs | of real pairs |
|---|---|---|---|
{classes}

MS-SSIM above that of real pairs: less varied than they are. The guard looks at few images; the stage `quality` measures
a whole set from this generator, beside its floors, in `reports/quality/{name}.json`.

![Interpolation](interpolation.png)
On the great circle from the latent of the first column to that of the second.
{seen * bool(blocks)}
| param | value |
|---|---|
{params}

**Intended use**: additional training images of rare classes, after the report of the same pipeline was read.
**Not for** diagnosis, teaching of radiology or the test of any device. Images may show findings wrongly, and a
generator can repeat films that it learnt from: it is to be handled with the care that the films demand.
"""


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, threads: {torch.get_num_threads()})"


def _step(kimg: float) -> int:
    """Images shown."""
    return round(kimg * 1000)


def _line(name: str, tick: Tick, kimg: float) -> str:
    return (
        f"{name}: {tick.kimg:.2f}/{kimg:g} kimg, {tick.images_per_second:.0f} images/s, {tick.eta_seconds:.0f} s left, "
        f"loss G {tick.loss_generator:.3f} D {tick.loss_discriminator:.3f}"
    )
