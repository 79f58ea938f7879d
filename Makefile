# Every target sets up .venv by itself; nothing but Python 3.11 and pip is needed beforehand.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ckptdbg-installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo test test-all test-interop lint bench
.DEFAULT_GOAL := help

help:
	@echo "make demo          plant a fault in a tiny conversion and find it"
	@echo "make test          lint, types and the quick tests"
	@echo "make test-all      lint, types and every test"
	@echo "make test-interop  the tests against third-party model libraries that are installed"
	@echo "make lint          ruff and pyright"
	@echo "make bench         the benchmarks"

demo: $(STAMP)
	$(BIN)/ckptdbg demo

test: lint
	$(PYTEST) -m "not slow and not interop"

test-all: lint
	$(PYTEST) -m "not interop"

test-interop: $(STAMP)
	$(PYTEST) -m interop

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP)
	@found=0; for file in benchmarks/*.py; do \
	  [ -e "$$file" ] || continue; found=1; echo "== $$file"; OMP_NUM_THREADS=1 $(BIN)/python "$$file" || exit 1; \
	done; [ $$found = 1 ] || { echo "no benchmarks/*.py"; exit 1; }

# torch comes first and pinned: resolved along with the rest, it can pull in gigabytes of accelerator packages.
$(STAMP): constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(VENV) is older than Python 3.11: remove it, or set PYTHON" >&2; exit 1; }
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	@touch $@
