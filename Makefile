# `make demo` and `make test` set up .venv themselves; `make help` lists the targets.

# Any Python that is recent enough and can make a virtual environment: make demo PYTHON=/path/to/python3.13
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,\
	$(shell $(name) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# One thread per test worker: more threads slow small networks down.
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

# Some containers set it: then each process that a test starts compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

# Counting lines makes tests half as slow again, so only these folders are counted, by the tests beside them.
COUNTED := core benchmarks/store benchmarks/reports
SOURCES := robustbench_cli/core benchmarks/store benchmarks/reports
COVERAGE := 90

# Its attacks can be named as ours. It is installed without what it depends on: it wants requests of 2021, and needs none.
WITHOUT_ITS_PINS := torchattacks

# The other libraries have their own environment. Models trained for the comparisons are cached beside the demo's.
PEERS := .peers
PEERS_INSTALLED := $(PEERS)/.installed
LIBRARIES := foolbox torchattacks adversarial-robustness-toolbox cleverhans pyautoattack
# It is installed without what it depends on: its plots need visdom, which no longer builds.
WITHOUT_THEIRS := adv-lib
COMPARE := -m robustbench_cli.benchmarks.comparison

.PHONY: help demo test coverage lint format types wheel docs docs-serve benchmark gpu peers autoattack minimal-norm exact trained gallery clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## train, attack and print the table, in a minute or two
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(BIN)/advdef demo
	@echo "the command is $(BIN)/advdef: try $(BIN)/advdef --help" >&2

test: $(INSTALLED)  ## run the tests
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(TESTS)

coverage: $(INSTALLED)  ## hold the share of lines of SOURCES that the tests of COUNTED run to COVERAGE percent
	@$(BIN)/python -m pytest -q -n $(WORKERS) $(addprefix --cov=,$(SOURCES)) --cov-report=term --cov-fail-under=$(COVERAGE) \
		$(addprefix tests/,$(COUNTED))

lint: $(INSTALLED)  ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(INSTALLED)  ## format, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(INSTALLED)  ## check the types
	@$(BIN)/mypy

wheel: $(INSTALLED)  ## build the wheel into dist/
	@rm -rf build dist
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@ls dist/*.whl

# The variable silences an advertisement of mkdocs-material.
docs: $(INSTALLED)  ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-serve: $(INSTALLED)  ## show the documentation site on a local port while you write
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

benchmark: $(INSTALLED)  ## measure what the attacks and defenses cost
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(BIN)/python $(COMPARE) costs

# A GPU machine has a Python with torch, and often no network. So this needs no environment of ours, only a few libraries beside
# torch: pydantic, PyYAML, NumPy, Pillow, platformdirs, safetensors.
GPU_PYTHON ?= $(PYTHON)

gpu:  ## check and measure everything on one GPU, in seven minutes at most
	@$(GPU_PYTHON) -c 'import torch' 2>/dev/null || \
		{ echo "advdef: $(GPU_PYTHON) has no torch: name a Python that has it: make gpu GPU_PYTHON=/path/to/python" >&2; exit 2; }
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(GPU_PYTHON) $(COMPARE).gpu

peers: $(PEERS_INSTALLED)  ## measure them beside Foolbox, torchattacks, ART and CleverHans
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(PEERS)/bin/python $(COMPARE) peers

autoattack: $(PEERS_INSTALLED)  ## measure the standard suite beside the official AutoAttack, and beside single attacks
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(PEERS)/bin/python $(COMPARE) autoattack
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(PEERS)/bin/python $(COMPARE) single

minimal-norm: $(PEERS_INSTALLED)  ## measure the minimal-norm attacks beside Foolbox's, torchattacks' and adv_lib's
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(PEERS)/bin/python $(COMPARE) minimal-norm

exact: $(INSTALLED)  ## compare the attacks with the exact distances of small networks
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(BIN)/python $(COMPARE) exact

# Trainings of one kind differ by some points, so six seeds and 1,000 images. A quick look: make trained TRAINED="--turns 1 --images 100"
TRAINED ?= --turns 6 --images 1000

trained: $(PEERS_INSTALLED)  ## measure adversarial training beside ART's
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(PEERS)/bin/python $(COMPARE) trained $(TRAINED)

# For some models only: make gallery GALLERY="--seeds 2 --only one-hot trades"
GALLERY ?= --results docs/gallery.jsonl --write docs/gallery.md

gallery: $(PEERS_INSTALLED)  ## audit the gallery of broken and honest models, beside AutoAttack's flags
	@XDG_CACHE_HOME=$(CURDIR)/$(VENV)/cache $(PEERS)/bin/python $(COMPARE) gallery $(GALLERY)

clean:  ## remove the virtual environments and build outputs
	rm -rf $(VENV) $(PEERS) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# Makes the virtual environment $(1) and installs $(2) in it.
define environment
	@test -n "$(PYTHON)" || { echo "advdef: no Python >= 3.11 with venv found: install one (Debian: python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "advdef: setting up $(1) with $$($(PYTHON) --version) (a few minutes, once)" >&2
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --constraint constraints.txt $(2)
endef

$(INSTALLED): pyproject.toml setup.py constraints.txt
	$(call environment,$(VENV),--editable '.[dev]')
	$(call environment,$(VENV),--no-deps $(WITHOUT_ITS_PINS))
	@touch $@

$(PEERS_INSTALLED): pyproject.toml setup.py constraints.txt peers.txt
	$(call environment,$(PEERS),--constraint peers.txt --editable . $(LIBRARIES))
	$(call environment,$(PEERS),--constraint peers.txt --no-deps $(WITHOUT_THEIRS))
	@touch $@
