"""When and where the stages run. Prefect is imported here and nowhere else.

Settings come first, because Prefect reads them at import. Each is a default: what the user sets in
the environment wins.
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
USER_PROFILES = Path.home() / ".prefect" / "profiles.toml"

# Nothing phones home. DO_NOT_TRACK is for the client, the other for a server started from here.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# Runs are remembered in the project, not in the user's home: two clones don't share a history, a
# service account needs no writable home, and removing the clone removes its traces. The user's own
# profiles still count, so a server chosen by `prefect config set PREFECT_API_URL=...` is used.
if "PREFECT_HOME" not in os.environ:
    os.environ["PREFECT_HOME"] = str(PROJECT / ".prefect")
    if USER_PROFILES.is_file():
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(USER_PROFILES))

# With no server named, Prefect starts one for the length of the run; 20 s is short for a cold disk.
os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
