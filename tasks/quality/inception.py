"""The published FID weights: from a file of the user, or downloaded once when params.yaml asks for it."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from model.measures.inception import WEIGHTS_SHA256, Inception, load_inception
from tasks.errors import UserError
from tasks.files import written_whole

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
CACHE = Path(".xraysynth") / URL.rpartition("/")[2]  # ignored by git, outside DVC
DOWNLOAD = "download"
USED = (
    "Inception v3 with the published weights of 2015-12-05, for FID and KID; films are enlarged to 299 px bilinearly, "
    "as pytorch-fid does."
)


def load(setting: str) -> tuple[Inception | None, str]:
    """The network that `quality.inception_weights` names, or None; and a sentence that says what was used or why not.

    '' is none, `download` fetches the weights once into CACHE, all else is a path. Only `download` uses the network.
    Weights that cannot be had are no error: the offline measures go on without.
    """
    if not setting:
        return None, "Not used: quality.inception_weights is empty, so there is no FID."
    path = CACHE if setting == DOWNLOAD else Path(setting)
    try:
        if setting == DOWNLOAD and not path.exists():
            _download(path)
        return load_inception(path), USED
    except (OSError, ValueError, UserError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        return None, f"Not used: the weights could not be had from {_named(setting)} ({reason}), so there is no FID."


def _named(setting: str) -> str:
    """For a report that may be published: no path of this machine."""
    return "the network" if setting == DOWNLOAD else f"the file {Path(setting).name!r}"


def _download(path: Path) -> None:
    with urllib.request.urlopen(URL, timeout=60) as response:
        content = response.read()
    if hashlib.sha256(content).hexdigest() != WEIGHTS_SHA256:
        raise ValueError("what came has not the SHA-256 of the published weights")
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
