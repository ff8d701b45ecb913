# Everything sets itself up in .venv; a machine needs Python 3.11+, make and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test torture mutants authserver dynamodb check format bench budget competitors clean audit

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(READY) ## a virtual environment with the locked packages

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): some 110 packages, a minute or two the first time …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## simulated CRMs, 1,000 events, one table
	@$(BIN)/connect demo

test: $(READY) authserver dynamodb ## all tests
	@$(BIN)/python -m pytest -n 5 --dist worksteal

torture: $(READY) ## kills, outages, full disks: the promises of docs/guarantees.md, and its figures; twenty minutes
	@$(BIN)/python tests/torture/run.py $(ONLY)

mutants: $(READY) ## each promise's test fails without what keeps the promise; some minutes
	@$(BIN)/python tests/torture/mutants.py $(ONLY)

authserver: .cache/authserver/.ready ## an authorization server for some of the tests, where node is there

.cache/authserver/.ready: tests/authserver/package.json tests/authserver/package-lock.json
	@mkdir -p .cache/authserver
	@cp tests/authserver/package.json tests/authserver/package-lock.json .cache/authserver
	@if command -v npm > /dev/null; then \
	  (cd .cache/authserver && npm ci --ignore-scripts --no-audit --no-fund --silent && touch .ready) \
	    || echo "oidc-provider could not be installed; the tests that need it are left out"; \
	else echo "node is not here; the tests that need it are left out"; fi

dynamodb: .cache/dynamodb/.ready ## Amazon's DynamoDB Local for some of the tests, where Java and Maven are there

.cache/dynamodb/.ready: tests/dynamodb/pom.xml
	@mkdir -p .cache/dynamodb
	@if command -v mvn > /dev/null && command -v java > /dev/null; then \
	  (mvn --quiet --batch-mode --file tests/dynamodb/pom.xml dependency:copy-dependencies \
	    -DoutputDirectory=$(CURDIR)/.cache/dynamodb/lib > .cache/dynamodb/said 2>&1 && touch .cache/dynamodb/.ready) \
	    || echo "DynamoDB Local could not be fetched; the tests that need it are left out"; \
	else echo "Java or Maven is not here; the tests that need DynamoDB Local are left out"; fi

check: $(READY) ## format, lint, types, and the project's own YAML
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/connect validate

format: $(READY) ## put the code into shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) competitors ## how fast it is beside others: docs/performance.md; make bench ONLY=mapping
	@$(BIN)/python -m benchmarks $(ONLY) --write docs/performance.md

budget: $(READY) ## the hot paths cost at most 15 % more than benchmarks/budget.json says; half a minute
	@$(BIN)/python -m benchmarks.budget

competitors: .cache/benchmarks/venv/.ready .cache/benchmarks/node/.ready ## what the benchmarks compare with, in environments of its own

.cache/benchmarks/venv/.ready: benchmarks/competitors.txt
	@mkdir -p .cache/benchmarks
	@$(PYTHON) -m venv .cache/benchmarks/venv
	@echo "setting up .cache/benchmarks/venv: airbyte-cdk, drt-core, huey …"
	@.cache/benchmarks/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement benchmarks/competitors.txt > .cache/benchmarks/venv.said 2>&1 \
	  && rm .cache/benchmarks/venv.said && touch $@ \
	  || { tail -1 .cache/benchmarks/venv.said; echo "they could not be installed; the benchmarks say so where they miss them"; }

.cache/benchmarks/node/.ready: benchmarks/node/package.json benchmarks/node/package-lock.json
	@mkdir -p .cache/benchmarks/node
	@cp benchmarks/node/package.json benchmarks/node/package-lock.json .cache/benchmarks/node
	@if command -v npm > /dev/null; then \
	  (cd .cache/benchmarks/node && npm ci --ignore-scripts --no-audit --no-fund --silent > ../node.said 2>&1 && rm ../node.said && touch .ready) \
	    || echo "the packages for node could not be installed; the benchmarks say so where they miss them"; \
	else echo "node is not here; the benchmarks say so where they miss it"; fi

audit: .cache/audit/bin/pip-audit ## known weaknesses of the locked packages; asks api.osv.dev
	@.cache/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --vulnerability-service osv > .cache/audit/said 2>&1; \
	  code=$$?; if grep -q -e ConnectionError -e Traceback .cache/audit/said; then \
	    tail -1 .cache/audit/said; \
	    echo "NOTHING WAS CHECKED: api.osv.dev did not answer. Run it where that is reached, or from a copy of its data:"; \
	    echo "  osv-scanner scan --offline --download-offline-databases -L requirements.txt:constraints.txt"; exit 2; \
	  fi; cat .cache/audit/said; exit $$code

.cache/audit/bin/pip-audit:
	@$(PYTHON) -m venv .cache/audit && .cache/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit

clean: ## away with what was made
	@rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
