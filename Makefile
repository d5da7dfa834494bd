# `make demo` and `make test` build the environment themselves; a second call finds it ready.

PYTHON ?= python3
DATA ?=
NAME ?= demo
BIN := .venv/bin
READY := .venv/.ready
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
MODULES := $(subst /,.,$(patsubst %/__init__,%,$(basename $(filter-out ndt/__init__.py %/__main__.py,$(sort $(shell find -L ndt -name '*.py'))))))
NAMED := import ndt, pdoc.__main__ as p; [vars(m).update((n, getattr(m, n)) for n in m.__all__) for m in (ndt, ndt.data)]; p.cli()

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-attack test-browser lint types format bench docs package clean check

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

install: $(READY) ## Build the environment in .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ndt needs Python 3.11 or newer, found " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## Recordings to decoder, scores and report; DATA="path/*.nwb" takes your own files
	$(BIN)/ndt demo $(if $(DATA),--data $(DATA))

test: $(READY) ## Fast tests
	$(TEST) -n 2 --dist loadfile -m 'not slow and not browser and not attack'

test-slow: $(READY) ## Tests that train for longer
	$(TEST) -n 2 -m 'slow and not browser and not attack'

test-attack: $(READY) ## Every attack on every file that a verb reads
	$(TEST) -m attack

test-browser: $(READY) ## The report in headless Chromium
	@.ci/chromium || true
	$(TEST) -m browser

lint: types ## Format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY) ## mypy (strict) and pyright
	$(BIN)/mypy
	$(BIN)/pyright --warnings

format: $(READY) ## Rewrite the source in house style
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(READY) ## Run the benchmark NAME (default: demo)
	$(BIN)/ndt bench $(NAME)

docs: $(READY) ## Reference pages from the docstrings, in build/docs
	rm -rf build/docs
	@$(BIN)/python -c '$(NAMED)' --docformat google --math --output-directory build/docs ndt $(MODULES)

package: $(READY) ## Wheel and sdist, and the wheel tried in a clean environment
	@.ci/package

check: lint test test-slow test-browser ## What .ci/run runs

clean: ## Remove the environment and everything that was built
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
