# Every target sets up what it needs; nothing has to be there first but Python >= 3.11 and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
WORKERS ?= 2

.PHONY: help demo test lint unit molecule bench docs requirements clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run ## Start the sandbox and maintain its database, twice
	@.ci/demo

test: lint unit molecule ## Lint, unit, policy and integration tests, Molecule scenarios

lint: $(VENV)/dev ## ansible-lint, yamllint, ruff, mypy
	yamllint --strict -c .config/yamllint.yml .
	ruff check .
	mypy
	ansible-lint --offline --profile production playbooks roles inventories tests/containers/playbooks

unit: $(VENV)/dev ## Unit, policy and integration tests
	@tests/prerequisites
	pytest -n $(WORKERS) --dist loadfile tests

molecule: $(VENV)/dev ## Molecule scenarios in containers (ROLE=database SCENARIO=worn for one)
	@tests/containers/run $(ROLE) $(SCENARIO)

bench: $(VENV)/dev ## Measure, and write docs/benchmarks.md
	@tests/prerequisites --bench
	python tests/bench

docs: $(VENV)/run ## Render docs/runbooks from the roles' metadata
	runbook docs

requirements: $(VENV)/dev ## Compile requirements/*.txt from pyproject.toml
	cd requirements && uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra sandbox --extra private-ca --extra checkout ../pyproject.toml -o run.txt
	cd requirements && uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra sandbox --extra private-ca --extra checkout --extra dev ../pyproject.toml -o dev.txt

clean: ## Remove the sandbox, the environment and all caches
	@[ ! -x $(BIN)/runbook ] || $(BIN)/runbook run sandbox -i inventories/sandbox --set sandbox_state=absent >/dev/null
	rm -rf $(VENV) .sandbox .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible dist build
	find roles wrapper tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A mark of what is installed: newer requirements install anew.
$(VENV)/run: requirements/run.txt pyproject.toml | $(VENV)/pyvenv.cfg
	@.ci/install requirements/run.txt
	@touch $@

$(VENV)/dev: requirements/dev.txt pyproject.toml | $(VENV)/pyvenv.cfg
	@.ci/install requirements/dev.txt
	@touch $@ $(VENV)/run

$(VENV)/pyvenv.cfg:
	@.ci/environment $(VENV)
