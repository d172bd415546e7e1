"""One style for all plots, and how they become PNG or SVG."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by readers with colour blindness too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A"
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
