"""The command line `xraysynth`: it parses, calls a stage's `run` and prints. No work is done here.

Without arguments a command does the stage's part of the pipeline in the working folder, with `params.yaml`.
Imports are made where they are needed: `xraysynth --help` must not wait for torch.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tasks import params as params_module
from tasks.errors import UserError
from tasks.params import PHANTOM, SYNTHETIC_ARMS, GanName
from tasks.paths import (
    CURATED,
    DOWNSTREAM,
    DVC_LOCK,
    ENCODER,
    EXPORTS,
    IMBALANCE,
    IMBALANCE_PLOTS,
    MEASURES,
    METRICS,
    MODELS,
    PREDICTIONS,
    QUALITY,
    REPORT,
    REPORT_PLOTS,
    SYNTHETIC,
    VERDICT,
)
from tasks.registry import ALIASES
from tasks.registry.cli import app as models_app

OWN = (CURATED, SYNTHETIC, MODELS, REPORT.parent, Path(".xraysynth"))  # written by stages, under names of their own


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"xraysynth {version('xraysynth')}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # for Rich what stands in brackets is markup, and gone
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

app.add_typer(models_app, name="models")


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """From a folder of radiographs to an honest answer: do synthetic images of the rare classes help?"""


ParamsFile = Annotated[Path, typer.Option("--params", help="The params file; without it the defaults hold.")]
Curated = Annotated[Path, typer.Option("--curated", help="The curated image set.")]


def _params(path: Path) -> params_module.Params:
    if path != params_module.PARAMS_FILE and not path.exists():
        raise UserError(f"no params file {path}")
    return params_module.load(path)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    patients: Annotated[int, typer.Option(help="How many patients, at least 6; some have several films.")] = 480,
    seed: Annotated[int, typer.Option(min=0, max=999_999)] = 0,  # above are the films of the head start
    both: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the patients with pneumonia who have an effusion too.")
    ] = 0.0,
) -> None:
    """Write a simulated archive of DICOM films and labels."""
    from tasks.simulate import stage

    films = stage.simulate(out, patients, seed, both=both)
    counts = ", ".join(f"{n} {label}" for label, n in films["label"].value_counts().items())
    print(f"{len(films)} films of {patients} patients in {out}: {counts}")


@app.command()
def ingest(
    source: Annotated[
        Path | None, typer.Argument(help="Folder of DICOM, PNG, JPEG or TIFF files [default: ingest.source].")
    ] = None,
    out: Annotated[Path, typer.Argument(help="Where the curated set goes.")] = CURATED,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV, Excel or Parquet [default: SOURCE/labels.csv; SOURCE for a format without one]."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: say what would be taken, by names, headers and labels.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes [default: ingest.workers].")] = None,
    params: ParamsFile = params_module.PARAMS_FILE,
) -> None:
    """Curate films: decode, pseudonymise, split by patient.

    Films that are not taken are refused with a reason, in quarantine.csv.
    """
    from tasks.ingest import stage

    section = _params(params).ingest
    if workers is not None:
        section = section.model_copy(update={"workers": workers})
    beside = source and (source / "labels.csv" if params_module.needs_table(section.label_format) else source)
    do = stage.check if check else stage.run
    counts = do(source or Path(section.source), labels or beside or Path(section.labels), out, section)
    reasons = "".join(f"\n  {count} {reason}" for reason, count in counts["reasons"].items())
    would = "to be " if check else ""
    print(
        f"{counts['inputs']} inputs = {counts['curated']} {would}curated + {counts['quarantined']} "
        f"{would}quarantined{reasons}"
    )


@app.command()
def imbalance(curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Analyse the imbalance, plan what to synthesise."""
    from tasks import imbalance as stage

    result = stage.run(curated, IMBALANCE, IMBALANCE_PLOTS, _params(params).imbalance)
    plan = ", ".join(f"{n} {label}" for label, n in result["plan"].items()) or "nothing, no class is rare"
    print(f"imbalance ratio {result['imbalance_ratio']}; to synthesise: {plan}")


@app.command()
def train(name: GanName, curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Train one generator on the train split."""
    from tasks.train import stage

    loaded = _params(params)
    stage.run(name, curated, MODELS / name, loaded.train, getattr(loaded.models, name))


@app.command()
def encoder(curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Learn the features of frechet_xray from the train split."""
    from tasks.quality import encoder as stage

    result = stage.run(curated, ENCODER, _params(params).encoder)
    print(f"encoder: loss {result['loss']} after {result['steps']} steps (1 is knowing nothing)")


@app.command()
def synthesize(
    model: Annotated[
        str,
        typer.Argument(
            help="msg_gan, msg_sagan, the folder of a generator, or champion, challenger or previous of the registry."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="A folder [default: data/synthetic/MODEL for the pipeline's plan, else one in exports/]."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="One class instead of the plan.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many images of --label [default: 100].")] = None,
    form: Annotated[Literal["shards", "png", "dicom"], typer.Option("--format")] = "shards",
    seed: Annotated[int | None, typer.Option(min=0, help="[default: synthesize.seed]")] = None,
    truncation: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=params_module.MAX_TRUNCATION,
            help="Below 1 less varied, above 1 more [default: synthesize.truncation].",
        ),
    ] = None,
    curated: Annotated[
        Path | None,
        typer.Option(
            help="The set it learnt from, to leave out copies of its films [default: data/curated, or what DVC's cache "
            "holds of then]."
        ),
    ] = None,
    params: ParamsFile = params_module.PARAMS_FILE,
) -> None:
    """Draw images: the plan, or COUNT of one class.

    Copies of films are left out. Only the plan of the pipeline is written where the pipeline looks for it.
    """
    from tasks.imbalance import to_draw
    from tasks.registry import films
    from tasks.synthesize import stage
    from tasks.synthesize.screening import NOT_SCREENED

    if count and label is None:
        raise UserError("--count says how many images of one class; name it with --label")
    given = {name: value for name, value in (("seed", seed), ("truncation", truncation)) if value is not None}
    section = _params(params).synthesize.model_copy(update=given)
    plan = {label: count or 100} if label is not None else to_draw(IMBALANCE)
    of_pipeline = model in SYNTHETIC_ARMS and form == "shards" and not (given or label or curated)
    exported = EXPORTS / "-".join([Path(model).name, *([f"{label}-{count or 100}"] if label else []), form])
    target = out or (SYNTHETIC / model if of_pipeline else exported)
    with (
        _model_folder(model) as (folder, lock),
        nullcontext(curated) if curated else films.of(folder, lock) as against,
    ):
        if against is None and section.screening != "required":
            print(NOT_SCREENED, flush=True)  # before all that the drawing says
        screening = stage.run(folder, target, plan, section, form, against)
    if screening["screened"] and screening["note"]:
        print(screening["note"])
    removed = sum(found["removed"] for found in screening["classes"].values())
    print(f"{sum(plan.values())} images in {target}" + (f", without {removed} copies of films" if removed else ""))


@contextmanager
def _model_folder(model: str) -> Iterator[tuple[Path, Path]]:
    """The folder of a generator, and the dvc.lock of when it was trained."""
    if model in ALIASES:
        from tasks.registry import versions

        with versions.generator(model) as folder:
            try:
                yield folder, folder.parent / Path(versions.RECORD).name / DVC_LOCK.name
            except UserError as error:
                raise UserError(str(error).replace(str(folder), f"the {model}")) from None
    else:
        yield MODELS / model if model in SYNTHETIC_ARMS else Path(model), DVC_LOCK


@app.command()
def phantom(curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Draw simulated films as a control.

    None are drawn unless an arm of the classifiers asks for them.
    """
    from tasks import phantom as stage
    from tasks.classify.arms import added
    from tasks.imbalance import to_draw

    sections, out = _params(params), SYNTHETIC / PHANTOM
    counts = to_draw(IMBALANCE) if PHANTOM in added(sections.classify) else {}
    stage.run(curated, out, counts, sections.ingest, sections.phantom)
    print(f"{sum(counts.values())} simulated films in {out}")


@app.command()
def quality(name: GanName, curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Measure synthetic images against real ones.

    Every measure stands beside its floor, real against real.
    """
    from tasks.quality import stage

    result = stage.run(name, curated, SYNTHETIC / name, ENCODER, QUALITY / f"{name}.json", _params(params).quality)
    for label, entry in result["classes"].items():
        measures = ", ".join(f"{measure} {m['value']} ({m['floor']})" for measure, m in entry["measures"].items())
        print(f"{name} {label}, beside real images: {measures}")
    print(f"Inception: {result['extractors']['inception']}")


@app.command()
def classify(curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Compare classifiers with and without such images.

    All are tested on the same real patients.
    """
    from tasks.classify import stage

    folders = {name: SYNTHETIC / name for name in (*SYNTHETIC_ARMS, PHANTOM)}
    result = stage.run(curated, folders, IMBALANCE, DOWNSTREAM, PREDICTIONS, _params(params).classify)
    for arm, values in result["arms"].items():
        print(f"{arm}: AUPRC of rare classes {values[result['primary']]['mean']}, AUROC {values['auroc']['mean']}")
    for warning in result["confounds"]["warnings"]:
        print(f"warning: {warning}")


@app.command()
def report(curated: Curated = CURATED, params: ParamsFile = params_module.PARAMS_FILE) -> None:
    """Write the page and the verdict."""
    from tasks.report import stage

    inputs = stage.Inputs(
        curated=curated,
        synthetic={name: SYNTHETIC / name for name in SYNTHETIC_ARMS},
        models={name: MODELS / name for name in SYNTHETIC_ARMS},
        imbalance=IMBALANCE,
        quality={name: QUALITY / f"{name}.json" for name in SYNTHETIC_ARMS},
        downstream=DOWNSTREAM,
    )
    outputs = stage.Outputs(REPORT, VERDICT, METRICS, MEASURES, REPORT_PLOTS)
    _print_verdict(stage.run(inputs, outputs, _params(params)))


@app.command()
def verdict() -> None:
    """Print the last verdict and where its report is."""
    import json

    if not VERDICT.exists():
        raise UserError(f"no {VERDICT} here; run `dvc repro` first")
    _print_verdict(json.loads(VERDICT.read_text(encoding="utf-8")))
    print(f"Report: {REPORT.resolve()}")


def _print_verdict(found: dict[str, Any]) -> None:
    """The headline, its figures and what to do; the sentence in full is on the page."""
    lines = [*found["lines"], *(f"-> {line}" for line in found["advice"])] if "headline" in found else []
    print(
        found.get("headline", found["sentence"]), *lines, sep="\n"
    )  # one of an earlier version has the sentence alone


@app.command()
def doctor() -> None:
    """Say what works here: codecs, MLflow, DVC remote."""
    from tasks import doctor as stage

    for check in stage.run():
        print(f"{check.name:<16} {'ok  ' if check.ok else 'no  '} {check.finding}")


def main() -> None:
    """Entry point: bad input gives one sentence and its exit code (see `tasks.errors`), never a traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        place = f": {_place(os.fsdecode(error.filename))}" if error.filename else ""
        print(f"error: {error.strerror or error}{place}", file=sys.stderr)
        sys.exit(2)


def _place(file: str) -> str:
    """The file, if it is an argument or the project's own: any other may be a film, whose name may tell whose."""
    own = any(Path(file).absolute().is_relative_to(place.absolute()) for place in OWN)
    return file if own or file in sys.argv else "a film, or a file outside of the project"
