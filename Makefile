# `make demo` and `make test` work from a fresh clone: they make .venv and install what they need.
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3.10 python3 python; do \
	if $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; \
	then echo $$p; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
FUZZ_SECONDS ?= 3600
BENCHMARKS ?= import_time mckp train_step nes growth training evaluation heads_and_gradients

.DEFAULT_GOAL := help
.PHONY: help venv demo test fuzz lint format types doctest notebooks check matrix bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

venv: $(VENV)/.installed ## make .venv with the package and its development tools

$(VENV)/.installed: setup.cfg setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 found; name one: make PYTHON=/path/to/python"; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): some 2 GB, a few minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --progress-bar on -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## train, evaluate, allocate and export on a simulation (about 2 minutes)
	@$(BIN)/tfalloc demo --output demo-output --overwrite

test: $(VENV)/.installed ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=20 tests

fuzz: $(VENV)/.installed ## try bad files and options on commands and functions (an hour)
	$(BIN)/python -m tests.bad_input.fuzz --seconds $(FUZZ_SECONDS)

doctest: $(VENV)/.installed ## run the examples in docstrings
	$(BIN)/python -m pytest -p tests.conftest --doctest-modules tfalloc studies -p no:cacheprovider

lint: $(VENV)/.installed ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed ## mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed ## check types
	$(BIN)/mypy

notebooks: $(VENV)/.installed ## execute the notebooks at reduced size
	TFALLOC_FAST=1 $(BIN)/python notebooks/execute.py --check

check: test lint types doctest notebooks ## all of the above

matrix: $(VENV)/.installed ## test the supported corners of Python and TensorFlow that are installed
	$(BIN)/nox

bench: $(VENV)/.installed ## measure: tables on the screen, JSON in benchmarks/results (hours)
	for f in $(BENCHMARKS); do \
		$(BIN)/python benchmarks/$$f.py --json benchmarks/results/$$f.json || exit 1; done

clean: ## remove what these commands made, .venv too
	rm -rf $(VENV) .nox build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo-output
