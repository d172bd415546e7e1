"""How long a newcomer waits: a fresh clone, README's two commands, and `dvc repro` again. Prints a table.

    python benchmarks/first_light.py [REPOSITORY]

Needs nothing but Python and git; takes about twenty minutes. What is timed runs in a temporary folder.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = {
    "make install": ["make", "install"],
    "make run, after that": ["make", "run"],
    "dvc repro again": [".venv/bin/dvc", "repro"],
    "make test": ["make", "test"],
}


def main(repository: str) -> int:
    """Clone, run and time; the exit code is that of the first step that fails."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "xraysynth"
        subprocess.run(["git", "clone", "--quiet", repository, clone], check=True)
        print(f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}")
        print("| step | seconds | exit code |\n|---|---|---|", flush=True)
        for name, command in STEPS.items():
            start = time.monotonic()
            with (Path(folder) / "log").open("w+") as log:
                code = subprocess.run(command, cwd=clone, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
                print(f"| `{name}` | {time.monotonic() - start:.1f} | {code} |", flush=True)
                if code:
                    log.seek(0)
                    print(log.read()[-4000:])
                    return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "."))
