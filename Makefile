# Everything a newcomer runs. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A file's tests share what it has started. The slow files come first, as tests/conftest.py sorts them; they wait for
# other processes for a third of their time, so three of them keep two cores busy.
PYTEST := $(BIN)/pytest --dist loadfile --no-loadscope-reorder
# The processes of the tests share the cores: more threads of libraries would wait for each other.
test test-local: export OMP_NUM_THREADS := 1
# Each of the many processes would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help study check docs notebook test test-local test-all test-cluster test-aws soak chaos canary clean
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

check: .venv/installed-dev ## Lint, types, and which folder may import which, and the size of the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/structure.py

docs: .venv/installed-dev ## The documentation as a site with the API reference in build/docs, and docs/keys.md
	$(BIN)/python docs/reference.py keys
	$(BIN)/python docs/reference.py site build/docs

notebook: .venv/installed-dev ## Execute docs/notebook.ipynb again
	cd docs && ../$(BIN)/python reference.py notebook

test: .venv/installed-dev ## Install what tests need and run most of them, and a study from end to end; about 6 minutes
	$(PYTEST) --numprocesses 2 -m 'not (thorough or studies or processes or browser or database or object_store or cluster)'

test-local: .venv/installed-dev ## All tests but those of clusters: also studies, killed processes, Chromium, PostgreSQL, S3; 20 to 40 minutes
	$(PYTEST) --numprocesses 3

test-all: test-local test-cluster ## All tests: test-local and test-cluster

test-cluster: .venv/installed-dev ## Clusters of three machines on this one: over ssh, KubeRay's pods, Slurm; root, some minutes
	$(BIN)/pytest -s -rs tests/cluster/on_hosts.py tests/cluster/on_autoscaler.py tests/cluster/on_slurm.py tests/cluster/on_kuberay.py

test-aws: .venv/installed-dev ## cluster.yaml with Ray's AWS provider and a stand-in for AWS; root, some minutes
	$(BIN)/pytest -s -rs tests/cluster/on_aws.py

soak: .venv/installed-dev ## 200 tiny trials with a kill every 20 seconds; some minutes
	$(BIN)/python -m tests.faults.soak

chaos: .venv/installed-dev ## 50 random disturbances of studies of 8 trials, each then equal to an undisturbed one; 20 minutes and more
	$(BIN)/python -m tests.faults.chaos

canary: ## The newest Ray, Optuna and MLflow in build/canary, and the tests that touch them; some minutes
	PYTHON=$(PYTHON) tests/canary.sh

clean: ## Remove the virtual environment and caches; studies and reports stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build pipeline/*.egg-info
