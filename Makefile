VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Files, not tests, are shared out: what a file sets up once is set up once.
PARALLEL := --numprocesses auto --dist loadfile

.PHONY: help demo test test-iqa test-all bench-gpu check style clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,eval,hf]'
	touch $@

demo: $(INSTALLED)  ## Prune the shipped model, search, compare, report (5 to 7 minutes on 2 cores)
	$(BIN)/diff-es run demo --output runs/demo --resume

test: $(INSTALLED)  ## Run the tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest $(PARALLEL)

test-iqa: $(INSTALLED)  ## Install pyiqa (non-commercial licence) and run the tests that need it
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[iqa]'
	$(BIN)/python -m pytest tests/metrics/test_no_reference.py

test-all: $(INSTALLED)  ## Run the tests, also those that take minutes
	$(BIN)/python -m pytest $(PARALLEL) --slow

bench-gpu: $(INSTALLED)  ## Measure DiT-XL/2 on a CUDA device: latency, memory, cost of a candidate (8 minutes)
	$(BIN)/python benchmarks/gpu.py

check: $(INSTALLED)  ## Lint, check formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(INSTALLED)  ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
