"""All that a GPU can tell of the networks, in under ten minutes; needs torch, numpy and safetensors alone.

python -m benchmarks.gpu                    correctness, speed, memory, resuming, one training for quality
python -m benchmarks.gpu --device cpu --quick      the same at toy sizes, to see that the script runs

1. Forward, gradients and penalty of both networks, fp32 and bf16, against fp64 on the CPU.
2. Images/s and the share of a matrix product's bf16 rate, by side and width, with and without torch.compile; memory.
3. A training that is killed and resumed against one that is not.
4. A training from random weights on what the packaged head start draws, with the guard's Fréchet distance. These are no
   films: it tells whether training works on this device, and how long it takes.
A part that fails says why, and the others go on; the exit code is then 1.
"""

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from benchmarks.gan import FILMS, WARM_UP, Compiled, Ours, films, matrix_rate, timed
from benchmarks.markdown import table
from model.gan.networks import Discriminator, Generator, NetworkConfig
from model.gan.sampling import sample
from model.gan.storage import load_generator
from model.head_start.transfer import packaged
from model.training.config import TrainConfig
from model.training.guard import CollapseGuard, warm_up
from model.training.loop import Tick, train
from model.training.losses import gradient_penalty

CELLS = ((128, 64, 32), (128, 128, 32), (128, 512, 32), (256, 64, 32), (256, 256, 16), (512, 64, 16), (512, 128, 8))
QUICK = ((16, 8, 4),)  # side, width, batch
CLASSES = 3


def correct(device: torch.device, quick: bool) -> Iterator[tuple[str, ...]]:
    """A line a quantity: relative errors against fp64 of fp32 and bf16, of ‖x − reference‖ / ‖reference‖."""
    config = NetworkConfig(16 if quick else 128, classes=CLASSES, attention_resolutions=(16,))
    reference = _quantities(config, torch.device("cpu"), torch.float64)
    found = {
        "fp32": _quantities(config, device, torch.float32),
        "bf16": _quantities(config, device, torch.bfloat16),
    }
    for name, wanted in reference.items():
        errors = [((of[name].double().cpu() - wanted).norm() / wanted.norm()).item() for of in found.values()]
        yield name, *(f"{error:.1e}" for error in errors)


def _quantities(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Of the same weights and latents; bf16 by autocast, as the trainer has it."""
    torch.manual_seed(0)
    networks = Generator(config), Discriminator(config)
    for network in networks:
        for parameter in network.parameters():
            if not parameter.any():  # class embeddings and attention begin at zero, and would say nothing
                parameter.data.normal_(std=0.3)
    z, y = torch.randn(4, config.inputs), torch.arange(4) % CLASSES
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    generator, discriminator = (network.to(device, kept) for network in networks)
    z, y = z.to(device, kept), y.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        images = [image.to(kept) for image in generator(z, y)]
        logits = discriminator(images, y)
    logits.sum().backward()
    found = {"image": images[-1].detach(), "logit": logits.detach()}
    found["gradient of the first layer of G"] = generator.start.weight.grad.clone()
    found["gradient of the first layer of D"] = discriminator.from_image.weight.grad.clone()
    discriminator.zero_grad()
    if dtype is not torch.float64:
        penalty = gradient_penalty(discriminator, images, y)
    else:  # the trainer's own is in fp32
        leaves = [image.detach().requires_grad_() for image in images]
        gradients = torch.autograd.grad(discriminator(leaves, y).sum(), leaves, create_graph=True)
        penalty = torch.stack([gradient.square().sum((1, 2, 3)) for gradient in gradients]).mean(0)
    penalty.mean().backward()
    found["penalty"] = penalty.detach()
    found["gradient of the penalty"] = discriminator.from_image.weight.grad.clone()
    return found


def speed(device: torch.device, quick: bool) -> Iterator[tuple[str, ...]]:
    """A line a side, width and batch: images/s eager and compiled, share of the matrix rate, memory."""
    roof = matrix_rate(device, torch.bfloat16)
    for side, width, batch in QUICK if quick else CELLS:
        options = argparse.Namespace(
            resolution=side, width=width, batch=batch, attention=[min(32, side)], minibatch_stddev="every"
        )
        options.precision, options.device = "auto", device.type
        cells = []
        for kind in (Ours, Compiled):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                trained = kind(options)
                timed(trained.step, WARM_UP * 2, device)
                rate = trained.window * batch / timed(trained.step, trained.window, device)
                share = rate * trained.flop() / batch / roof if kind is Ours else None
                cells.append(f"{rate:.0f}" + (f", {share:.0%}" if share is not None else ""))
            except RuntimeError as error:  # out of memory, or what torch.compile does not know
                cells.append(str(error).splitlines()[0][:60])
            if kind is Ours:
                memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
        yield str(side), str(width), str(batch), *cells, f"{memory:.1f}"


def resumed(device: torch.device, quick: bool) -> str:
    """Largest difference of weights between a training that was interrupted and one that was not."""
    network = NetworkConfig(16 if quick else 128, width=16, classes=CLASSES, attention_resolutions=(16,))
    images, labels = films(network.resolution), np.arange(FILMS) % CLASSES
    config = TrainConfig(kimg=0.16, batch=4, tick_kimg=0.04, device=device.type)

    class Killed(Exception):
        pass

    def kill(tick: Tick) -> None:
        if tick.kimg >= 0.12:
            raise Killed

    with tempfile.TemporaryDirectory() as folder:
        there = {"checkpoints": Path(folder), "checkpoint_seconds": 0.0}
        with suppress(Killed):
            train(images, labels, network, config, kill, **there)  # type: ignore[arg-type]
        begun: list[float] = []
        again = train(
            *(images, labels, network, config),
            on_resume=lambda kimg, history: begun.append(kimg),
            **there,  # type: ignore[arg-type]
        )
    whole = train(images, labels, network, config)
    pairs = zip(again.parameters(), whole.parameters(), strict=True)
    difference = max((a - b).abs().max().item() for a, b in pairs)
    return (
        f"resumed at {begun[0]:g} kimg; largest difference of a weight from an undisturbed training: {difference:.1e}"
    )


def quality(device: torch.device, quick: bool) -> Iterator[tuple[str, ...]]:
    """A line a tick of a training from random weights."""
    teacher, config = load_generator(packaged("msg_sagan", 128))
    side, each = teacher.config.resolution, 40 if quick else 1500
    images = np.concatenate([sample(teacher, label, each, seed=1) for label in range(len(config["classes"]))])
    labels = np.repeat(np.arange(len(config["classes"])), each)
    kimg = 0.04 if quick else 60.0
    network = NetworkConfig(side, classes=len(config["classes"]), attention_resolutions=(32,))
    of = TrainConfig(kimg=kimg, tick_kimg=kimg / 4, batch=4 if quick else 16, device=device.type, max_seconds=150)
    guard = CollapseGuard(images, labels, config["classes"], warm_up(kimg))
    ticks: list[Tick] = []
    train(images, labels, network, of, ticks.append, guard=guard)
    for tick in ticks:
        assert tick.reading is not None
        figures = f"{tick.reading.frechet:.1f} ({tick.reading.frechet_floor:.1f})"
        yield f"{tick.kimg:g}", f"{tick.seconds:.0f}", f"{tick.images_per_second:.0f}", figures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "there is no CUDA device here; --device cpu --quick shows that the script runs\n")
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n")
    parts: tuple[tuple[str, Callable[[], str]], ...] = (
        (
            "Relative error against fp64",
            lambda: table(["", "fp32", "bf16"], correct(device, options.quick)),
        ),
        (
            "Speed",
            lambda: table(
                ["side, px", "width", "batch", "images/s, share of the bf16 rate", "compiled, images/s", "GiB"],
                speed(device, options.quick),
            ),
        ),
        ("Resuming", lambda: resumed(device, options.quick)),
        (
            "Quality",
            lambda: table(["kimg", "seconds", "images/s", "Fréchet (floor)"], quality(device, options.quick)),
        ),
    )
    failed = False
    for title, part in parts:
        started = time.perf_counter()
        try:
            text = part()
        except Exception:  # the other parts are worth their minutes all the same
            failed, text = True, traceback.format_exc()
        print(f"## {title} ({time.perf_counter() - started:.0f} s)\n\n{text}\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
