# make emulate   trains a fleet of simulated devices; ARGS="--devices 4 --rounds 3" are passed on
# make docs      builds the site of docs/ into build/site
# make quick     checks style, types and import rules and runs the tests that take little time
# make test      checks style, types and import rules and runs all tests; ARGS are passed to pytest
# make test-image  makes cards for boards and starts them in qemu: minutes, and half an hour the first time
PYTHON ?= $(shell command -v python3.11 || command -v python3)
IN_PARALLEL := -n auto --dist worksteal
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: emulate quick test test-image check docs install install-edge install-benchmarks clean
.DEFAULT_GOAL := emulate

emulate: .venv/server.installed
	@.venv/bin/fisherfleet emulate $(ARGS)

# Without ARGS in several processes (tests/conftest.py says how many), each of which takes over what another has left.
test: check .venv-edge/installed
	.venv/bin/pytest $(or $(ARGS),$(IN_PARALLEL))

quick: check .venv-edge/installed
	.venv/bin/pytest $(IN_PARALLEL) -m "not slow and not image"

test-image: .venv/dev.installed
	.venv/bin/pytest -m image --capture=no --log-cli-level=INFO $(or $(ARGS),tests/image)

check: .venv/dev.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy --python-version 3.10 -p wire_protocol -p edge_client
	.venv/bin/lint-imports

docs: .venv/dev.installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

install: .venv/server.installed

install-edge: .venv-edge/installed

install-benchmarks: .venv/benchmarks.installed

.venv/server.installed: requirements-server.txt pyproject.toml
	@echo "installing the server's packages into .venv (once, a few minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python $(PIP) -r requirements-server.txt
	@.venv/bin/python $(PIP) --no-deps --editable .
	@touch $@

.venv/dev.installed: .venv/server.installed requirements-dev.txt
	@.venv/bin/python $(PIP) -r requirements-dev.txt
	@touch $@

.venv/benchmarks.installed: .venv/server.installed requirements-benchmarks.txt
	@.venv/bin/python $(PIP) -r requirements-benchmarks.txt
	@touch $@

.venv-edge/installed: requirements-edge.txt pyproject.toml
	@$(PYTHON) -m venv .venv-edge
	@.venv-edge/bin/python $(PIP) --no-deps -r requirements-edge.txt
	@.venv-edge/bin/python $(PIP) --no-deps --editable .
	@touch $@

clean:
	rm -rf .venv .venv-edge build runs .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
