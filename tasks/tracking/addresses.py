"""Addresses of servers and databases: what may be printed of them, and whether anybody is there."""

import base64
import re
import socket
from urllib.parse import unquote, urlsplit

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # of databases, by scheme without the driver
IN_TEXT = re.compile(r"\w[\w+.-]*://\S+")


def without_credentials(address: str) -> str:
    """An address without name, password, query and fragment: each may hold a secret.

    All up to the last @ counts as name and password, for SQLAlchemy takes a password that is not quoted. Only of a
    file, whose address names no host, an @ is part of the path.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "", address
    if not rest.startswith("/"):
        rest = rest.rpartition("@")[2]
    return scheme + found + re.split("[?#]", rest, maxsplit=1)[0]


def text_without_credentials(text: str) -> str:
    """A text, e.g. what an error says, with every address in it as `without_credentials` gives it."""
    return IN_TEXT.sub(lambda found: without_credentials(found[0]), text)


def authorization(address: str) -> str:
    """The HTTP header of that name for the name and password in an address; "" where there are none."""
    who, found, _ = urlsplit(address).netloc.rpartition("@")
    return f"Basic {base64.b64encode(unquote(who).encode()).decode()}" if found else ""


def is_database(address: str) -> bool:
    """Whether it is the address of a database that listens on a host and port."""
    parts = urlsplit(without_credentials(address))
    return parts.scheme.partition("+")[0] in PORTS and bool(parts.hostname)


def reach_database(address: str, seconds: float) -> None:
    """Raises OSError where nothing listens there, and ValueError where its port is no number."""
    parts = urlsplit(without_credentials(address))
    place = (parts.hostname, parts.port or PORTS[parts.scheme.partition("+")[0]])
    socket.create_connection(place, timeout=seconds).close()
