# make demo    sets up and makes a cover video of the sample singer: demo/cover.mp4
# make test    sets up and runs every test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= $(CURDIR)/demo/home
# The stamps carry the hash of pyproject.toml: a changed dependency sets up anew, anything else does not.
HASH := $(shell cksum pyproject.toml | cut -d' ' -f1)
LIGHT := $(VENV)/.light-$(HASH)
DEV := $(VENV)/.dev-$(HASH)
DOCS := $(VENV)/.docs-$(HASH)
CLIENTS := $(VENV)/clients/.ok-$(shell cat tests/conformance/clients/* | cksum | cut -d' ' -f1)
UV := $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install -q --python $(BIN)/python,$(BIN)/python -m pip install -q --disable-pip-version-check)

.PHONY: demo test lint format bench docs clean
.DEFAULT_GOAL := demo

demo: $(LIGHT)
	VIVIDCOVER_HOME="$(HOME_DIR)" $(BIN)/vividcover demo $(DEMO)

test: $(DEV) $(CLIENTS)
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile $(TESTS)

lint: $(DEV)
	$(BIN)/ruff check src tests bench docs .ci
	$(BIN)/ruff format --check src tests bench docs .ci
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix src tests bench docs .ci
	$(BIN)/ruff format src tests bench docs .ci

bench: $(DEV)
	$(BIN)/python bench/quality.py --quick
	$(BIN)/python bench/cover.py --quick

docs: $(DOCS)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo site .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vividcover needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	$(if $(UV),$(UV) venv -q --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(LIGHT): $(VENV)/bin/python
	$(INSTALL) -e .
	$(BIN)/vividcover weights pull --quiet
	@rm -f $(VENV)/.light-*; touch $@

$(DEV): $(LIGHT)
	$(INSTALL) -e '.[dev]'
	@rm -f $(VENV)/.dev-*; touch $@

$(CLIENTS): $(DEV)
	$(BIN)/python tests/conformance/clients/install.py $(VENV)/clients
	touch $@

$(DOCS): $(DEV)
	$(INSTALL) -e '.[docs]'
	@rm -f $(VENV)/.docs-*; touch $@
