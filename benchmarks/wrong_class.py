"""How many images of another class undo the gain of those that are added, and does the gate of class fidelity see them?

python -m benchmarks.wrong_class --repetitions 5

Fresh simulated films in place of a generator's, as in `benchmarks.verdict`: of those called rare a share is of the
common class. The classifiers and the gate are those of the pipeline.
"""

import argparse
import sys
from collections.abc import Iterator
from statistics import mean, stdev

import numpy as np
import torch

from benchmarks.markdown import table
from benchmarks.verdict import CLASSES, PARAMS, PLAN, RARE, draw, predictions
from tasks.classify.comparison import PRIMARY, held_out, measure
from tasks.classify.fidelity import ARM, fidelity
from tasks.classify.stage import Data
from tasks.image_set import ImageSet
from tasks.report import gates

WRONG = (0.0, 0.1, 0.15, 0.2, 0.3, 0.5)
ADDING = "classic+msg_sagan"
Row = tuple[float, float, bool, float]  # recognised, of real films, whether the gate passed, gain of AUPRC over ARM


def repetition(number: int) -> dict[float, Row]:
    """By the share of wrong images."""
    real, added = draw(number)
    right, wrong = added["oracle"], added["shuffled"].images  # those of the common class come first
    sets = {}
    for share in WRONG:
        count = round(share * len(right.images))
        images = np.concatenate([wrong[:count], right.images[count:]])
        sets[f"{share:g}"] = ImageSet(images, right.manifest, right.classes, f"{share:g}")
    controls = predictions(Data(real, sets, PLAN, PARAMS.balance), [ARM])
    test = held_out(controls, list(CLASSES), PARAMS.bootstrap)

    def area(arm: str, synthetic: dict[str, ImageSet]) -> float:
        rows = controls if arm == ARM else predictions(Data(real, synthetic, PLAN, PARAMS.balance), [arm])
        return float(measure(rows, list(CLASSES), [CLASSES.index(RARE)], test)[PRIMARY][:, 0].mean())

    found, base = fidelity(controls, list(CLASSES), PARAMS.confidence), area(ARM, {})
    result = {}
    for share in WRONG:
        of_class = found[f"{share:g}"][RARE]
        passed = gates.fidelity("these", {RARE: of_class}, PLAN)["passed"]
        gain = area(ADDING, {"msg_sagan": sets[f"{share:g}"]}) - base
        result[share] = (of_class["value"], of_class["floor"], passed, gain)
    return result


def rows(found: list[dict[float, Row]]) -> Iterator[list[str]]:
    """A row a share."""
    for share in WRONG:
        value, floor, passed, gain = zip(*(of_repetition[share] for of_repetition in found), strict=True)
        yield [
            f"{share:.0%}",
            f"{mean(value):.0%}",
            f"{mean(floor):.0%}",
            f"{passed.count(False)} of {len(found)}",
            f"{mean(gain):+.3f} ± {stdev(gain):.3f}",
        ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    torch.set_num_threads(1)
    found = []
    for number in range(parser.parse_args().repetitions):
        found.append(repetition(number))
        print(f"repetition {number}: {found[-1]}", file=sys.stderr, flush=True)
    print(
        table(
            ["of another class", "recognised", "real test films", "gate closed", "change against classic"], rows(found)
        )
    )


if __name__ == "__main__":
    main()
