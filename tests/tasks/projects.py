"""A finished project in the working folder without a run of the pipeline: what `xraysynth models` looks at."""

from pathlib import Path

import torch
import yaml

from model.networks import Generator, NetworkConfig
from model.storage import save_generator
from tasks import curated, imbalance, places, synthesize
from tasks.params import Imbalance, Synthesize
from tests.tasks.results import varied
from tests.tasks.sets import write_set

SIDE = 16
RAW_DIGEST = "0123456789abcdef0123456789abcdef.dir"


def write_data(images: int = 75, disc: float = 90, side: int = SIDE, seed: int = 0) -> None:
    """A curated set and its plan. Runs in the project's folder."""
    write_set(places.CURATED, images=images, disc=disc, side=side, seed=seed)
    imbalance.run(places.CURATED, places.IMBALANCE, places.IMBALANCE_PLOTS, Imbalance())


def write_generator(name: str, seed: int, classes: list[str] | None = None, truncation: float = 1.0) -> None:
    """An untrained generator that says that it learnt from the curated set, what it draws, and the verdict on it."""
    real = curated.load(places.CURATED)
    classes = classes or real.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(NetworkConfig(SIDE, width=8, latent_dim=8, classes=len(classes)))
        assert generator.embed is not None
        torch.nn.init.normal_(generator.embed.weight)  # as if trained: classes start alike
    folder = places.MODELS / name
    save_generator(folder, generator, classes, {"data_digest": real.digest, "params": {}})
    (folder / "card.md").write_text(f"# {name}\n\nA generator for a test.\n", encoding="utf-8")
    plan = synthesize.planned(places.IMBALANCE) if classes == real.classes else {}
    params = Synthesize(truncation=truncation)
    synthesize.run(folder, places.SYNTHETIC / name, plan, params, curated_folder=places.CURATED)
    quality = {"model": name, "classes": {label: {"measures": varied(0.4, 0.38, 0.42, 0.4)} for label in plan}}
    curated.write_json(places.QUALITY / f"{name}.json", quality)
    verdict = {"verdict": "no evidence", "sentence": "No evidence.", "candidate": name}
    curated.write_json(places.VERDICT, verdict)


def write_versioned(source: str = "data/raw") -> None:
    """The files by which DVC knows the project."""
    outs = [{"md5": RAW_DIGEST, "path": "raw"}]
    places.RAW_DVC.write_text(yaml.safe_dump({"outs": outs}))
    places.DVC_YAML.write_text(yaml.safe_dump({"stages": {"ingest": {"cmd": "xraysynth ingest"}}}))
    stage = {"cmd": "xraysynth ingest", "deps": [{"path": source, "md5": RAW_DIGEST}]}
    places.DVC_LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"ingest": stage}}))
    models = {"msg_sagan": {"attention_resolutions": [8]}}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"source": source, "size": SIDE}, "models": models}))
