"""Where the pipeline's files are: paths in the project's folder, which is the working folder."""

from pathlib import Path

RAW, CURATED, SYNTHETIC = Path("data/raw"), Path("data/curated"), Path("data/synthetic")
MODELS, ENCODER = Path("models"), Path("models/encoder")
IMBALANCE, IMBALANCE_PLOTS = Path("reports/imbalance.json"), Path("reports/imbalance")
QUALITY, DOWNSTREAM, PREDICTIONS = (
    Path("reports/quality"),
    Path("reports/downstream.json"),
    Path("reports/predictions.csv"),
)
REPORT, VERDICT = Path("reports/report.html"), Path("reports/verdict.json")
METRICS, MEASURES = Path("reports/metrics.json"), Path("reports/measures.json")
REPORT_PLOTS = Path("reports/plots")
EXPORTS = Path("exports")  # what is drawn on demand; git ignores it
CHALLENGE, DRIFT = Path("reports/challenge.json"), Path("reports/drift.json")
RAW_DVC, DVC_YAML, DVC_LOCK = Path("data/raw.dvc"), Path("dvc.yaml"), Path("dvc.lock")

EXPERIMENTS = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` make their workspaces


def home() -> Path:
    """The project that remembers: the working folder, or of a workspace of `dvc exp run` the project that made it.

    What is kept from run to run lies there: the key of the pseudonyms, by which patients stay in their splits, and
    MLflow's file.
    """
    here = Path.cwd()
    for folder in here.parents:
        if here.relative_to(folder).parts[: len(EXPERIMENTS)] == EXPERIMENTS:
            return folder
    return Path()
