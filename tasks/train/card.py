"""What a trained generator shows of itself: its pictures and its model card."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch
from PIL import Image

from model.gan.networks import Generator
from model.gan.sampling import attention_blocks, attention_maps, between, latents, render
from model.training.guard import Reading
from model.training.loop import Tick
from tasks.shown.pictures import mosaic, picture_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID_COLUMNS, STRIP_COLUMNS = 8, 10
POINTS = ((0.35, 0.28), (0.35, 0.72), (0.6, 0.5), (0.9, 0.12))  # of an upright chest: lungs, middle, a corner below
DISC = {"boxstyle": "circle,pad=0.15", "facecolor": "#56B4E9", "edgecolor": "black", "linewidth": 0.6}
TEMPLATE = Path(__file__).with_name("card.md.jinja")


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
    from tasks.shown import plots  # matplotlib takes a second to import, and only a generator with attention needs it

    rows, z = [], _latents(generator, 1)
    for label, name in enumerate(classes):
        (image,), maps = attention_maps(generator, z, torch.tensor([label]), POINTS)
        for side, block in attention_blocks(generator).items():
            rows.append((f"{name}\n{side}×{side} px\ngamma {block.gamma.item():.3g}", image, maps[side][0]))
    return plots.png(attention_figure(rows, POINTS), dpi=100)


def _latents(generator: Generator, count: int) -> torch.Tensor:
    return latents(0, 0, count, seed=0, dim=generator.config.inputs)


def _grid(generator: Generator, classes: list[str], z: torch.Tensor) -> bytes:
    rows = [render(generator, z, torch.full((len(z),), label)) for label in range(len(classes))]
    return picture_png(mosaic(np.concatenate(rows), len(z)))


def attention_figure(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray]], points: Sequence[tuple[float, float]], side: int = 160
) -> "Figure":
    """Where attention looks: a row each of a name, an image (H, W) uint8 and its maps (len(points), h, w).

    First the image with its points (down, right, in [0, 1)), then a tile a point: the map as heat over the darkened
    image, up to the tile's own highest weight, which is written below as a multiple of the even one. Tiles are `side`
    pixels at 100 dpi.
    """
    from matplotlib import colormaps

    from tasks.shown import plots

    inferno = colormaps["inferno"]
    across, down = side + 6, side + 18
    canvas = np.ones((len(rows) * down, (1 + len(points)) * across, 3))
    figure, (axes,) = plots.new_figure(width=1.4 + canvas.shape[1] / 100, height=0.4 + canvas.shape[0] / 100)
    for row, (_, image, maps) in enumerate(rows):
        grey = np.asarray(Image.fromarray(image).resize((side, side)))[..., None].repeat(3, 2) / 255
        squares = (Image.fromarray(weights / weights.max()) for weights in maps)  # a key is a square, not a blur
        heats = [np.asarray(square.resize((side, side), Image.Resampling.NEAREST)) for square in squares]
        tiles = [grey, *(grey * (1 - heat[..., None]) / 2 + inferno(heat)[..., :3] * heat[..., None] for heat in heats)]
        for column, tile in enumerate(tiles):
            top, left = row * down, column * across
            canvas[top : top + side, left : left + side] = tile
            for k, (y, x) in enumerate(points, start=1):
                if column in (0, k):
                    place = left + x * side, top + y * side
                    axes.annotate(
                        str(k), place, color="black", fontsize=7, ha="center", va="center_baseline", bbox=DISC
                    )
            if column:
                peak = maps[column - 1].max() * maps[column - 1].size
                axes.text(left + side / 2, top + side + 2, f"{peak:.3g} × even", ha="center", va="top", fontsize=8)
    axes.imshow(canvas, interpolation="nearest")
    names = ["image", *(f"from {k}" for k in range(1, 1 + len(points)))]
    axes.set_xticks([k * across + side / 2 for k in range(1 + len(points))], names)
    axes.set_yticks([k * down + side / 2 for k in range(len(rows))], [name for name, _, _ in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    figure.set_layout_engine("constrained", w_pad=0.1)  # the names at the left are cut off without
    return figure


def model_card(
    name: str,
    generator: Generator,
    films: Mapping[str, int],
    reading: Reading,
    last: Tick,
    machine: str,
    digest: str,
    beginning: str,
    settings: Mapping[str, Any],
) -> str:
    """What a user of the generator must know, in Markdown.

    `films`: how many of each class it learnt from. `reading` is of it, `last` the tick that ended training;
    `beginning` says with what weights it began.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        side=generator.config.resolution,
        classes=[{"label": label, "films": count} for label, count in films.items()],
        reading=reading,
        kimg=last.kimg,
        seconds=last.seconds,
        alarm=last.alarm,
        machine=machine,
        digest=digest,
        beginning=beginning,
        gammas={side: block.gamma.item() for side, block in attention_blocks(generator).items()},
        settings=settings,
    )


def machine(device: torch.device) -> str:
    """What a training ran on: the GPU, or the kind of CPU and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, threads: {torch.get_num_threads()})"
