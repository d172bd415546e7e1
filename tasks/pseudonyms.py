"""Keyed pseudonyms: HMAC-SHA-256 with a key that never leaves this machine's git-ignored folder.

Without the key nobody can test whether a known identifier is in the set; with it, pseudonyms stay the same
from run to run. This is data minimisation, not certified de-identification.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from tasks.errors import UserError

KEY_FILE = Path(".xraysynth/pseudonym.key")
KEY_VARIABLE = "XRAYSYNTH_PSEUDONYM_KEY"


def load_key(path: Path = KEY_FILE) -> bytes:
    """The key: of the environment variable, else of `path`, which is made with mode 600 on first use."""
    if value := os.environ.get(KEY_VARIABLE):
        return value.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        return path.read_bytes()
    except PermissionError:
        raise UserError(f"no permission for the pseudonym key {path}; make it readable or set {KEY_VARIABLE}") from None


def pseudonym(key: bytes, kind: str, identifier: str, length: int = 12) -> str:
    """`length` hexadecimal digits for `identifier`; `kind` keeps patients and images apart."""
    message = f"{kind}:{identifier}".encode(errors="surrogateescape")  # paths need not be UTF-8
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:length]
