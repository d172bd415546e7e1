"""`make audit`: what is known against the versions in constraints.txt. Exit code 1 on a finding.

Where the database (PyPI's, or what pip-audit is told to ask) cannot be reached this says so and ends with 0: being
offline is no finding. Where it answers for one package and not for all, nothing was checked either, but the exit code
is 1.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
OPTIONS = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]


def audit(pins: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What the database says of each package, none where it does not answer; and what pip-audit said last."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        done = subprocess.run(["pip-audit", "-r", file, *OPTIONS], capture_output=True, text=True, check=False)
    said = next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], said
    return [] if all("skip_reason" in package for package in found) else found, said


def main() -> int:
    pins = CONSTRAINTS.read_text(encoding="utf-8").split()
    # One first: where nothing answers there is no need to ask three hundred times.
    reached, _ = audit([next(pin for pin in pins if pin.startswith("requests=="))])
    if not reached:
        print("audit: the database of known vulnerabilities cannot be reached from here; nothing was checked")
        return 0
    packages, said = audit(pins)
    if not packages:
        print(f"audit: the database answers for one package, not for all of them ({said}); nothing was checked")
        return 1
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    findings = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    for package, vulnerability in findings:
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {mended}")
    unknown = f"; unknown to it: {', '.join(skipped)}" if skipped else ""
    print(f"audit: {len(packages) - len(skipped)} packages checked, {len(findings)} findings{unknown}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
