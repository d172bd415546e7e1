# make run   the whole pipeline; with simulated films if data/raw is empty
# make serve Prefect, MLflow and a worker on this machine; Ctrl-C stops them
# make test  the tests
# make audit known vulnerabilities of what is installed
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Nothing phones home, whatever is started from here.
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export NO_ALBUMENTATIONS_UPDATE := 1

# Bytecode is made when a module is first imported, not for all that is installed: that must be allowed.
unexport PYTHONDONTWRITEBYTECODE

# The one that comes with Python 3.11 takes twice as long over the same packages.
PIP_VERSION := 26.3
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.PHONY: run serve raw remote test lint audit install clean

# By the flow, which trains both generators side by side: sooner done than one after the other on all cores.
run: install remote raw
	@python -m flows.pipeline
	@xraysynth verdict

serve: install remote
	@python -m flows.serve

# The archive, if params.yaml takes it from data/raw: what is there; else what the DVC remote has of it; else
# simulated films.
raw: install
	@if grep -Eq '^ +source: data/raw( |$$)' params.yaml; then \
		if [ -n "$$(ls -A data/raw 2>/dev/null)" ]; then :; \
		elif [ -f data/raw.dvc ]; then dvc pull --quiet data/raw.dvc; \
		else xraysynth simulate data/raw; fi && dvc add --quiet data/raw; \
	fi

# Where `dvc push` goes: dvc-remote/ in this folder, or what XRAYSYNTH_DVC_REMOTE says (a folder, s3://..., ...).
remote: install
ifdef XRAYSYNTH_DVC_REMOTE
	@dvc remote modify --local storage url "$(XRAYSYNTH_DVC_REMOTE)"
endif

# A process a core, each of one thread: steps as small as the tests' gain nothing by a second thread. In the order that
# tests/conftest.py gives: the longest first.
test: export OMP_NUM_THREADS := 1
test: .venv/.installed-dev
	pytest --numprocesses auto --dist loadscope --no-loadscope-reorder

lint: .venv/.installed-dev
	ruff check .
	ruff format --check .
	mypy

# Fails on a finding; where the database of vulnerabilities cannot be reached it says so and does not.
audit: .venv/.installed-dev
	@python .ci/audit.py

install: .venv/.installed
.venv/.installed: pyproject.toml constraints.txt .dvc/plots/make_page.py .dvc/plots/page.template.html
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	|| { echo "error: Python 3.11 or 3.12 is needed; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) pip==$(PIP_VERSION)
	$(PIP) --editable .
	$(BIN)/python .dvc/plots/make_page.py
	@touch $@

# What the tests, the linters and the audit need besides.
.venv/.installed-dev: .venv/.installed
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache dvc_plots
