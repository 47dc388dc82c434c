# Everything a newcomer runs. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help study check test test-cluster test-aws soak clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	$(INSTALL) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

study: .venv/installed ## Install, run the digits study and write reports/digits/report.html
	$(BIN)/vae-study run search_spaces/digits.yaml

check: .venv/installed-dev ## Lint, types, and which room of the house may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: .venv/installed-dev ## Install what tests need and run them all
	$(BIN)/pytest --numprocesses 2 --dist loadfile

test-cluster: .venv/installed-dev ## A cluster of three machines on this one, over ssh; root, some minutes
	$(BIN)/pytest -s -rs tests/cluster/on_hosts.py tests/cluster/on_autoscaler.py

test-aws: .venv/installed-dev ## cluster.yaml with Ray's AWS provider and a stand-in for AWS; root, some minutes
	$(BIN)/pytest -s -rs tests/cluster/on_aws.py

soak: .venv/installed-dev ## 200 tiny trials with a kill every 20 seconds; some minutes
	$(BIN)/python -m tests.faults.soak

clean: ## Remove the virtual environment and caches; studies and reports stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
