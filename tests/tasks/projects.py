"""A finished project in the working folder without a run of the pipeline: what `xraysynth models` looks at."""

from pathlib import Path

import torch
import yaml

from model.gan.networks import Generator, NetworkConfig
from model.gan.storage import save_generator
from tasks import image_set, imbalance, paths
from tasks.files import write_json
from tasks.imbalance import to_draw
from tasks.params import Imbalance, Synthesize
from tasks.synthesize import stage as synthesize
from tests.tasks.results import recognised, varied
from tests.tasks.sets import write_set

SIDE = 16
RAW_DIGEST = "0123456789abcdef0123456789abcdef.dir"


def write_data(images: int = 75, disc: float = 90, side: int = SIDE, seed: int = 0) -> None:
    """A curated set and its plan. Runs in the project's folder."""
    write_set(paths.CURATED, images=images, disc=disc, side=side, seed=seed)
    imbalance.run(paths.CURATED, paths.IMBALANCE, paths.IMBALANCE_PLOTS, Imbalance())


def write_generator(name: str, seed: int, classes: list[str] | None = None, truncation: float = 1.0) -> None:
    """An untrained generator that says that it learnt from the curated set, what it draws, and the verdict on it."""
    real = image_set.load(paths.CURATED)
    classes = classes or real.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(NetworkConfig(SIDE, width=8, latent_dim=8, classes=len(classes)))
        assert generator.embed is not None
        torch.nn.init.normal_(generator.embed.weight)  # as if trained: classes start alike
    folder = paths.MODELS / name
    save_generator(folder, generator, classes, {"data_digest": real.digest, "params": {}})
    card = f"# {name}\n\nA generator for a test.\n\n![Samples](samples.png)\n"
    (folder / "card.md").write_text(card, encoding="utf-8")
    plan = to_draw(paths.IMBALANCE) if classes == real.classes else {}
    params = Synthesize(truncation=truncation)
    synthesize.run(folder, paths.SYNTHETIC / name, plan, params, curated_folder=paths.CURATED)
    quality = {"model": name, "classes": {label: {"measures": varied(0.4, 0.38, 0.42, 0.4)} for label in plan}}
    write_json(paths.QUALITY / f"{name}.json", quality)
    write_json(paths.DOWNSTREAM, {"fidelity": {name: {label: recognised(0.9, 0.95) for label in plan}}})
    verdict = {"verdict": "no evidence", "sentence": "No evidence.", "candidate": name}
    write_json(paths.VERDICT, verdict)


def write_versioned(source: str = "data/raw") -> None:
    """The files by which DVC knows the project."""
    outs = [{"md5": RAW_DIGEST, "path": "raw"}]
    paths.RAW_DVC.write_text(yaml.safe_dump({"outs": outs}))
    paths.DVC_YAML.write_text(yaml.safe_dump({"stages": {"ingest": {"cmd": "xraysynth ingest"}}}))
    stage = {"cmd": "xraysynth ingest", "deps": [{"path": source, "md5": RAW_DIGEST}]}
    paths.DVC_LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"ingest": stage}}))
    models = {"msg_sagan": {"attention_resolutions": [8]}}
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"source": source, "size": SIDE}, "models": models}))
