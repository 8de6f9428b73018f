# `make demo` and `make test` do all of their own set-up, in .venv; `make help` lists the rest.

# Any Python that is recent enough and can make a virtual environment: make demo PYTHON=/path/to/python3.13
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,\
	$(shell $(name) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread a test worker; more of them slow small networks down.
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint format types wheel clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## go the whole way, from training to the table, in about a minute
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(BIN)/advdef demo

test: $(INSTALLED)  ## run the tests
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(INSTALLED)  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(INSTALLED)  ## format, and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(INSTALLED)  ## check the types
	@$(BIN)/mypy

wheel: $(INSTALLED)  ## build the wheel into dist/
	@rm -rf build dist
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@ls dist/*.whl

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "advdef: no Python >= 3.11 with venv found: install one (Debian: python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "advdef: setting up $(VENV) with $$($(PYTHON) --version) (a few minutes, once)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --constraint constraints.txt --editable '.[dev]'
	@touch $@
