"""No network but loopback for every Python process that has this folder on PYTHONPATH.

Python imports `sitecustomize` before anything else. Each attempt to leave the machine, a look-up of a name
included, is written to the file NETWORK_ATTEMPTS and refused. Audit hooks see what goes through the
`socket` module, whoever calls it, and cannot be removed.
"""

import ipaddress
import os
import sys
import traceback

LOG = os.environ["NETWORK_ATTEMPTS"]
WITH_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # arguments: socket, address
WITH_HOST = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}  # host first

sys.modules["uvloop"] = None  # type: ignore[assignment]  # it opens sockets of its own, unseen by the hook


def _is_here(host: object) -> bool:
    if host in (None, "", b"", "localhost", b"localhost", "0.0.0.0", "::"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in WITH_ADDRESS:
        address = arguments[1]
        if not isinstance(address, tuple):
            return  # a Unix socket, or a message on a connected one
        host = address[0]
    elif event in WITH_HOST:
        host = arguments[0]
    else:
        return
    if _is_here(host):
        return
    frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()[-8:-1]]
    line = f"{event} {host!r} by {sys.argv} at {' < '.join(reversed(frames))}\n"
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)
    raise ConnectionRefusedError(f"the test's network guard refuses {host!r}")


sys.addaudithook(_refuse)
