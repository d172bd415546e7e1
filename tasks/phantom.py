"""Stage `phantom`: films of the simulator in place of a generator's images, the control of `train.head_start`.

Networks that began with simulated films know what the simulator knows of a finding. What these films themselves do for
a classifier, used in the same way, is the part of a gain that is not the generator's.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import pandas as pd

from tasks import image_set
from tasks.errors import UserError
from tasks.files import private_folder, written_whole
from tasks.ingest import stage as ingest
from tasks.params import Ingest, Phantom
from tasks.simulate.disease import Label
from tasks.simulate.stage import MIN_PATIENTS, simulate

FIRST_SEED = 2_000_000  # neither `xraysynth simulate` nor the head start takes one so high: nobody has these films
TEMPORARY = Path(".xraysynth")


def run(curated_folder: Path, out: Path, counts: Mapping[str, int], settings: Ingest, params: Phantom) -> None:
    """Write `counts[label]` films of every class in `counts` to `out`, curated as the archive's are by `settings`.

    A class is drawn as the simulator's of the same name, or as the one that `params.of` says. Raises UserError for a
    class that has none, and where films have several findings, for it draws one each. Without `counts` the set is
    empty.
    """
    real = image_set.load(curated_folder)
    if counts and real.several:
        raise UserError(
            f"films in {curated_folder} may have several findings, and the arms of phantom draw films of one each; "
            "leave them out of classify.arms, or films with several by ingest.multi_label: leave_out"
        )
    of = {label: params.of.get(label, label) for label in counts}
    if unknown := [label for label, simulated in of.items() if simulated not in get_args(Label)]:
        raise UserError(
            f"the simulator draws {', '.join(get_args(Label))}, so arms of phantom do not know what to take for "
            f"{', '.join(unknown)}; say it in phantom.of, e.g. phantom.of: {{{unknown[0]}: pneumonia}}"
        )
    drawn = _films(counts, of, settings, FIRST_SEED + params.seed) if counts else {}
    with written_whole(out) as folder:
        folder.mkdir()
        writer = image_set.ShardWriter(folder)
        rows: list[tuple[str, str, str, int]] = []
        for label, count in counts.items():
            for image in islice(drawn[of[label]], count):
                rows.append((f"{label}-{len(rows):06d}", label, *writer.add(image)))
        manifest = pd.DataFrame(rows, columns=["image_id", "label", "shard", "row"])
        image_set.save_index(folder, manifest, real.classes, settings.size, writer, counts=dict(counts), of=of)


def _films(
    counts: Mapping[str, int], of: Mapping[str, str], settings: Ingest, seed: int
) -> dict[str, Iterator[np.ndarray]]:
    """At least as many of each simulated class as are wanted, through the same ingest as the archive."""
    patients: dict[Label, int] = {
        simulated: max(2, sum(count for label, count in counts.items() if of[label] == simulated))
        for simulated in get_args(Label)
    }
    private_folder(TEMPORARY)
    with TemporaryDirectory(dir=TEMPORARY) as folder:
        raw, curated = Path(folder) / "raw", Path(folder) / "curated"
        count = max(MIN_PATIENTS, sum(patients.values()))
        simulate(raw, count, seed, workers=settings.workers or None, shares=patients)
        same = settings.model_dump(include={"size", "fit", "clahe_clip", "executor", "workers"})
        ingest.run(raw, raw / "labels.csv", curated, Ingest.model_validate(same))
        drawn = image_set.load(curated)
        return {label: iter(drawn.where(label=label).images) for label in drawn.classes}
