"""The stages, one module each: files in, files out, a plain typed function `run(...)`."""

import os

# A hospital's network is no place for telemetry or update checks: off before the libraries are imported.
for _variable, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "DO_NOT_TRACK": "1",
}.items():
    os.environ.setdefault(_variable, _value)

SIMULATOR = "xraysynth simulate"  # in SoftwareVersions (0018,1020) of films that are nobody's
