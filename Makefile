# make demo        the whole road on small images: install, train, report
# make test        what must hold before a commit (minutes)
# make test-all    the same and the slow tests
# make test-readers  others' libraries read a release, in $(VENV)-readers
# make lint        format, style, docstrings, types
# make format      rewrites the code as `make lint` wants it
# make docs        the documentation as a website, in site/
# make docs-check  the same, thrown away: every warning is an error
# make lock        writes lock/ anew for this Python, from the pinned versions
#
# Variables: PYTHON=python3.12   VENV=.venv   ACCELERATOR=cpu|cuda13|tpu
#            JOBS=2 (test processes)   CONFIG=configs/digits.py   WORKDIR=...

VENV ?= .venv
ACCELERATOR ?= cpu
JOBS ?= 2
CONFIG ?= configs/digits.py
WORKDIR ?= runs/digits
PYTEST_ARGS ?=

# The tests start many processes, and each would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

# Large pages for what the C library hands out; see docs/performance.md.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# The first interpreter that is new enough, unless PYTHON says which.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
CANDIDATES := python3 python3.13 python3.12 python3.11 python
PYTHON ?= $(firstword $(foreach p,$(CANDIDATES),$(shell $(p) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(p))) python3)

BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/installed-$(ACCELERATOR)
DEV_STAMP := $(VENV)/installed-dev
EXTRA := $(if $(filter-out cpu,$(ACCELERATOR)),'jax[$(ACCELERATOR)]')

# Known-good versions of everything below the pinned requirements, where they
# were resolved for this Python and machine.
LOCK = $$($(BIN)/python -c 'import os, platform, sys; \
  f = "lock/py%d%d.txt" % sys.version_info[:2]; \
  ok = os.path.exists(f) and sys.platform == "linux"; \
  ok = ok and platform.machine() == "x86_64"; \
  print("--constraint " + f if ok else "")')
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
# pip compiles modules on one core, those of the libraries' own tests too. A file
# that is not for this Python does not compile, which is no error.
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true

.PHONY: help demo test test-all test-readers lint format docs docs-check lock clean
.DELETE_ON_ERROR:

help:
	@awk '!/^#/ {exit} {sub(/^# ?/, ""); print}' Makefile

demo: $(RUN_STAMP)
	$(BIN)/python -m dp_diffusion.main --config=$(CONFIG) --workdir=$(WORKDIR)

test: $(DEV_STAMP)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow' $(PYTEST_ARGS)

test-all: $(DEV_STAMP)
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-readers: $(DEV_STAMP) $(VENV)-readers/installed
	DP_DIFFUSION_READERS=$(abspath $(VENV)-readers/bin/python) $(BIN)/python -m pytest -q tests/readers_test.py

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site

docs-check: $(VENV)/installed-docs
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir "$$folder/site"

lock: $(BIN)/python requirements-dev.txt requirements.txt
	$(PIP) install --upgrade -r requirements-dev.txt
	$(PIP) freeze > lock/$$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt

clean:
	rm -rf $(VENV) $(VENV)-readers site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@echo 'Left: runs/, which holds releases and private checkpoints.'

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) is not there; install Python 3.11 or later, or say where it is: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
	  echo "error: $$($(PYTHON) --version) is too old; install Python 3.11 or later, or say where it is: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }

$(RUN_STAMP): requirements.txt $(wildcard lock/*.txt) | $(BIN)/python
	@case '$(ACCELERATOR)' in cpu|cuda13|tpu) ;; *) \
	  echo "error: ACCELERATOR=$(ACCELERATOR); expected cpu, cuda13 or tpu" >&2; exit 2;; esac
	@echo 'Installing the requirements into $(VENV) (about a minute) ...'
	@$(PIP) install --no-compile -r requirements.txt $(EXTRA) $(LOCK)
	@$(COMPILE)
	@touch $@

$(VENV)/installed-docs: docs/requirements.txt | $(BIN)/python
	@$(PIP) install -r docs/requirements.txt
	@touch $@

$(VENV)-readers/installed: tests/readers/requirements.txt | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)-readers
	@$(VENV)-readers/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@

$(DEV_STAMP): requirements.txt requirements-dev.txt $(wildcard lock/*.txt) | $(BIN)/python
	@echo 'Installing the requirements into $(VENV) (about a minute) ...'
	@$(PIP) install --no-compile -r requirements-dev.txt $(LOCK)
	@$(COMPILE)
	@touch $@
