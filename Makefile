# `make book` and `make test` set themselves up: a virtual environment, the requirements, this project.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two things run at once below: more threads than cores makes both many times slower.
export OMP_NUM_THREADS := 1
unexport MPLBACKEND

.PHONY: help book pdf test quick lint format budget bench clean setup notebooks-sync notebooks-outputs pytest
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-18s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## the virtual environment, nothing else

$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the requirements into $(VENV) (about 6 GB, once)"
	@$(BIN)/python -m pip install -qq -r requirements.txt
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

book: $(STAMP)  ## run the notebooks and render the book into _build/html
	@$(BIN)/python -m book.tools.build

pdf: $(STAMP)  ## each chapter and the whole book as PDF into _build/pdf, from the built pages (needs Chromium)
	@$(BIN)/python -m book.tools.pdf

test: lint $(if $(SLOW),book) pytest  ## lint and the tests; with SLOW=1 the book too, and the tests that are slow

pytest: $(STAMP)
	@$(BIN)/python -m pytest tests notebooks --ignore=tests/benchmarks -q -n 2 --dist loadscope \
	    --nbval-lax --nbval-current-env --nbval-cell-timeout=600 $(if $(SLOW),--slow)

quick: $(STAMP)  ## unit tests of the core and of what changed since main: under a minute
	@$(BIN)/python -m pytest $$($(BIN)/python -m tests.quick) -q -n 2 --dist loadscope

lint: $(STAMP)  ## ruff, and the book's own rules for notebooks
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: run 'make format'"; $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/python -m book.tools.lint

format: $(STAMP) notebooks-sync  ## format code and notebooks
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

notebooks-sync: $(STAMP)  ## first cell, badge, ids and stored outputs of every notebook as lint wants them
	@$(BIN)/python -m book.tools.sync

notebooks-outputs: $(STAMP)  ## run the notebooks and store the outputs of the tagged cells
	@$(BIN)/python -m book.tools.sync --outputs

budget: $(STAMP)  ## whether each chapter keeps its 30 seconds (run alone, on a quiet machine)
	@$(BIN)/python -m book.tools.budget

bench: $(STAMP)  ## speed against timm and torchvision (run alone)
	@for bench in $(basename $(notdir $(wildcard tests/benchmarks/bench_*.py))); do \
	    $(BIN)/python -m tests.benchmarks.$$bench || exit 1; done

clean:  ## everything that is built; the virtual environment stays
	@rm -rf _build .pytest_cache .ruff_cache .hypothesis
