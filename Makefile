# Two commands matter: `make demo` and `make test`. Everything lives in .venv and .cache; `make clean` removes both.
# Installs are stamped with the lock they came from: a second run starts at once, a changed lock installs again.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
SOURCES := gateway tests $(wildcard loadtests)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format bench faults docs lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## The whole product on this machine (ARGS="--port 0" passes flags on)
	$(BIN)/gateway demo $(ARGS)

test: $(VENV)/.dev ## Every test, against real Kafka, Redis, Postgres, nginx and Chromium (ARGS="-k cursor" narrows)
	$(BIN)/python -m tests.parts
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev ## Formatting, lint rules, types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.dev ## Put the code into the house's format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(VENV)/.dev ## The load tests that docs/ quotes (ARGS picks them)
	$(BIN)/python -m loadtests $(ARGS)

faults: $(VENV)/.dev ## Bad days of every part under readers, and who lost what (ARGS="--runs 1" is short)
	$(BIN)/python -m loadtests.faults $(ARGS)

docs: $(VENV)/.dev ## Write the generated pages of docs/reference again
	$(BIN)/python -m tests.reference_pages

lock: $(VENV)/.dev ## Resolve the dependencies again (ARGS="--upgrade" takes newer ones)
	$(COMPILE) $(ARGS) --extra demo --extra postgres --group build pyproject.toml --output-file requirements.lock
	$(COMPILE) $(ARGS) --all-extras --group build -c requirements.lock pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) $(ARGS) --extra postgres --extra otel --group build -c requirements-dev.lock pyproject.toml --output-file deploy/requirements.lock

clean: ## Remove everything that make made
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# The build tools come out of the lock as well, so pip asks the registry for nothing that is not in it.
$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
