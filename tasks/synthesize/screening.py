"""What leaves out synthetic images that are copies of training films, and remembers what it left out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.memorisation import MIN_HELD_OUT, Memory, Screen, calibrate
from tasks import image_set
from tasks.errors import UserError

WORST = 8  # pairs to be shown
MOST_HELD_OUT = 1000  # films to calibrate on
FEW = 100  # held-out films, below which a share of 1 % cannot be counted
ANOTHER = "screened for copies against another set than the generator learnt from"
NOT_SCREENED = (
    "not screened for copies of training films: the set that the generator learnt from is neither in data/curated nor "
    "in DVC's cache; name it with --curated"
)


@dataclass(frozen=True)
class Pair:
    """A synthetic image and the training film that it is most like."""

    excess: float  # above its threshold
    facts: dict[str, Any]
    images: np.ndarray  # (2, H, W) uint8


@dataclass
class Screening:
    """Looks at what is drawn, batch by batch. Without training films it keeps everything."""

    note: str | None = NOT_SCREENED
    memory: Memory | None = None
    screen: Screen = field(default_factory=lambda: Screen({}, None, 0, 0))
    train: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    of_its_own: bool = False  # against the films that the generator learnt from
    worst: list[Pair] = field(default_factory=list)

    @classmethod
    def against(cls, curated_folder: Path, side: int, learnt_from: str | None) -> "Screening":
        """Of the train split of a curated set, calibrated on its validation split. A set whose digest is not
        `learnt_from` is noted.

        Raises UserError where there is no such set, or it has films of another size than `side`.
        """
        films = image_set.load(curated_folder)
        train, held_out = films.where(split="train").images, films.where(split="val")
        if films.images.shape[-1] != side or not len(train):
            raise UserError(
                f"{curated_folder} has {len(train)} training films of {films.images.shape[-1]} px, the generator draws "
                f"{side} px; name the set that it learnt from with --curated"
            )
        some = np.random.default_rng(0).permutation(len(held_out.images))[:MOST_HELD_OUT]
        compared = held_out.images[some]
        memory = Memory(train, compared)
        screen = calibrate(memory, compared, held_out.manifest["patient_id"].to_numpy()[some])
        own = films.digest == learnt_from
        notes = [note for note in (_note(screen), None if own else ANOTHER) if note]
        return cls("; ".join(notes) or None, memory, screen, train, of_its_own=own)

    def kept(self, label: str, images: np.ndarray, wanted: int) -> list[int]:
        """Which of `images` (B, H, W) are no copies: the first `wanted` of these. What comes after is not counted."""
        found = self.classes.setdefault(label, {"drawn": 0, "removed": 0, "reasons": dict.fromkeys(self._signals, 0)})
        if self.memory is None:
            reasons = np.zeros((len(images), 0), dtype=bool)
        else:
            looks = self.memory.look(images)
            reasons = self.screen.reasons(looks.scores)
        kept = np.flatnonzero(~reasons.any(1))[:wanted].tolist()
        seen = kept[-1] + 1 if len(kept) == wanted else len(images)
        found["drawn"] += seen
        found["removed"] += seen - len(kept)
        for signal, said in zip(self._signals, reasons[:seen].T, strict=True):
            found["reasons"][signal] += int(said.sum())
        if self.memory is not None:
            excess = self.screen.excess(looks.scores)[:seen]
            for k in np.argsort(-excess.max(1), kind="stable")[:WORST]:
                signal = self._signals[int(excess[k].argmax())]
                score = round(float(looks.scores[signal][k]), 4)
                facts = {"label": label, "signal": signal, "score": score, "removed": bool(reasons[k].any())}
                pair = np.stack([images[k], self.train[looks.nearest[signal][k]]])
                self.worst.append(Pair(float(excess[k].max()), facts, pair))
            self.worst = sorted(self.worst, key=lambda pair: -pair.excess)[:WORST]
        return kept

    @property
    def _signals(self) -> list[str]:
        return list(self.screen.threshold)

    def report(self) -> dict[str, Any]:
        """What a reader should know: "screening" of dataset.json. Of films and patients it names none."""
        alarms = self.screen.false_alarms
        return {
            "note": self.note,
            "screened": self.memory is not None,
            "threshold": {signal: round(limit, 4) for signal, limit in self.screen.threshold.items()},
            "false_alarms": None if alarms is None else round(alarms, 4),
            "held_out": self.screen.held_out,
            "leaked": self.screen.leaked,
            "classes": self.classes,
            "worst": [pair.facts for pair in self.worst],
        }

    def pairs(self, side: int) -> np.ndarray:
        """uint8 (K, 2, side, side), worst first: a synthetic image and the training film nearest to it."""
        return np.stack([np.empty((2, side, side), np.uint8), *(pair.images for pair in self.worst)])[1:]


def _note(screen: Screen) -> str | None:
    """What a figure of false alarms cannot carry."""
    parts = []
    if screen.leaked:
        parts.append(f"{screen.leaked} validation films are nearly equal to training films, and were left out")
    if screen.held_out < MIN_HELD_OUT:
        parts.append(
            f"{screen.held_out} held-out films are too few to calibrate on: only images nearly equal to a training "
            "film count as copies, and false alarms are not known"
        )
    elif screen.held_out < FEW:
        parts.append(f"calibrated on {screen.held_out} held-out films: too few to count a share of 1 % among them")
    return "copies: " + "; ".join(parts) if parts else None
