"""What works on this machine, as a list of findings."""

import os
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass, replace
from http.client import HTTPException

import imagecodecs
import torch
from PIL.features import version as pil_version

from tasks.tracking import runs as tracking
from tasks.tracking import spool
from tasks.tracking.addresses import authorization, is_database, reach_database, without_credentials

TIMEOUT_S = 5.0
LOCAL = ("sqlite", "file")


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it works, and the words for it."""

    name: str
    ok: bool
    finding: str


def run() -> list[Check]:
    """All checks; none of them changes anything or leaves the machine but to the servers that the user has set."""
    return [_device(), *_codecs(), _mlflow(), _prefect(), _remote()]


def _device() -> Check:
    if torch.cuda.is_available():
        return Check("device", True, f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    return Check("device", True, f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")


def _codecs() -> list[Check]:
    """Whether what `ingest.films.codecs` decodes with is in these builds of the libraries."""
    found = {
        "RLE": imagecodecs.DICOMRLE.available and imagecodecs.dicomrle_version(),
        "JPEG": pil_version("jpg") and f"Pillow, libjpeg {pil_version('jpg')}",
        "JPEG 2000": pil_version("jpg_2000") and f"Pillow, OpenJPEG {pil_version('jpg_2000')}",
        "JPEG lossless": imagecodecs.JPEG8.available and imagecodecs.jpeg8_version(),
        "JPEG-LS": imagecodecs.JPEGLS.available and imagecodecs.jpegls_version(),
    }
    missing = "no decoder: such files go to quarantine"
    return [Check(name, bool(decoder), str(decoder) if decoder else missing) for name, decoder in found.items()]


def _mlflow() -> Check:
    uri, runs = os.environ.get("MLFLOW_TRACKING_URI"), spool.waiting_runs()
    found = (
        _reach("MLflow", uri, "/health")
        if uri
        else Check("MLflow", True, f"{tracking.DEFAULT_STORE}, no server needed")
    )
    waiting = f"; {runs} runs wait in {spool.FOLDER} for the next stage" if runs else ""
    return replace(found, finding=found.finding + waiting)


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    return (
        _reach("Prefect", url, "/health")
        if url
        else Check("Prefect", True, "no PREFECT_API_URL: flows start a server of their own")
    )


def _reach(name: str, address: str, path: str) -> Check:
    """Whether a server answers, or a database listens. No finding holds the name and password of an address."""
    shown = without_credentials(address)
    scheme, is_address, _ = address.lower().partition("://")
    try:
        if scheme in ("http", "https"):
            _ask(address, path)
        elif is_database(address):
            reach_database(address, TIMEOUT_S)
            return Check(name, True, f"a database at {shown}, where something listens; it was not asked for more")
        elif is_address and scheme not in LOCAL:
            return Check(name, True, "a store of another kind, which was not asked")
        else:
            return Check(name, True, "a local store")
    except OSError as error:
        return Check(name, False, f"{shown} does not answer ({error}); start it or unset its variable")
    except (HTTPException, ValueError):  # they quote what may be part of a password
        return Check(name, False, "its address cannot be read; correct its variable")
    return Check(name, True, f"{shown} answers")


def _ask(address: str, path: str) -> None:
    """Raises OSError where a server does not answer, HTTPException or ValueError for what is no address."""
    request = urllib.request.Request(without_credentials(address).rstrip("/") + path)
    if credentials := authorization(address):
        request.add_unredirected_header("Authorization", credentials)  # they are for this server alone
    urllib.request.urlopen(request, timeout=TIMEOUT_S).close()


def _remote() -> Check:
    dvc = shutil.which("dvc")
    if dvc is None:
        return Check("DVC remote", False, "no `dvc` on the path: activate .venv")
    listed = subprocess.run([dvc, "remote", "list"], capture_output=True, text=True, check=False)
    found = listed.stdout.split()
    return Check("DVC remote", bool(found), found[0] if found else "none here: `dvc push` has nowhere to go")
