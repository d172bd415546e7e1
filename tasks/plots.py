"""Pictures: one style for all plots, and mosaics of radiographs."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette: told apart by readers with colour blindness too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
HEAT = matplotlib.colormaps["inferno"]
DISC = {"boxstyle": "circle,pad=0.15", "facecolor": "#56B4E9", "edgecolor": "black", "linewidth": 0.6}
Interval = Mapping[str, Any]  # mean, low, high: numbers or None
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "svg.hashsalt": "xraysynth",  # the same plot gives the same bytes
}
matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]


def new_figure(width: float = 6.4, height: float = 3.2, columns: int = 1) -> tuple[Figure, list]:
    """A figure of `columns` axes side by side, in inches; no global pyplot state is touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG bytes, without a date inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def mosaic(images: np.ndarray | Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """Images (N, H, W) uint8 in rows of `columns`, `gap` white pixels apart: (H', W') uint8."""
    n, height, width = np.shape(images)
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def picture_png(pixels: np.ndarray, zoom: int = 1) -> bytes:
    """(H, W) uint8 as PNG bytes, each pixel `zoom` times as large."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def attention(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray]], points: Sequence[tuple[float, float]], side: int = 160
) -> Figure:
    """Where attention looks: a row each of a name, an image (H, W) uint8 and its maps (len(points), h, w).

    First the image with its points (down, right, in [0, 1)), then a tile a point: the map as heat over the darkened
    image, up to the tile's own highest weight, which is written below as a multiple of the even one. Tiles are `side`
    pixels at 100 dpi.
    """
    across, down = side + 6, side + 18
    canvas = np.ones((len(rows) * down, (1 + len(points)) * across, 3))
    figure, (axes,) = new_figure(width=1.4 + canvas.shape[1] / 100, height=0.4 + canvas.shape[0] / 100)
    for row, (_, image, maps) in enumerate(rows):
        grey = np.asarray(Image.fromarray(image).resize((side, side)))[..., None].repeat(3, 2) / 255
        squares = (Image.fromarray(weights / weights.max()) for weights in maps)  # a key is a square, not a blur
        heats = [np.asarray(square.resize((side, side), Image.Resampling.NEAREST)) for square in squares]
        tiles = [grey, *(grey * (1 - heat[..., None]) / 2 + HEAT(heat)[..., :3] * heat[..., None] for heat in heats)]
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


def class_counts(counts: dict[str, int], plan: dict[str, int]) -> Figure:
    """Bars of the train images of each class, and of those that the plan adds."""
    names = sorted(counts, key=lambda name: -counts[name])
    figure, (axes,) = new_figure(height=0.9 + 0.5 * len(names))
    real = [counts[name] for name in names]
    added = [plan.get(name, 0) for name in names]
    axes.barh(names, real, color=BLUE, label="real")
    if any(added):
        axes.barh(names, added, left=real, color=ORANGE, label="to synthesise")
    for k, (n, extra) in enumerate(zip(real, added, strict=True)):
        axes.text(n + extra, k, f" {n}" + (f" + {extra}" if extra else ""), va="center")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("images in the train split")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def forest(differences: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Differences of the synthetic arms against arms without synthetic images: {arm: {control: {mean, low, high}}}."""
    rows = [(f"{arm} − {control}", d) for arm, controls in differences.items() for control, d in controls.items()]
    figure, (axes,) = new_figure(height=0.8 + 0.35 * len(rows))
    _intervals(axes, rows, BLUE)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("change of the area under the precision–recall curve, rare classes")
    return figure


def arms(measured: Mapping[str, Mapping[str, Interval]], measure: str) -> Figure:
    """One measure of every arm with its interval: {arm: {measure: {mean, low, high}}}."""
    rows = [(arm, values[measure]) for arm, values in measured.items()]
    figure, (axes,) = new_figure(height=0.8 + 0.35 * len(rows))
    _intervals(axes, rows, BLUE)
    axes.set_xlabel("area under the precision–recall curve, mean of the rare classes")
    return figure


def _intervals(axes: Axes, rows: list[tuple[str, Interval]], colour: str) -> None:
    for k, (_, value) in enumerate(rows):
        if value["mean"] is not None:
            axes.plot(value["mean"], k, "o", color=colour)
        if value["low"] is not None:
            axes.plot([value["low"], value["high"]], [k, k], "-", color=colour)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def training(histories: dict[str, pd.DataFrame]) -> Figure:
    """Losses of both networks, one panel a model, over thousands of images shown."""
    figure, panels = new_figure(width=8.0, height=2.8, columns=len(histories))
    for axes, (name, history) in zip(panels, histories.items(), strict=True):
        axes.plot(history["kimg"], history["loss_generator"], color=BLUE, label="generator")
        axes.plot(history["kimg"], history["loss_discriminator"], color=ORANGE, label="discriminator")
        axes.set_title(name)
        axes.set_xlabel("thousand images shown")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("loss")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure
