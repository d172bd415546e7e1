"""The image measures on real films, as Markdown tables: which sees known damage, how well, and what they cost.

python -m benchmarks.measures FOLDER     a folder with labels.csv (path, patient_id, label) and the films it names

Takes some minutes; the timings are of one thread for MS-SSIM and the two-sample test and of two for the rest.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim
from torch import nn
from torch.nn import functional as F

from benchmarks.markdown import table
from model.measures.encoder import FEATURES, Encoder, EncoderConfig, encode, train_encoder
from model.measures.manifold import kid, manifold
from model.measures.similarity import (
    MS_SSIM_WEIGHTS,
    balanced_pairs,
    frechet_distance,
    ms_ssim,
    ms_ssim_pairs,
    ms_ssim_scales,
)
from tasks.params import Quality
from tasks.quality import stage
from tasks.quality.controls import blur, noise
from tasks.quality.two_sample import Sets, told_apart

SIDE, HALF, REPEATS, SEEDS = 64, 300, 4, (0, 1)
FEW, SEVERAL = 30, 120  # films of a class in the table of the two-sample test
NORMAL, OTHER = "normal", "bacterial_pneumonia"


def main() -> None:
    """Everything, one table below the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(2)
    films, patients = read(folder)
    print(f"Films: {', '.join(f'{len(some)} {label}' for label, some in films.items())}, {SIDE} px.\n")
    print(encoders(films), "\n")
    print(costs(), "\n")
    torch.set_num_threads(1)
    print(told(films, patients), "\n")
    print(speed())


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Films (N, SIDE, SIDE) uint8 by class, in random order, and their patients (N,)."""
    labels = pd.read_csv(folder / "labels.csv").sample(frac=1, random_state=0)
    result, patients = {}, {}
    for label, rows in labels.groupby("label"):
        films = [cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE) for path in rows["path"][: 4 * HALF]]
        result[str(label)] = np.stack([cv2.resize(film, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for film in films])
        patients[str(label)] = rows["patient_id"].to_numpy()[: len(films)]
    return result, patients


Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # of the films (N, H, W) uint8 of one half


def damages(other: np.ndarray) -> dict[str, list[Damage]]:
    """What is done to real films, each in three degrees; `other` are films of another class."""

    def mixed(share: float) -> Damage:
        return lambda x, rng: np.concatenate(
            [x[round(share * len(x)) :], other[rng.permutation(len(other))[: round(share * len(x))]]]
        )

    return {
        "blur, sigma 0.5, 1, 2 px": [lambda x, _, s=s: blur(x, s) for s in (0.5, 1, 2)],  # type: ignore[misc]
        "noise, sigma 4, 8, 16": [lambda x, rng, s=s: noise(x, rng, s) for s in (4, 8, 16)],  # type: ignore[misc]
        "shift, 2, 4, 8 px": [lambda x, _, s=s: np.roll(x, s, axis=2) for s in (2, 4, 8)],  # type: ignore[misc]
        "another class, 10, 30, 100 %": [mixed(share) for share in (0.1, 0.3, 1.0)],
        "50, 10, 1 films repeated": [lambda x, _, n=n: np.resize(x[:n], x.shape) for n in (50, 10, 1)],  # type: ignore[misc]
    }


def encoders(films: dict[str, np.ndarray]) -> str:
    """Fréchet distance over its floor by kind and degree of damage, and how often the four are in their order."""
    labels = np.concatenate([np.full(len(some), k) for k, some in enumerate(films.values())])
    images = np.concatenate(list(films.values()))
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "without labels": lambda seed: train_encoder(images, EncoderConfig(seed=seed))[0],
        "with labels": lambda seed: supervised(images, labels, seed),
    }
    rows, right = [], dict.fromkeys(kinds, 0.0)
    results = {name: [ranks(train(seed), films) for seed in SEEDS] for name, train in kinds.items()}
    for damage in results["with labels"][0]:
        for name, of_seeds in results.items():
            ratios = np.mean([one[damage][0] for one in of_seeds], axis=0)
            ordered = float(np.mean([one[damage][1] for one in of_seeds]))
            right[name] += ordered / 5
            rows.append((damage, name, *(f"{ratio:.2f}" for ratio in ratios), f"{100 * ordered:.0f} %"))
    rows += [("all", name, "", "", "", f"{100 * share:.0f} %") for name, share in right.items()]
    return table(["damage", "encoder", "first", "second", "third: distance / floor", "in order"], rows)


def ranks(network: nn.Module, films: dict[str, np.ndarray]) -> dict[str, tuple[list[float], float]]:
    """By damage: distance over floor at the three degrees, and the share of neighbours on the scale in order."""
    rng, real = np.random.default_rng(0), films[NORMAL]
    features = encode(network, real)
    result = {}
    orders = [rng.permutation(len(real)) for _ in range(REPEATS)]
    for name, degrees in damages(films[OTHER]).items():
        ladder = np.empty((REPEATS, 4))
        for row, order in zip(ladder, orders, strict=True):
            half, rest = order[:HALF], order[HALF : 2 * HALF]
            damaged = [encode(network, damage(real[rest], rng)) for damage in degrees]
            row[:] = [frechet_distance(features[half], some) for some in (features[rest], *damaged)]
        result[name] = list(ladder[:, 1:].mean(0) / ladder[:, 0].mean()), float((np.diff(ladder) > 0).mean())
    return result


def supervised(images: np.ndarray, labels: np.ndarray, seed: int, config: EncoderConfig = EncoderConfig()) -> nn.Module:
    """The same network, trained as long to tell the classes apart."""
    torch.manual_seed(seed)
    network, head = Encoder(), nn.Linear(FEATURES, int(labels.max()) + 1)
    parameters = [*network.layers.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps)
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(config.steps):
        chosen = torch.randint(len(pixels), (2 * config.batch,))  # it passes each film once, the other one twice
        loss = F.cross_entropy(head(network(pixels[chosen].float()[:, None] / 255)), targets[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def told(films: dict[str, np.ndarray], patients: dict[str, np.ndarray]) -> str:
    """What the two-sample test, frechet_xray and the spectra say of films of other patients and of damaged ones.

    Means of two classes; the seconds are of the two-sample test with its floor and all its controls.
    """
    network = train_encoder(np.concatenate(list(films.values())), EncoderConfig())[0]
    rows = []
    for count in (FEW, SEVERAL):
        classes = {}
        for label in (NORMAL, OTHER):
            first = np.isin(patients[label], np.unique(patients[label])[::2])
            real, others = np.flatnonzero(first)[:count], np.flatnonzero(~first)[:count]
            classes[label] = Sets(films[label][real], patients[label][real], films[label][others])
        start = time.process_time()
        aurocs = told_apart(classes, Quality())
        seconds = time.process_time() - start
        found = []
        for label, some in classes.items():
            entries = stage.measure(some.real, some.synthetic, network, Quality(), None, some.patients)["measures"]
            value, floor, damaged = aurocs[label]
            auroc = {"value": value[0], "floor": floor[0], "damaged": damaged}
            named = (auroc, *(entries[name] for name in ("frechet_xray", "excess_power", "grid_power")))
            found.append([[entry["value"], entry["floor"], *entry["damaged"].values()] for entry in named])
        numbers = np.mean(found, axis=0)
        numbers[1] /= numbers[1, 1]  # the Fréchet distance, over its floor
        for kind, row in zip(("films of other patients", "the floor", *damaged), numbers.T, strict=True):
            rows.append((count, kind.replace("_", " "), *(f"{number:.2f}" for number in row), f"{seconds:.0f}"))
    header = ["films a class", "beside real films", "two-sample AUROC", "frechet_xray / floor", "excess_power, dB"]
    return table([*header, "grid_power, dB", "seconds of CPU"], rows)


def costs() -> str:
    """Time and memory of precision, recall, density and coverage, and of KID, of 10,000 and 10,000 features."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10_000, FEATURES)), rng.normal(size=(10_000, FEATURES)) * 1.05
    before = peak_mb()
    rows = []
    for name, measure in (("precision, recall, density, coverage", manifold), ("KID, 20 subsets of 1,000", kid)):
        start, used = time.perf_counter(), time.process_time()
        measure(a, b)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        rows.append((name, f"{seconds:.1f}", f"{used:.1f}", f"{peak_mb() - before:.0f}"))
    return table(["10,000 x 10,000, 64 features, two threads", "seconds", "seconds of CPU", "MB more at most"], rows)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(pairs: int = 1000, side: int = 128, rounds: int = 3) -> str:
    """MS-SSIM of pairs of films, ours and pytorch-msssim's in turn; the best of some rounds each."""
    torch.manual_seed(0)
    coarse = F.interpolate(torch.rand(pairs, 1, 16, 16), side, mode="bilinear")
    images = ((0.8 * coarse + 0.1 * torch.rand(coarse.shape))[:, 0] * 255).byte().numpy()
    index = balanced_pairs(pairs, pairs)

    def floats(ends: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images[ends]).float()[:, None] / 255

    ours = {
        "ours, tensors of pairs": lambda: ms_ssim(floats(index[:, 0]), floats(index[:, 1])),
        "ours, pairs of 1,000 films": lambda: torch.from_numpy(ms_ssim_pairs(images, pairs)),
        "ours, pairs of 200 films": lambda: torch.from_numpy(ms_ssim_pairs(images[: len(images) // 5], pairs)),
    }
    theirs = {
        "pytorch-msssim, batches of 64": lambda: torch.cat(
            [reference(*(floats(part[:, k]) for k in (0, 1))) for part in np.array_split(index, pairs // 64)]
        ),
        "pytorch-msssim, one batch": lambda: reference(floats(index[:, 0]), floats(index[:, 1])),
    }
    best = dict.fromkeys([*theirs, *ours], float("inf"))
    values = {}
    for _ in range(rounds):
        for name, run in {**theirs, **ours}.items():
            start = time.perf_counter()
            values[name] = run()
            best[name] = min(best[name], time.perf_counter() - start)
    expected = values["pytorch-msssim, one batch"]
    apart = max(float((values[name] - expected).abs().max()) for name in list(ours)[:2])
    base = min(best[name] for name in theirs)
    rows = [(name, f"{1000 * seconds / pairs:.2f}", f"{base / seconds:.1f}") for name, seconds in best.items()]
    return table([f"{pairs:,} pairs of {side}², one thread", "ms a pair", "times as fast as its best"], rows) + (
        f"\n\nLargest difference from pytorch-msssim: {apart:.1e}."
    )


def reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """MS-SSIM by the functions of pytorch-msssim; its own loop insists on five scales, for which 128 px are too few."""
    scales = ms_ssim_scales(a.shape[-1])
    window = _fspecial_gauss_1d(11, 1.5).repeat(1, 1, 1, 1)
    weights = np.array(MS_SSIM_WEIGHTS[:scales])
    result = torch.ones(len(a))
    for scale, weight in enumerate(weights / weights.sum()):
        ssim, structure = _ssim(a, b, data_range=1, win=window, size_average=False)
        result = result * (ssim if scale == scales - 1 else structure)[:, 0].relu() ** weight
        if scale < scales - 1:
            a, b = (F.avg_pool2d(x, 2) for x in (a, b))
    return result


if __name__ == "__main__":
    main()
