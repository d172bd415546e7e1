"""How fast films are taken in, and with how much memory. Prints Markdown tables; every part is a command.

python -m benchmarks.ingest encodings    a film in every encoding: ours against a plain loop of pydicom
python -m benchmarks.ingest again        an archive again, unchanged and with 1 % new films
python -m benchmarks.ingest workers      two workers against one
python -m benchmarks.ingest memory       the peak memory of many small films; Linux only
python -m benchmarks.ingest dask         Dask with two workers against two processes

Archives are made for the occasion, of simulated films; TMPDIR says where. `--help` of a part lists its options.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import cv2
import numpy as np
import psutil
import pydicom
import typer
import yaml
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_rescale, apply_voi_lut
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.markdown import table
from tasks.ingest.films.decode import read_film
from tasks.ingest.films.film import Reading
from tasks.ingest.films.header import RADIOGRAPHS
from tasks.ingest.films.resize import to_square
from tasks.simulate import radiograph
from tasks.simulate.anatomy import draw_anatomy, draw_pose
from tests.tasks.films import ENCODINGS, encode, make_film

ZOO = Path(os.environ.get("XRAYSYNTH_TESTDATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "dicom-zoo"
SIDE = 256  # pixels of the curated images of `encodings`
READING = Reading(size=SIDE, lateral="take", body_part="any")
UNCOMPRESSED, LOSSLESS, LS, WAVELET = 1.3, 2.5, 1.5, 20.0
REACH = {  # times the plain loop
    **dict.fromkeys(("implicit", "explicit", "big_endian"), UNCOMPRESSED),
    **dict.fromkeys(("jpeg_lossless", "jpeg_lossless_any"), LOSSLESS),
    **dict.fromkeys(("jpeg_ls", "jpeg_ls_near"), LS),
    **dict.fromkeys(("jpeg_2000", "jpeg_2000_lossy"), WAVELET),
    "jpeg_baseline": 2.0,
}
AGAIN, TWO_WORKERS = 10.0, 1.8  # times the first ingest, times one worker
PARENT_MB, WORKER_MB = 500, 400
ARCHIVE_ENCODINGS = ("explicit", "rle", "jpeg_lossless", "jpeg_ls", "jpeg_2000")  # of an archive of several vendors
YESTERDAY = time.time() - 86_400
SHARES = (("normal", 20), ("pneumonia", 3), ("effusion", 2))

Films = Annotated[int, typer.Option(min=50, help="Films of 1,500 x 1,250 pixels in the archive.")]
Repeats = Annotated[int, typer.Option(min=1, help="Of which the median counts.")]
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


# Films and archives


def thorax(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A simulated film (rows, columns) uint16, 0 to 4095; without loss it shrinks to about half."""
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng, female=False)
    pose = replace(draw_pose(rng, anatomy, columns), shape=(rows, columns))
    return radiograph.render(anatomy, pose, radiograph.draw_exposure(rng, pose), "normal")


def film_of(pixels: np.ndarray, number: int = 0, bits: int = 12) -> Dataset:
    """A chest film with a window that cuts a little at both ends; every patient has two, by `number`."""
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": (pixels >> 4).astype(np.uint8).tobytes()}
    window = {"WindowCenter": 2000 >> (12 - bits), "WindowWidth": 3400 >> (12 - bits)}
    elements = {"SOPInstanceUID": _uid(number), "BodyPartExamined": "CHEST", "ViewPosition": "PA", **window}
    film = make_film(pixels, _patient(number), **elements, **(eight if bits == 8 else {}))
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    return film


def _uid(number: int) -> str:
    return f"2.25.{10**20 + number}"


def _patient(number: int) -> str:
    return f"P{number // 2:08d}"


def _place(number: int, folder: str) -> str:
    """A path in `folder`, or without one in any of 256, where later films lie between the earlier ones."""
    name = hashlib.sha256(str(number).encode()).hexdigest()[:12]
    return f"{folder or name[:2]}/{name}.dcm"


def write_films(source: Path, numbers: range, folder: str = "") -> None:
    """Films of 1,500 x 1,250 pixels, no two the same, in ARCHIVE_ENCODINGS by turns.

    Bands that are darker or not spell the number: one picture in two encodings would be taken once.
    """
    thoraces = [thorax(1500, 1250, seed) for seed in range(4)]

    def content(number: int) -> bytes:
        pixels = np.roll(thoraces[number % len(thoraces)], (number % 97, number % 89), axis=(0, 1))
        darker = [number >> bit & 1 for bit in range(16)]
        bands = np.array(darker, dtype=bool).reshape(4, 4).repeat(375, axis=0).repeat(313, axis=1)[:, :1250]
        pixels = np.where(bands, pixels - (pixels >> 3), pixels)
        return encode(film_of(pixels, number), ARCHIVE_ENCODINGS[number % len(ARCHIVE_ENCODINGS)])

    with ThreadPoolExecutor() as pool:  # the encoders let go of the interpreter
        list(pool.map(lambda number: _write(source / _place(number, folder), content(number)), numbers))
    _label(source, numbers, folder)


def write_small_films(source: Path, numbers: range, folder: str = "") -> None:
    """Films of 64 x 64 pixels, no two the same: one template with other identifiers and other first pixels.

    These pixels, black or white, spell the number: the curated images are different too, up to a million of them.
    """
    film = film_of(thorax(64, 64))
    template, pixels = encode(film, "explicit"), len(film.PixelData)
    for number in numbers:
        content = template.replace(_uid(0).encode(), _uid(number).encode())
        content = content.replace(_patient(0).encode(), _patient(number).encode())
        first = np.array([4095 * (number >> bit & 1) for bit in range(20)], dtype="<u2").tobytes()
        _write(source / _place(number, folder), content[:-pixels] + first + content[len(first) - pixels :])
    _label(source, numbers, folder)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (YESTERDAY, YESTERDAY))  # a file of this very second may still be growing: it is not remembered


def _label(source: Path, numbers: range, folder: str) -> None:
    """Append to labels.csv, patients to classes in SHARES."""
    classes = [label for label, share in SHARES for _ in range(share)]
    path = source / "labels.csv"
    header = "" if path.exists() else "path,label\n"
    rows = (f"{_place(number, folder)},{classes[number // 2 % len(classes)]}\n" for number in numbers)
    with path.open("a", encoding="utf-8") as file:
        file.writelines([header, *rows])


# The command, as a user starts it


@dataclass(frozen=True)
class Run:
    """One `xraysynth ingest`: wall time, peak resident memory of its processes in MB, SHA-256 of every output file."""

    seconds: float
    parent: float
    worker: float
    output: dict[str, str]

    @property
    def shards(self) -> set[str]:
        return {digest for name, digest in self.output.items() if name.endswith(".npy")}


def ingest(work: Path, source: Path, environment: dict[str, str] | None = None, **params: object) -> Run:
    """Run it in the folder `work`; what is cached between runs lies there. Ends the benchmark when it fails."""
    work.mkdir(exist_ok=True)
    (work / "params.yaml").write_text(yaml.safe_dump({"ingest": {"size": 64, **params}}), encoding="utf-8")
    command: list[str | Path] = [
        Path(sys.executable).with_name("xraysynth"),
        "ingest",
        source,
        "--labels",
        source / "labels.csv",
    ]
    variables = {**os.environ, "XRAYSYNTH_PSEUDONYM_KEY": "of the benchmark", **(environment or {})}
    peaks: dict[int, float] = {}
    with (work / "log").open("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=work, env=variables, stdout=log, stderr=subprocess.STDOUT)
        code = None
        while code is None:
            try:
                code = process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                _note_peaks(process.pid, peaks)
        seconds = time.perf_counter() - start
        if code:
            log.seek(0)
            print(log.read()[-4000:])
            raise typer.Exit(code)
    curated = work / "data" / "curated"
    if refused := json.loads((curated / "dataset.json").read_text(encoding="utf-8"))["reasons"]:
        raise RuntimeError(f"films of the benchmark were refused: {refused}")
    parent = peaks.pop(process.pid, 0.0)
    return Run(seconds, parent, max(peaks.values(), default=0.0), _digests(curated))


def _note_peaks(pid: int, peaks: dict[int, float]) -> None:
    """Peak resident memory so far of a process and its descendants, from Linux's own account of it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
                peaks[process.pid] = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def _archive() -> Iterator[tuple[Path, Path]]:
    """A folder for an archive and one to work in; both vanish."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "archive", Path(folder) / "work"


def _machine() -> None:
    print(f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}\n")


def _against(value: float, reach: float, most: bool = False) -> str:
    met = value <= reach if most else value >= reach
    return f"{'≤' if most else '≥'} {reach:g}, {'met' if met else 'MISSED'}"


# Part 1: encodings


def plain(path: Path) -> np.ndarray:
    """The loop that one writes first: (h, w) uint8, the longer side SIDE."""
    film = pydicom.dcmread(path)
    if film.file_meta.TransferSyntaxUID.is_encapsulated:
        film.pixel_array_options(decoding_plugin="pylibjpeg")
    shown = apply_voi_lut(apply_rescale(film.pixel_array, film), film)
    low, high = float(shown.min()), float(shown.max())
    grey = ((shown - low) / (high - low) * 255).astype(np.uint8)
    if film.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    scale = SIDE / max(grey.shape)
    height, width = (round(side * scale) for side in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def ours(path: Path) -> np.ndarray:
    """What a worker does with a file, (SIDE, SIDE) uint8."""
    content = path.read_bytes()
    hashlib.sha256(content).hexdigest()
    return to_square(read_film(content, READING), SIDE)


@app.command()
def encodings(
    repeats: Repeats = 7,
    rows: Annotated[int, typer.Option(min=SIDE, help="Height of the film.")] = 3000,
    columns: Annotated[int, typer.Option(min=SIDE, help="Width of the film.")] = 2500,
) -> None:
    """Films a second of ours and of a plain loop: one process, one core, one thread, by turns, medians."""
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _machine()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        pixels = thorax(rows, columns)
        films = [(Path(folder) / encoding, REACH.get(encoding)) for encoding in ENCODINGS]
        for path, _ in films:
            path.write_bytes(encode(film_of(pixels, bits=8 if path.name == "jpeg_baseline" else 12), path.name))
        films += [(path, None) for path in _zoo()]
        header = ["film", "MB", "plain, films/s", "ours, films/s", "ratio", "reach", "mean difference", "PSNR, dB"]
        print(table(header, [_compare(path, reach, repeats) for path, reach in films]))
    print("\nDifferences are those of the curated images, in grey levels of 255, margins left out. The plain loop cuts")
    print("off to whole levels (about 0.4), and shows a film without a window from its least to its greatest value.")


def _compare(path: Path, reach: float | None, repeats: int) -> list[str]:
    """One row of the table."""
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    images = {"plain": plain(path), "ours": ours(path)}  # the first of each is not timed
    for turn in range(repeats):
        for name in list(seconds)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            plain(path) if name == "plain" else ours(path)
            seconds[name].append(time.perf_counter() - start)
    height, width = images["plain"].shape
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    error = images["ours"][top : top + height, left : left + width].astype(float) - images["plain"]
    squared = float((error**2).mean())
    ratio = median(seconds["plain"]) / median(seconds["ours"])
    return [
        path.name,
        f"{path.stat().st_size / 1e6:.1f}",
        *(f"{1 / median(times):.2f}" for times in seconds.values()),
        f"{ratio:.2f}",
        "" if reach is None else _against(ratio, reach),
        f"{np.abs(error).mean():.2f}",
        f"{10 * np.log10(255**2 / squared):.1f}" if squared else "same",
    ]


def _zoo() -> list[Path]:
    """The radiographs of the zoo, chests and limbs, that are not thumbnails."""
    if not ZOO.is_dir():
        print(f"no real films in {ZOO.name}: set XRAYSYNTH_TESTDATA to have them compared too\n")
        return []
    found = []
    for path in sorted(ZOO.iterdir()):
        with contextlib.suppress(InvalidDicomError):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if header.get("Modality") in RADIOGRAPHS and min(header.get("Rows", 0), header.get("Columns", 0)) >= SIDE:
                found.append(path)
    return found


# Parts 2 to 5: the whole stage


@app.command()
def again(
    films: Films = 1000,
    small: Annotated[int, typer.Option(min=100, help="Films of 64 x 64 pixels in a second archive.")] = 20_000,
    repeats: Repeats = 3,
) -> None:
    """An archive a second time, unchanged, and with 1 % of new films; the shards that this changes."""
    _machine()
    rows = []
    for name, write, count in (("films", write_films, films), ("small films", write_small_films, small)):
        with _archive() as (source, work):
            write(source, range(count))
            first = last = ingest(work, source)
            for then, folder in (("unchanged", None), ("1 % new in one folder", "7f-new"), ("1 % new anywhere", "")):
                seconds, changed = [], []
                for _ in range(repeats):
                    if folder is not None:
                        new = range(count, count + max(1, count // 100))
                        write(source, new, folder)
                        count = new.stop
                    run = ingest(work, source)
                    seconds.append(run.seconds)
                    changed.append(len(run.shards - last.shards))
                    if folder is None and run.output != first.output:
                        raise RuntimeError("the archive did not change, and what came out of it did")
                    last = run
                ratio = first.seconds / median(seconds)
                row = [f"{name}, {then}", f"{first.seconds:.1f}", f"{median(seconds):.1f}", f"{ratio:.1f}"]
                rows.append([*row, _against(ratio, AGAIN), f"{max(changed)} of {len(last.shards)}"])
    print(f"{films:,} films and {small:,} small films.\n")
    print(table(["archive, then", "first, s", "again, s", "ratio", "reach", "shards with new content"], rows))


@app.command()
def workers(films: Films = 2000, repeats: Repeats = 3) -> None:
    """Two workers against one, from nothing each time, by turns."""
    _machine()
    runs: dict[int, list[Run]] = {1: [], 2: []}
    with _archive() as (source, work):
        write_films(source, range(films))
        for turn in range(repeats):
            for count in runs:
                runs[count].append(ingest(work.with_name(f"work-{turn}-{count}"), source, workers=count))
    one, two = (median(run.seconds for run in runs[count]) for count in runs)
    same = len({tuple(run.output.items()) for run in (*runs[1], *runs[2])}) == 1
    header = ["archive", "one worker, s", "two, s", "ratio", "reach", "output"]
    row = [f"{films:,} films", f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}", _against(one / two, TWO_WORKERS)]
    print(table(header, [[*row, "same" if same else "DIFFERENT"]]))


@app.command()
def memory(
    files: Annotated[int, typer.Option(min=100, help="Small DICOM files, no two the same.")] = 100_000,
    count: Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")] = 2,
) -> None:
    """Peak resident memory of the parent and of its largest worker."""
    if not Path("/proc/self/status").exists():
        raise typer.BadParameter("peak memory is read from /proc, which only Linux has")
    _machine()
    with _archive() as (source, work):
        write_small_films(source, range(files))
        run = ingest(work, source, workers=count)
    header = ["archive", "seconds", "files/s", "parent, MB", "reach", "largest worker, MB", "reach"]
    row = [f"{files:,} small files", f"{run.seconds:.0f}", f"{files / run.seconds:.0f}"]
    row += [f"{run.parent:.0f}", _against(run.parent, PARENT_MB, most=True)]
    print(table(header, [[*row, f"{run.worker:.0f}", _against(run.worker, WORKER_MB, most=True)]]))


@app.command()
def dask(films: Films = 1000, repeats: Repeats = 3) -> None:
    """A local Dask cluster of two workers against two processes, from nothing each time, by turns."""
    from distributed import LocalCluster

    _machine()
    runs: dict[str, list[Run]] = {"processes": [], "dask": []}
    with (
        _archive() as (source, work),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
    ):
        environment = {"DASK_SCHEDULER_ADDRESS": cluster.scheduler_address}
        write_films(source, range(films))
        for turn in range(repeats):
            for name in runs:
                folder = work.with_name(f"work-{turn}-{name}")
                runs[name].append(ingest(folder, source, environment, executor=name, workers=2))
    processes, other = (median(run.seconds for run in runs[name]) for name in runs)
    same = len({tuple(run.output.items()) for run in (*runs["processes"], *runs["dask"])}) == 1
    header = ["archive", "two processes, s", "Dask, s", "ratio", "output"]
    row = [f"{films:,} films", f"{processes:.1f}", f"{other:.1f}", f"{processes / other:.2f}"]
    print(table(header, [[*row, "same" if same else "DIFFERENT"]]))


if __name__ == "__main__":
    app()
