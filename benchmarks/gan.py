"""Speed and memory of GAN training on random films, as a Markdown table; alone or beside BMSG-GAN.

python -m benchmarks.gan --resolution 64 --width 128 --batch 16 --attention 32
python -m benchmarks.gan --peer DIR     the same for a checkout of akanimax/BMSG-GAN
python -m benchmarks.gan --compiled     the same for our networks behind torch.compile

Each side trains in a fresh process, one after the other, and that several times. It takes its own default settings but
for resolution, width, latent size (the width) and batch. Needs torch, numpy and safetensors only.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from model.gan.networks import NetworkConfig
from model.training.config import TrainConfig
from model.training.device import has_bf16
from model.training.trainer import Trainer

FILMS = 256  # what they show does not change the speed
WARM_UP = 4  # steps before the first window
ADAPTED = (
    "BMSG-GAN runs its own networks, step functions, loss (relativistic-average hinge), optimisers and EMA, in fp32. "
    "Adapted: films come from memory instead of its loader, each grey one as three equal channels, and betas are two "
    "floats; on a GPU it runs without DataParallel."
)


class Side:
    """One of the two: something to step, and what is to be known of it."""

    step: Callable[[], Any]
    window: int  # steps of a window; those of both sides take about the same time
    networks: tuple[torch.nn.Module, torch.nn.Module]  # G, D

    def flop(self) -> float:
        """Floating-point operations of a mean step. Takes steps."""
        return count(self.step)


class Ours(Side):
    """The trainer of model/."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.trainer = Trainer(films(options.resolution), np.zeros(FILMS, np.int64), *configs(options))
        self.step, self.window = self.trainer.step, self.trainer.config.penalty_interval  # one penalty in each
        self.networks = self.trainer.generator, self.trainer.discriminator

    def flop(self) -> float:
        self.trainer.steps = self.window
        penalised, plain = count(self.step), count(self.step)
        return plain + (penalised - plain) / self.window


class Compiled(Ours):
    """The same with both networks behind torch.compile, but for the penalty: of that it knows no second derivative."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        for network in self.networks:
            network.forward = self._unless_penalty(network.forward)  # type: ignore[method-assign]
        discriminator = self.trainer.discriminator
        discriminator.features = self._unless_penalty(discriminator.features)  # type: ignore[method-assign]

    @staticmethod
    def _unless_penalty(eager: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(eager)

        def forward(inputs: Any, *others: Any) -> Any:
            penalised = isinstance(inputs, list) and all(x.is_leaf and x.requires_grad for x in inputs)
            return (eager if penalised else compiled)(inputs, *others)

        return forward


class Peer(Side):
    """BMSG-GAN: what its MSG_GAN.train does with a batch, with the defaults of its train.py."""

    window = 4

    def __init__(self, options: argparse.Namespace) -> None:
        sys.path.insert(0, str(options.peer / "sourcecode"))
        from MSG_GAN.GAN import MSG_GAN  # type: ignore[import-not-found]
        from MSG_GAN.Losses import RelativisticAverageHingeGAN  # type: ignore[import-not-found]

        torch.backends.cudnn.benchmark = True
        device = configs(options)[1].torch_device()
        if device.type == "cuda":
            device = torch.device("cuda", 0)  # with plain "cuda" it takes DataParallel, which gains nothing on one GPU
        self.gan = MSG_GAN(depth=options.resolution.bit_length() - 2, latent_size=options.width, device=device)
        self.networks = self.gan.gen, self.gan.dis
        for network in self.networks:
            network.train()
        self.optimizers = [torch.optim.Adam(network.parameters(), 0.003, (0.0, 0.99)) for network in self.networks]
        self.loss = RelativisticAverageHingeGAN(self.gan.dis)
        self.films = torch.from_numpy(films(options.resolution)).to(device)
        self.batch = options.batch

    def step(self) -> None:
        chosen = self.films[torch.randint(FILMS, (self.batch,), device=self.films.device)]
        images = (chosen.float() / 127.5 - 1)[:, None].repeat(1, 3, 1, 1)
        scales = [images, *(F.avg_pool2d(images, 2**i) for i in range(1, self.gan.depth))][::-1]
        z = torch.randn(self.batch, self.gan.latent_size, device=images.device)
        z = z / z.norm(dim=-1, keepdim=True) * self.gan.latent_size**0.5
        self.gan.optimize_discriminator(self.optimizers[1], z, scales, self.loss)
        self.gan.optimize_generator(self.optimizers[0], z, scales, self.loss)


class Flop(TorchDispatchMode):
    """Sums up the operations of convolutions and matrix products by torch's own formulas.

    torch's FlopCounterMode would do, but follows modules too and fails in the autograd.grad of a penalty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def count(step: Callable[[], Any]) -> int:
    """Floating-point operations of one step."""
    with Flop() as counted:
        step()
    return counted.total


def films(side: int) -> np.ndarray:
    """(FILMS, side, side) uint8."""
    return np.random.default_rng(0).integers(0, 256, (FILMS, side, side), np.uint8)


def configs(options: argparse.Namespace) -> tuple[NetworkConfig, TrainConfig]:
    """Both networks and the training. Raises ValueError for what they cannot be."""
    network = NetworkConfig(
        options.resolution,
        options.width,
        latent_dim=options.width,
        attention_resolutions=tuple(options.attention),
        minibatch_stddev=options.minibatch_stddev,
    )
    return network, TrainConfig(batch=options.batch, precision=options.precision, device=options.device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a product of two large square matrices, the median of several."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    seconds = [timed(lambda: a @ b, 4, device) / 4 for _ in range(7)]
    return 2 * n**3 / median(seconds[1:])


def timed(step: Callable[[], Any], times: int, device: torch.device) -> float:
    """Seconds, by the wall clock."""
    start = time.perf_counter()
    for _ in range(times):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """What a process of one side finds out."""
    device = configs(options)[1].torch_device()
    side = {"ours": Ours, "compiled": Compiled, "peer": Peer}[options.side](options)
    timed(side.step, WARM_UP, device)
    seconds = [timed(side.step, side.window, device) for _ in range(options.windows)]
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Without its instructions a product in bf16 takes minutes, and says nothing.
    dtypes = {"bf16": torch.bfloat16} if has_bf16(device) else {}
    dtypes["fp32"] = torch.float32
    return {
        "rates": [side.window * options.batch / s for s in seconds],
        "memory": memory,  # before what follows, which takes some too
        "parameters": [sum(p.numel() for p in network.parameters()) for network in side.networks],
        "flop": side.flop() / options.batch,
        "matrix": {name: matrix_rate(device, dtype) for name, dtype in dtypes.items()},
    }


def run(side: str) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.gan", *sys.argv[1:], "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the process of {side} failed; what it said is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def column(rounds: list[dict[str, Any]]) -> list[str]:
    """A side's cells of the table, in the order of ROWS."""
    rates = sorted(rate for found in rounds for rate in found["rates"])
    rate, flop = median(rates), rounds[0]["flop"]
    products = ([found["matrix"].get(name) for found in rounds] for name in ("bf16", "fp32"))
    matrix = [median(some) if all(some) else None for some in products]
    return [
        f"{rate:.1f}",
        f"{rates[0]:.1f} to {rates[-1]:.1f}",
        f"{1000 / rate:.1f}",
        " + ".join(f"{n / 1e6:.2f}" for n in rounds[0]["parameters"]),
        f"{flop / 1e9:.2f}",
        f"{rate * flop / 1e12:.3f}",
        *(f"{rate * flop / r:.0%} of {r / 1e12:.2f}" if r else "–" for r in matrix),
        f"{max(found['memory'] for found in rounds) / 2**20:.0f}",
    ]


ROWS = (
    "images/s, median of the windows",
    "lowest to highest window",
    "seconds per 1,000 images",
    "parameters of generator + discriminator, millions",
    "GFLOP an image, training",
    "TFLOP/s",
    "of the TFLOP/s of a product of matrices, bf16",
    "of the same, fp32",
    "peak memory, MiB",
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--width", type=int, default=128, help="channels at 32 px and below")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--attention", type=int, nargs="*", default=[], help="resolutions, e.g. 32; none: MSG-GAN")
    parser.add_argument(
        "--minibatch-stddev", default="every", choices=("every", "last"), help="ours; BMSG-GAN's is last"
    )
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"), help="ours")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of a process on the CPU; by default all")
    parser.add_argument("--windows", type=int, default=3, help="timed ones in each process")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes of each side")
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout of BMSG-GAN")
    parser.add_argument("--compiled", action="store_true", help="ours behind torch.compile beside ours without")
    parser.add_argument("--side", choices=("ours", "compiled", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer and not (options.peer / "sourcecode" / "MSG_GAN" / "GAN.py").is_file():
        parser.exit(2, f"{options.peer} is no checkout of BMSG-GAN: it lacks sourcecode/MSG_GAN/GAN.py\n")
    if options.peer and options.width & (options.width - 1):
        parser.exit(2, f"BMSG-GAN takes powers of two as width, not {options.width}\n")
    for name in ("threads", "windows", "rounds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.exit(2, f"--{name} must be at least 1\n")
    try:
        configs(options)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def main() -> None:
    """The command line."""
    options = parse()
    if options.side:
        print(json.dumps(measure(options)))
        return
    sides = ["ours", *(["compiled"] if options.compiled else []), *(["peer"] if options.peer else [])]
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for k in range(options.rounds):
        for side in sides if k % 2 == 0 else reversed(sides):  # neither is always the first
            rounds[side].append(run(side))

    config = configs(options)[1]
    on_gpu = config.torch_device().type == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads of {platform.machine()}"
    print(
        f"{where}, torch {torch.__version__}; {options.resolution} px, width {options.width}, batch {options.batch}, "
        f"attention {', '.join(map(str, options.attention)) or 'none'}, {'bf16' if config.bf16() else 'fp32'}; "
        f"{options.rounds} rounds of {options.windows} windows. "
        f"Memory is {'what torch had allocated on the GPU' if on_gpu else 'resident, of the whole process'}.\n"
    )
    cells = zip(ROWS, *(column(found) for found in rounds.values()), strict=True)
    for row in [["", *(s.replace("peer", "BMSG-GAN") for s in sides)], ["---"] * (len(sides) + 1), *cells]:
        print("| " + " | ".join(row) + " |")
    medians = {side: [median(found["rates"]) for found in rounds[side]] for side in sides}
    for side in sides[1:]:
        ratios = sorted(a / b for a, b in zip(medians["ours"], medians[side], strict=True))
        of = side.replace("peer", "BMSG-GAN")
        print(f"\nimages/s, ours over {of}: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, one a round).")
    if options.peer:
        print(f"\n{ADAPTED}")


if __name__ == "__main__":
    main()
