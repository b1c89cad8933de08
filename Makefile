# Two commands are enough to begin: `make demo` and `make test`. Each is complete on a machine with Python and make.
PYTHON ?= python3
KILLS ?= 200
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
LOCK := --universal --generate-hashes --python-version 3.11 --fork-strategy fewest --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock" --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test install home-assistant check chaos bench fuzz model-check models models-check evaluate languages wheel lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|' 2>/dev/null \
		|| grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

demo: install ## a whole farm on this machine: broker, birds, agent, sync; Ctrl-C ends it
	$(BIN)/flockwatch demo $(DEMO)

test: install ## the tests, in under ten minutes on two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(TESTS)

install: $(STAMP) ## make .venv from the locked requirements

# The environment is made anew only when the lock changes; the package itself (names, entry points) with pyproject.toml
$(STAMP): $(VENV)/.locked pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.locked: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "flockwatch needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 | head -1)." \
		"Install one and say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes --requirement $<
	@touch $@

check: install ## format, lint, types, imports, tests: the same as .ci/run
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(TESTS)

chaos: install ## the faults that take minutes: KILLS=200 kills of a busy farm, a flood of a minute
	KILLS=$(KILLS) $(BIN)/python -m pytest -m long -s tests/fault

bench: install ## figures beside the floors measured in the same run
	$(BIN)/python -m pytest -m bench -s tests/bench

fuzz: install ## junk for every payload dialect: COUNT=10000000 mutated messages, good ones between them
	$(BIN)/python -m tests.property.fuzz_dialects --count $(or $(COUNT),10000000)

model-check: install ## random courses of a warning, its commands, restarts and clocks: HISTORIES=100000, no forbidden transition
	HISTORIES=$(or $(HISTORIES),100000) $(BIN)/python -m pytest -q tests/property/test_judge_model.py

models: install ## train the shipped bundles anew (minutes)
	$(BIN)/python -m models_onnx.train

models-check: install ## train them anew beside the shipped ones: byte for byte the same, or what differs
	$(BIN)/python -m models_onnx.train --check

evaluate: install ## say how good the shipped bundles are on flocks they have not seen (SIZE=middle; SHORT=1: in minutes, without the real sets)
	$(BIN)/python -m models_onnx.evaluate $(if $(SHORT),--size short --ranges validation --out build/evaluation,--size $(or $(SIZE),full) --real $(or $(REAL),../shared/data))
	$(if $(SHORT),,$(BIN)/python -m models_onnx.evaluate.outbreaks)

# Its own environment, for it pins what we use, too; the newest that takes the newest Python found here (2024.3 with 3.11)
HA := .venv-home-assistant
home-assistant: $(HA)/.installed ## install a Home Assistant that the tests ask whether it takes what we publish

$(HA)/.installed: $(STAMP)
	for python in python3.13 python3.12 $(wildcard $(HOME)/.pyenv/versions/3.1[23].*/bin/python3) $(PYTHON); do \
		"$$python" -c '' 2>/dev/null && break; done; $(BIN)/uv venv --quiet --clear --python "$$python" $(HA)
	$(BIN)/uv pip install --quiet --python $(HA)/bin/python homeassistant
	@touch $@

languages: install ## bring the catalogues of messages to what the program says, compile them, and write docs/texts.md for review
	$(BIN)/python -m tests.catalogues
	$(BIN)/python -m tests.texts

wheel: install ## build dist/flockwatch-*.whl, with the locked list of what it stands on beside it
	rm -rf dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	cp requirements.txt dist/

lock: install ## resolve the requirements anew; the diff is for review
	$(BIN)/uv pip compile pyproject.toml $(LOCK) $(UPGRADE) --output-file requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --constraint requirements.txt $(LOCK) $(UPGRADE) --output-file requirements-dev.txt

clean: ## remove what was built here
	rm -rf $(VENV) $(HA) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
