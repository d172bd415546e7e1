"""Stage `train@NAME`: train one generator on the real train split, all classes together.

An interrupted training is resumed: its checkpoints lie outside the stage's output, which DVC removes before the stage
runs.
"""

import hashlib
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from model.gan import WEIGHTS
from model.gan.networks import Discriminator, Generator, NetworkConfig
from model.gan.storage import save_generator
from model.head_start.transfer import HeadStart, packaged
from model.training import judge
from model.training.checkpoint import Stopped
from model.training.distributed import Ranks, join
from model.training.guard import CollapseGuard, warm_up
from model.training.loop import Row, Tick, TrainConfig, TrainingDiverged, fingerprint, train
from tasks import image_set, progress
from tasks.errors import UserError
from tasks.files import written_whole
from tasks.image_set import ImageSet, sets_of_findings
from tasks.params import Model, Train
from tasks.shown.numbers import percent
from tasks.tracking import runs
from tasks.train import card

TICKS, LONGEST_TICK = 10, 20.0  # of a training, if none is then longer, in kimg
KIMG = {True: 1.5, False: 6.0}  # with a head start and without, where params do not say how long
CHECKPOINTS = Path(".xraysynth/checkpoints")
ALARM = "alarm"  # tag of the run: why the guard ended the training
NO_MEMORY = "can't allocate memory"  # says torch on a CPU, in a RuntimeError
INTERRUPTED = 3  # trainings of a model, each with its data and params, that can be taken up again


def run(name: str, curated_folder: Path, out: Path, params: Train, model: Model) -> pd.DataFrame:
    """Train the model `name`; write generator, config, history, pictures and model card to `out`.

    Returns the history, a row a tick; an empty one in all but the first process of those that torchrun started. A
    training that was interrupted with the same data and params is resumed; SIGTERM and SIGINT write a checkpoint
    and end the process with 143 and 130. Raises UserError for params that the data does not admit.
    """
    films = image_set.load(curated_folder)
    learnt = films.where(split="train")
    network = _network(name, films, params, model)
    head_start, beginning = _beginning(name, films.classes, params, network)
    kimg = length(params, head_start is not None)
    config, ranks = _configured(name, params, kimg)
    key = fingerprint(learnt.images, learnt.labels, network, config, head_start)
    checkpoints = CHECKPOINTS / f"{name}-{key}"
    data = learnt.images, learnt.labels
    training = partial(
        train, *data, network, config, head_start=head_start, checkpoints=checkpoints, checkpoint_key=key
    )
    if not ranks.first:  # of several processes the first one reports and writes
        with _ended(name, checkpoints):
            training()
        return pd.DataFrame()

    print(f"{name}: begins with {beginning}; {kimg:g} thousand images", flush=True)
    guard = _guard(name, curated_folder, learnt, kimg)
    _make_room(name, checkpoints)
    resolved = {"kimg": kimg, "head_start": Path(params.head_start).name}
    settings = params.model_dump() | model.model_dump() | resolved
    with runs.tracked(f"train@{name}", settings, films.digest, films.counts()) as tracked, written_whole(out) as folder:
        report = _Report(name, kimg, films.classes, checkpoints / "samples", tracked)
        with _ended(name, checkpoints, tracked):
            generator = training(report.on_tick, guard=guard, on_resume=report.on_resume)
        shutil.copytree(report.samples, folder / "samples")
        table = pd.DataFrame(report.history)
        table.to_csv(folder / "history.csv", index=False, float_format="%.6g")
        facts = {"data_digest": films.digest, "params": settings, "threads": torch.get_num_threads()}
        if learnt.several:
            facts["sets"] = sets_of_findings(learnt.manifest, films.classes)  # of findings, that images are drawn with
        facts["simulated_before"] = head_start is not None and head_start.simulated
        save_generator(folder, generator, films.classes, facts, report.last.discriminator)
        tracked.tag("weights", hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())  # the registry looks for it

        last = report.last
        # Its reading is of the generator that is kept, unless an alarm has brought back an earlier one.
        reading = last.reading if last.reading and not last.alarm else guard.check(generator, last.kimg)
        counts = {label: len(learnt.where(label=label).images) for label in films.classes}
        device = card.machine(config.torch_device())
        text = card.model_card(name, generator, counts, reading, last, device, films.digest, beginning, settings)
        for file, content in {**card.pictures(generator, films.classes), "card.md": text.encode()}.items():
            (folder / file).write_bytes(content)
            tracked.artifact(file, content)
    shutil.rmtree(checkpoints)
    return table


def length(params: Train, head_start: bool) -> float:
    """In thousands of images: what `params.kimg` says, or enough for a training with a head start or without."""
    return params.kimg or KIMG[head_start]


def _network(name: str, films: ImageSet, params: Train, model: Model) -> NetworkConfig:
    try:
        return NetworkConfig(
            resolution=films.images.shape[1],
            width=params.width,
            classes=len(films.classes),
            attention_resolutions=tuple(model.attention_resolutions),
            phi=params.phi,
            minibatch_stddev=params.minibatch_stddev,
        )
    except ValueError as error:
        raise UserError(f"the params of {name} cannot be used: {error}") from None


def _configured(name: str, params: Train, kimg: float) -> tuple[TrainConfig, Ranks]:
    """How the networks are trained, and this process among those of torchrun."""
    try:
        others = {"width", "phi", "minibatch_stddev", "head_start", "kimg"}
        config = TrainConfig(kimg, **params.model_dump(exclude=others), tick_kimg=min(kimg / TICKS, LONGEST_TICK))
        ranks = join(config.torch_device())
        ranks.check(config.batch)
    except ValueError as error:
        raise UserError(f"the params of {name} cannot be used: {error}") from None
    return config, ranks


def _beginning(name: str, classes: list[str], params: Train, network: NetworkConfig) -> tuple[HeadStart | None, str]:
    """The head start, if there is one, and what the training begins with, in words."""
    if params.head_start == "none":
        return None, "random weights"
    phantom = params.head_start == "phantom"
    folder = packaged(name, network.resolution) if phantom else Path(params.head_start) / name
    try:
        found = HeadStart.load(folder, classes)
        if obstacle := found.obstacle(network):
            if phantom:
                return None, f"random weights: the head start does not fit, {obstacle}"
            raise ValueError(obstacle)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{name} cannot begin with train.head_start: {error}") from None
    taken = found.give(Generator(network), Discriminator(network))
    return found, f"{percent(taken.share, 0)} of its weights from the head start {Path(params.head_start).name}"


def _guard(name: str, curated_folder: Path, learnt: ImageSet, kimg: float) -> CollapseGuard:
    try:
        films = (learnt.images, learnt.labels, learnt.classes)
        return CollapseGuard(*films, warm_up(kimg), judge_steps=judge.steps(kimg))
    except ValueError as error:
        raise UserError(f"{name} cannot learn from {curated_folder}: {error}; ingest more films") from None


class _Report:
    """What a training tells on its way: a line in the log, a row in MLflow and a picture a tick."""

    last: Tick

    def __init__(self, name: str, kimg: float, classes: list[str], samples: Path, tracked: runs.Run) -> None:
        self.name, self.kimg, self.classes, self.tracked = name, kimg, classes, tracked
        self.samples = samples  # kept through interruptions, like the history
        self.history: list[Row] = []
        samples.mkdir(parents=True, exist_ok=True)

    def on_tick(self, tick: Tick) -> None:
        self.last = tick
        self.history.append(tick.row())
        print(self._line(tick), flush=True)
        self.tracked.metrics(self.history[-1], step=_images_shown(tick.kimg))
        if tick.alarm:
            self.tracked.tag(ALARM, tick.alarm)
            sentence = f"warning: {self.name}: {tick.alarm}; the training ends with the best generator before"
            print(sentence, file=sys.stderr, flush=True)
        picture = self.samples / f"{_images_shown(tick.kimg):08d}.png"
        picture.write_bytes(card.sample_grid(tick.generator, self.classes))

    def on_resume(self, kimg: float, earlier: list[Row]) -> None:
        self.history.extend(earlier)
        print(f"{self.name}: resumed at {kimg:.2f} kimg", flush=True)
        for row in self.history:
            self.tracked.metrics(row, step=_images_shown(row["kimg"]))
        self.tracked.tag("resumed_at_kimg", round(kimg, 3))

    def _line(self, tick: Tick) -> str:
        losses = f"loss G {tick.loss_generator:.3f} D {tick.loss_discriminator:.3f}"
        done, total, rate = f"{tick.kimg:.2f}", f"{self.kimg:g} kimg", f"{tick.images_per_second:.0f} images"
        return progress.line(self.name, done, total, rate, tick.eta_seconds, losses)


def _images_shown(kimg: float) -> int:
    return round(kimg * 1000)


def _make_room(name: str, checkpoints: Path) -> None:
    """Forget the interrupted trainings of a model but the last few."""
    others = [folder for folder in CHECKPOINTS.glob(f"{name}-*") if folder != checkpoints]
    for folder in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True)[INTERRUPTED - 1 :]:
        shutil.rmtree(folder)


@contextmanager
def _ended(name: str, checkpoints: Path, tracked: runs.Run | None = None) -> Iterator[None]:
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
        print(f"{name}: {stop}; the same command resumes from the last checkpoint", file=sys.stderr, flush=True)
        raise SystemExit(128 + stop.number) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and NO_MEMORY not in str(error):
            raise
        raise UserError(
            f"{name}: the memory does not suffice; lower train.batch or train.width, or take attention_resolutions of "
            "fewer pixels"
        ) from None
