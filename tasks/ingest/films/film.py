"""What every reader of films shares: how a film is to be read, what comes out, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:  # pydantic is dear in a worker process, which never looks at the type
    from tasks.params import Fit

FACTS = (  # of a film that may be kept; pictures know fewer, and `coding` (see codecs.Stored) stays in the store
    *("source_format", "modality", "view", "sex", "age_decade", "photometric", "transfer_syntax"),
    *("rows", "columns", "bits", "display", "simulated"),
)


class Refused(Exception):
    """A file that is not taken: a reason code and a sentence, for one row of the quarantine."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason, self.sentence = reason, sentence
        self.ids: dict[str, str] = {}  # as in Film, where the header could be read


@dataclass(frozen=True)
class Reading:
    """How films are read. With `size` (pixels) a codec may decode at reduced resolution, down to what `fit` needs.

    `window` prefers the VOI window or LUT of that name. `label_tag` is the keyword of a DICOM element of which those
    values are handed on that are among `label_values`.
    """

    size: int | None = None
    fit: Fit = "pad"
    max_pixels: int = 40_000_000
    window: str = ""
    lateral: Literal["refuse", "take"] = "refuse"
    body_part: Literal["chest", "any"] = "chest"
    label_tag: str = ""
    label_values: tuple[str, ...] = ()

    def check_size(self, rows: int, columns: int) -> None:
        """Raises Refused for an empty picture and for one above the limit; to be called before decoding."""
        if min(rows, columns) < 1 or rows * columns > self.max_pixels:
            raise Refused("too_large", f"{rows} x {columns} pixels; the limit is {self.max_pixels:,}")

    def largest_step(self, rows: int, columns: int, aspect: float) -> int:
        """By how much each side may be divided in decoding without falling below the target's sides; at least 1."""
        if self.size is None:
            return 1
        _, target = frame(rows, columns, aspect, self.size, self.fit)
        return max(1, min(rows // target[0], columns // target[1]))


@dataclass(frozen=True)
class Film:
    """Display pixels (h, w) float32 in [0, 1], 1 = white, of a film of `shape` = (rows, columns) stored pixels.

    A decoded pixel spans `step` stored ones a side, and the centre of the first lies at `first` stored pixels from
    the edge. `aspect` is the height of a stored pixel over its width. `facts` come from an allow-list and may be kept.
    `ids` are its identifiers by kind (see `header.IDENTIFIERS`): they go through the keyed pseudonym and no further.
    """

    pixels: np.ndarray
    shape: tuple[int, int]
    step: int = 1
    first: float = 0.5
    aspect: float = 1.0
    ids: dict[str, str] = field(default_factory=dict)
    label: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    turn: tuple[bool, bool, bool] = (False, False, False)  # as `header.turn`, still to be done


Box = tuple[float, float, float, float]


def frame(rows: int, columns: int, aspect: float, size: int, fit: Fit) -> tuple[Box, tuple[int, int]]:
    """The part of a film that is shown, (top, bottom, left, right) in stored pixels, and its (rows, columns) in the
    square of side `size`.

    `fit`: pad (the whole film), crop (the central square) or stretch (the whole film, aspect ratio given up).
    """
    height, width = rows * aspect, float(columns)  # in widths of a pixel
    if fit == "crop":
        side = min(height, width)
        top, left = (rows - side / aspect) / 2, (columns - side) / 2
        return (top, rows - top, left, columns - left), (size, size)
    whole = (0.0, float(rows), 0.0, float(columns))
    if fit == "stretch":
        return whole, (size, size)
    scale = size / max(height, width)
    return whole, (max(1, round(height * scale)), max(1, round(width * scale)))
