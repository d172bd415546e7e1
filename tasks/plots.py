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
