# Everything sets itself up in .venv; a machine needs Python 3.11+, make and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test check format bench clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(READY) ## a virtual environment with the locked packages

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): some 60 packages, a minute or two the first time …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## simulated CRMs, 1,000 events, one table
	@$(BIN)/connect demo

test: $(READY) ## all tests
	@$(BIN)/python -m pytest -n 2

check: $(READY) ## format, lint, types, and the project's own YAML
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/connect validate

format: $(READY) ## put the code into shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## figures: mapping, durable intake, drain
	@$(BIN)/python -m bench

clean: ## away with what was made
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
