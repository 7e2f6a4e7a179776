# make serve   set up if needed, then start everything on this machine
# make test    set up if needed, then run the tests
# Needs Python 3.11, git and make; everything else goes into .venv.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PYTHON ?= $(shell command -v python3.11)
CONFIG ?= cluster.yaml
LOAD_HOST ?= http://127.0.0.1:8000
LOAD_USERS ?= 16
LOAD_TIME ?= 60s

# Where pip finds PyTorch's CPU builds ("+cpu") when its usual index does not have them: the address of that index.
HEADROOM_TORCH_INDEX ?=
TORCH_INDEX := $(if $(HEADROOM_TORCH_INDEX),--extra-index-url $(HEADROOM_TORCH_INDEX))
SCHEMATHESIS ?= schemathesis
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
PIP_LOG := $(VENV)/set-up.log

.PHONY: help setup serve test test-unit test-app test-core test-models test-integration test-all lint format types \
  bench bench-peers demo load fuzz lock clean

help:
	@sed -n '1,3p' Makefile
	@echo "Targets: setup serve test test-unit test-integration test-all lint format types bench bench-peers demo load fuzz lock clean"

setup: $(STAMP)

# The lock is complete, so --no-deps: resolving again would bring torchvision and others that break vLLM on CPU.
# pip compiles on one core, which takes a minute; compileall on all. Its status says that a file is not for this Python.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No python3.11 found. Install Python 3.11, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "$(PYTHON) is no Python 3.11, which the lock file is made for." >&2; exit 1; }
	@echo "Setting up $(VENV): $$(grep -c == requirements.lock) pinned packages, some minutes the first time ..."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(PIP) install --no-deps --no-compile $(TORCH_INDEX) -r requirements.lock > $(PIP_LOG) 2>&1 \
	  && { $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib >> $(PIP_LOG) 2>&1 || true; } \
	  && $(PIP) install --no-deps --no-build-isolation -e . >> $(PIP_LOG) 2>&1 \
	  || { tail -n 20 $(PIP_LOG) >&2; \
	       echo "Setting up failed; all of it is in $(PIP_LOG). If torch was not found, set HEADROOM_TORCH_INDEX to the" \
	            "address of PyTorch's index of CPU builds." >&2; exit 1; }
	@touch $(STAMP)

serve: $(STAMP)
	@$(BIN)/headroom up $(CONFIG)

# What needs no cluster goes side by side, the longest first; each part is shown when it is over. The cluster is alone.
test: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=3 --output-sync test-app test-core test-models
	@$(MAKE) --no-print-directory test-integration

test-unit: test-app test-core

test-app: $(STAMP)
	@$(BIN)/python -m pytest -q tests/serve_app

test-core: $(STAMP)
	@$(BIN)/python -m pytest -q --ignore=tests/serve_app --ignore=tests/integration

# The default models, which the integration tests serve, in what time the tests beside it leave.
test-models: $(STAMP)
	@nice -n 10 $(BIN)/python -m tests.integration.default_models

test-integration: $(STAMP)
	@$(BIN)/python -m pytest -q tests/integration

# The slow ones too, such as training the default models.
test-all: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not gpu and not bench"

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

format: $(STAMP)
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

types: $(STAMP)
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python -m tests.bench

bench-peers: $(STAMP)
	@$(BIN)/python -m tests.bench --peers

# Of a running cluster. Locust is not in the lock: .venv/bin/pip install locust
load: $(STAMP)
	@$(BIN)/python -c "import locust" 2>/dev/null || { echo "make load needs Locust: $(BIN)/pip install locust" >&2; exit 1; }
	@mkdir -p bench-results
	@$(BIN)/locust -f tests/load/locustfile.py --headless --host $(LOAD_HOST) --users $(LOAD_USERS) \
	  --spawn-rate $(LOAD_USERS) --run-time $(LOAD_TIME) --html bench-results/load.html

# Of a target of its own. schemathesis is not in the lock: install it apart, make fuzz SCHEMATHESIS=X/bin/schemathesis
fuzz: $(STAMP)
	@$(BIN)/python -m tests.load.fuzz --schemathesis $(SCHEMATHESIS)

lock:
	@command -v uv > /dev/null || { echo "make lock needs uv." >&2; exit 1; }
	uv pip compile pyproject.toml --quiet --extra cpu --extra dev --python-version 3.11 --override lock-overrides.txt \
	  --index-strategy unsafe-best-match $(TORCH_INDEX) --no-annotate --no-header --output-file requirements.lock

# From a training job to tokens of its weights, on two Ray nodes of this machine; some minutes.
demo: $(STAMP)
	@$(BIN)/python -m tests.integration.road

clean:
	rm -rf $(VENV) build dist *.egg-info bench-results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
