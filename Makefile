# Needs git, make and Python 3.11 to 3.14; everything else goes into .venv. The first of these that will do is taken;
# PYTHON=... names another.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
VENV := .venv
BIN := $(VENV)/bin
# A stamp is as new as its last successful installation, so that nothing is installed twice.
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-benchmarks
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo test test-slow lint format docs bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## virtual environment in .venv with everything that demo, test, lint and docs need

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/pip && exit; \
	for python in $(PYTHON); do \
	  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	    && { $$python -m venv $(VENV); exit; }; \
	done; \
	echo "error: none of $(PYTHON) is Python 3.11 to 3.14; name one: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)" >&2; \
	exit 2
	@echo "installing into $(VENV) (once; some minutes)"
	@$(PIP) -c constraints.txt -e '.[dev,docs]' dm-env lxml
# labmaze, which dm_control requires and no task of ezm uses, has no wheel from Python 3.13 on.
	@$(PIP) -c constraints.txt --no-deps dm_control
	@touch $@

demo: $(STAMP) ## train one agent on four tasks (some minutes) and write a report
	@$(BIN)/ezm demo

test: $(STAMP) ## all tests but the slow ones
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(STAMP) ## the slow tests alone: they train agents, so one at a time
	@XLA_FLAGS= $(BIN)/python -m pytest -q -m slow

lint: $(STAMP) ## ruff, mypy and the prose rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python .ci/prose.py

format: $(STAMP) ## let ruff rewrite the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP) ## the documentation site, into site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(BENCH_STAMP): $(STAMP)
	@echo "installing the benchmarks' packages into $(VENV) (once; PyTorch is among them)"
	@$(PIP) -c constraints.txt -e '.[dev,docs,benchmarks]'
	@touch $@

bench: $(BENCH_STAMP) ## learning curves against SAC on the cartpole suite (hours)
	@$(BIN)/python -m benchmarks.learning cartpole

clean: ## remove the virtual environment and caches; runs/ stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
