# Needs Python >= 3.11 (PYTHON=... to choose one), git and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-benchmarks
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo test test-slow lint format bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## virtual environment in .venv with everything that tests and demo need

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; some minutes)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train one agent on four tasks (about 5 minutes) and write a report
	@$(BIN)/ezm demo

test: $(STAMP) ## all tests but the slow ones
	@$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: $(STAMP) ## the slow tests too
	@$(BIN)/python -m pytest -q

lint: $(STAMP) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

$(BENCH_STAMP): $(STAMP)
	@$(PIP) -c constraints.txt -e '.[dev,benchmarks]'
	@touch $@

bench: $(BENCH_STAMP) ## learning curves against SAC on the cartpole suite (hours)
	@$(BIN)/python -m benchmarks.learning cartpole

clean: ## remove the virtual environment and caches; runs/ stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
