"""The plots of the page: curves of classifiers, how the trainings went, sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.shown.plots import BLUE, GREEN, GREY, ORANGE, RED, new_figure

SERIES = (BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9")
ARMS = {  # colour and dashes
    "real": ("#000000", ":"),
    "class_weight": ("#CC79A7", ":"),
    "duplicate": (BLUE, "--"),
    "classic": (GREEN, "-."),
    "two_stage_classic": (GREEN, "--"),
    "classic+phantom": (GREY, "-."),
    "two_stage_phantom": (GREY, "--"),
    "msg_gan": (ORANGE, "-"),
    "msg_sagan": (RED, "-"),
    "classic+msg_gan": (ORANGE, "--"),
    "classic+msg_sagan": ("#56B4E9", "-"),
    "two_stage_msg_gan": (ORANGE, "-."),
    "two_stage_msg_sagan": (RED, "-."),
}
PANEL = 3.5, 2.8  # inches: read at this size on a telephone, and two or three beside each other on a desk
CURVES: dict[str, dict[str, str]] = {
    "roc": {"xlabel": "false positive rate", "ylabel": "true positive rate"},
    "pr": {"xlabel": "recall", "ylabel": "precision"},
}


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


def spectrum(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Radially averaged power of one class on logarithmic axes: {model: its `spectrum` in reports/quality/NAME.json}.

    Real films with the band that nine in ten of them lie in; the highest octave is shaded.
    """
    figure, (axes,) = new_figure(*PANEL)
    real = next(iter(found.values()))
    colour, dashes = arm_style("real")
    axes.axvspan(0.25, 0.5, color="#F2F2F2", zorder=0)
    axes.fill_between(real["frequency"], real["real_low"], real["real_high"], color=colour, alpha=0.13, linewidth=0)
    axes.plot(real["frequency"], real["real"], color=colour, linestyle=dashes, linewidth=1.6)
    for name, curves in found.items():
        colour, dashes = arm_style(name)
        axes.plot(curves["frequency"], curves["synthetic"], color=colour, linestyle=dashes, linewidth=1.4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"1/{1 / x:.0f}"))
    axes.set(xlabel="cycles a pixel", ylabel="power, dB")
    return figure


def losses(history: pd.DataFrame) -> Figure:
    """Losses of both networks over thousands of images shown."""
    figure, axes = _over_training(history, "loss")
    axes.plot(history["kimg"], history["loss_generator"], color=BLUE)
    axes.plot(history["kimg"], history["loss_discriminator"], color=RED, linestyle="--")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    return figure


def of_classes(history: pd.DataFrame, what: str, words: str) -> Figure:
    """A reading of the guard by class, `what`, and that of real films in the same colour as dots, over training."""
    figure, axes = _over_training(history, words)
    for k, label in enumerate(guarded_classes(history)):
        axes.plot(history["kimg"], history[f"{what}.{label}"], color=SERIES[k % len(SERIES)], marker="o", ms=3)
        axes.plot(history["kimg"], history[f"{what}_real.{label}"], color=SERIES[k % len(SERIES)], linestyle=":")
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


def validation(trainings: Sequence[Mapping[str, Any]], arm: str) -> Figure:
    """Validation loss over the optimiser steps of an arm's trainings: what was read, thin, and the lowest so far.

    Dotted in a first stage; a ring where the weights are from, a cross at the end of a training that was still gaining.
    In grey the lowest of the other arms.
    """
    figure, (axes,) = new_figure(*PANEL)
    colour, _ = arm_style(arm)
    for found in sorted(trainings, key=lambda found: found["arm"] == arm):
        steps, losses = np.array(found["steps"]), _numbers(found["losses"])
        first = steps <= found["first_stage"]
        lowest = np.fmin.accumulate(np.where(first, np.nan, losses))
        if found["arm"] != arm:
            axes.plot(steps, lowest, color="#CFCFCF", linewidth=0.6)
            continue
        axes.plot(steps[first], losses[first], color=colour, linewidth=1.2, linestyle=":")
        axes.plot(steps[~first], losses[~first], color=colour, linewidth=0.8, alpha=0.4)
        axes.plot(steps, lowest, color=colour, linewidth=1.8)
        axes.plot(found["step"], losses[steps == found["step"]], "o", color=colour, markerfacecolor="white", ms=5)
        if found["gaining"]:
            axes.plot(steps[-1], lowest[-1], "x", color="black", ms=8, markeredgewidth=2)
    axes.set(xlabel="optimiser steps", ylabel="validation loss")
    axes.set_xlim(0, 1.03 * max(found["steps"][-1] for found in trainings))
    axes.set_ylim(0)
    return figure


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
