"""Keyed pseudonyms: HMAC-SHA-256 with a key that never leaves this machine's git-ignored folder.

Without the key nobody can test whether a known identifier is in the set; with it, pseudonyms stay the same
from run to run. This is data minimisation, not certified de-identification.
"""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from tasks.errors import UserError
from tasks.files import private_folder
from tasks.paths import home

KEY_FILE = Path(".xraysynth/pseudonym.key")
KEY_BYTES = 16  # at least
KEY_VARIABLE = "XRAYSYNTH_PSEUDONYM_KEY"


def load_key(path: Path | None = None, make: bool = True) -> bytes:
    """The key: of the environment variable, else of `path`, by default that of the project, made with mode 600.

    Without `make` one that is not there is made for this once, and not kept.
    """
    path = path or home() / KEY_FILE
    if value := os.environ.get(KEY_VARIABLE):
        return value.encode()
    try:
        if not path.exists():
            if not make:
                return secrets.token_bytes()
            private_folder(path.parent)
            with NamedTemporaryFile("w", dir=path.parent, prefix=path.name) as file:  # made with mode 600
                file.write(secrets.token_hex(32))
                file.flush()
                with suppress(FileExistsError):  # whole or not at all; another process may have been faster
                    os.link(file.name, path)
        key = path.read_bytes()
    except PermissionError:
        raise UserError(f"no permission for the pseudonym key {path}; make it readable or set {KEY_VARIABLE}") from None
    if len(key) < KEY_BYTES:
        raise UserError(f"the pseudonym key {path} is cut short; restore it, or delete it for new pseudonyms")
    return key


def pseudonym(key: bytes, kind: str, identifier: str, length: int = 12) -> str:
    """`length` hexadecimal digits for `identifier`; `kind` keeps patients and images apart."""
    message = f"{kind}:{identifier}".encode(errors="surrogateescape")  # paths need not be UTF-8
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:length]
