"""Pictures: one style for all plots, and mosaics of radiographs."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette: told apart by readers with colour blindness too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
HEAT = matplotlib.colormaps["inferno"]
DISC = {"boxstyle": "circle,pad=0.15", "facecolor": "#56B4E9", "edgecolor": "black", "linewidth": 0.6}
SERIES = (BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9")
ARMS = {  # colour and dashes
    "real": ("#000000", ":"),
    "class_weight": ("#CC79A7", ":"),
    "duplicate": (BLUE, "--"),
    "classic": (GREEN, "-."),
    "msg_gan": (ORANGE, "-"),
    "msg_sagan": (RED, "-"),
    "classic+msg_sagan": ("#56B4E9", "-"),
}
PANEL = 3.5, 2.8  # inches: read at this size on a telephone, and two or three beside each other on a desk
CURVES: dict[str, dict[str, str]] = {
    "roc": {"xlabel": "false positive rate", "ylabel": "true positive rate"},
    "pr": {"xlabel": "recall", "ylabel": "precision"},
}
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


def svg(figure: Figure) -> bytes:
    """The figure as SVG with its letters as outlines, without a date inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
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


def curve(
    curves: Mapping[str, Mapping[str, Sequence[float | None]]], shown: Sequence[str], kind: Literal["roc", "pr"]
) -> Figure:
    """ROC or precision-recall curves of one class: {arm: {x, mean, low, high}}; the arms `shown` in their colours and
    with their bands, all others as thin grey lines."""
    figure, (axes,) = new_figure(*PANEL)
    for arm in (arm for arm in curves if arm not in shown):
        axes.plot(curves[arm]["x"], _numbers(curves[arm]["mean"]), color="#BDBDBD", linewidth=0.8)
    for arm in reversed([arm for arm in shown if arm in curves]):
        colour, dashes = arm_style(arm)
        lower, upper = _numbers(curves[arm]["low"]), _numbers(curves[arm]["high"])
        axes.fill_between(curves[arm]["x"], lower, upper, color=colour, alpha=0.13, linewidth=0)
        axes.plot(curves[arm]["x"], _numbers(curves[arm]["mean"]), color=colour, linestyle=dashes, linewidth=1.6)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), **CURVES[kind])
    return figure


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def arm_style(arm: str) -> tuple[str, str]:
    """The colour and the dashes of an arm, the same all over the page; told apart without colour too."""
    return ARMS.get(arm, (GREY, "-"))


def losses(history: pd.DataFrame) -> Figure:
    """Losses of both networks over thousands of images shown."""
    figure, axes = _over_training(history, "loss")
    axes.plot(history["kimg"], history["loss_generator"], color=BLUE)
    axes.plot(history["kimg"], history["loss_discriminator"], color=RED, linestyle="--")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    return figure


def variety(history: pd.DataFrame) -> Figure:
    """MS-SSIM of synthetic pairs of each class, and of real pairs in the same colour as dots, over training."""
    figure, axes = _over_training(history, "MS-SSIM of pairs")
    for k, label in enumerate(guarded_classes(history)):
        axes.plot(history["kimg"], history[f"ms_ssim.{label}"], color=SERIES[k % len(SERIES)], marker="o", ms=3)
        axes.plot(history["kimg"], history[f"ms_ssim_real.{label}"], color=SERIES[k % len(SERIES)], linestyle=":")
    axes.set_ylim(0, 1.02)
    return figure


def guarded_classes(history: pd.DataFrame) -> list[str]:
    """Of which classes a history holds what the guard has read, in the order of their colours."""
    return [name.removeprefix("ms_ssim.") for name in map(str, history.columns) if name.startswith("ms_ssim.")]


def distance(history: pd.DataFrame) -> Figure:
    """The guard's Fréchet distance over training, on a logarithmic axis, and its floor."""
    figure, axes = _over_training(history, "Fréchet, guard's features")
    axes.plot(history["kimg"], history["frechet"], color=BLUE, marker="o", ms=3)
    axes.plot(history["kimg"], history["frechet_floor"], color=GREEN, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.yaxis.set_minor_formatter(ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    return figure


def _over_training(history: pd.DataFrame, name: str) -> tuple[Figure, Axes]:
    """A panel over thousands of images shown, with a mark where the guard ended the training."""
    figure, (axes,) = new_figure(*PANEL)
    axes.set(xlabel="thousand images shown", ylabel=name)
    for kimg in alarms(history)["kimg"]:
        axes.axvline(kimg, color="black", linewidth=1.2, linestyle="-.")
        axes.plot(kimg, 1, "v", color="black", transform=axes.get_xaxis_transform(), clip_on=False, ms=7)
    return figure, axes


def alarms(history: pd.DataFrame) -> pd.DataFrame:
    """The rows in which the guard raised an alarm, with its sentence in `alarm`."""
    if "alarm" not in history:
        return history.iloc[:0].assign(alarm="")
    return history[history["alarm"].notna()]


def sweep(rows: Sequence[Mapping[str, Any]], key: str, name: str, reference: Mapping[str, float]) -> Figure:
    """rare_auprc of each arm over `key`, with intervals; `reference` are values drawn as lines across: {arm: value}.

    Arms stand beside each other at a value, for their intervals overlap.
    """
    figure, (axes,) = new_figure(*PANEL)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for place, arm in enumerate(arms):
        points = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row[key])
        mean, low, high = (_numbers([row["rare_auprc"][k] for row in points]) for k in ("mean", "low", "high"))
        x = np.array([row[key] for row in points]) + 0.018 * (place - (len(arms) - 1) / 2)
        colour, dashes = arm_style(arm)
        axes.vlines(x, low, high, color=colour, alpha=0.4, linewidth=1.5)
        axes.plot(x, mean, color=colour, linestyle=dashes, marker="o", ms=3.5)
    for arm, value in reference.items():
        axes.axhline(value, color=arm_style(arm)[0], linewidth=1, linestyle=":")
    axes.set(xlabel=name, ylabel="AUPRC of the rare classes", xticks=sorted({row[key] for row in rows}))
    return figure
