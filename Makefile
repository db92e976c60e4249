# Each target sets itself up: a virtual environment in .venv with the tested versions (constraints.txt).
PYTHON ?= python3
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Environments of their own: the lowest versions that pyproject.toml allows; an install without extras.
LOWEST := .venv-lowest
BASE := .venv-base
WHEEL := .venv-wheel
TEST_TOOLS = $$(grep -E '^(pytest|pytest-xdist|hypothesis)==' constraints.txt) 'setuptools>=77'
TESTS ?= tests

.PHONY: help demo demo-smollm2 test test-adapters test-lowest test-base test-installs test-wheel lint docs bench bench-quick bench-report clean

help:
	@echo "make demo [SEED=1]  train a tiny language model with GRPO and with TEA, compare them under best-of-N"
	@echo "make demo-smollm2   the same question on a real language model, a quarter of an hour"
	@echo "make test           run all tests"
	@echo "make test-lowest    the same on the lowest versions that are allowed; TESTS='tests/...' runs only those"
	@echo "make test-base      try an install without extras"
	@echo "make test-wheel     build the package, install and try the wheel on the lowest and the newest versions"
	@echo "make test-installs  ask pip what tea can be installed beside"
	@echo "make test-adapters  install verl, SkyRL and the others beside (1 GB), run the adapters on them, write the table"
	@echo "make lint           ruff, formatting and types"
	@echo "make docs           build the site into build/site; fails on a broken link"
	@echo "make bench          run the benchmarks that fit a CPU"
	@echo "make bench-quick    train with GRPO, max@k and ours on the small tasks at reduced size, print the tables"
	@echo "make bench-report   write benchmarks/training/README.md from the stored rows"
	@echo "make clean          remove the environment and everything generated"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tea needs Python >= 3.10")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	@# torch first and by itself: once it is there, nothing pulls another build of it.
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo-smollm2: $(READY)
	@echo "GRPO and training for best-of-128 on SmolLM2-135M: about a quarter of an hour on two cores; interrupted, it goes on."
	$(BIN)/python -m pip install --quiet -c constraints.txt gguf
	$(BIN)/python -m benchmarks.language.demo --seed $(SEED)

demo: $(READY)
	$(BIN)/python -m tea demo --seed $(SEED)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt -e '.[trl,gym,verify]' $(TEST_TOOLS)
	@touch $@

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile $(TESTS)

$(BASE)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BASE)/bin/python -m pip install --quiet -c constraints.txt torch
	$(BASE)/bin/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

test-base: $(BASE)/.ready
	$(BASE)/bin/python -W ignore -m tests.install.base

test-installs: $(READY)
	$(BIN)/python -m pytest tests/install -m registry

test-wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	for set in constraints-lowest.txt constraints.txt; do \
		$(PYTHON) -m venv --clear $(WHEEL) && \
		$(WHEEL)/bin/python -m pip install --quiet -c $$set torch && \
		$(WHEEL)/bin/python -m pip install --quiet -c $$set dist/*.whl && \
		(cd dist && ../$(WHEEL)/bin/python ../tests/install/smoke.py) && \
		$(WHEEL)/bin/python -m pip install --quiet -c $$set "$$(ls dist/*.whl)[trl]" && \
		(cd dist && ../$(WHEEL)/bin/python ../tests/install/smoke.py) || exit 1; done

test-adapters: $(READY)
	$(BIN)/python -m tests.adapters.frameworks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m docs.tools.build

bench: $(READY)
	@# The training benchmark takes hours: bench-quick, or python -m benchmarks.training.run.
	for run in $(filter-out benchmarks/training/run.py,$(wildcard benchmarks/*/run.py)); do \
		$(BIN)/python -m benchmarks.$$(basename $$(dirname $$run)).run || exit 1; done

bench-quick: $(READY)
	$(BIN)/python -m benchmarks.training.run --quick
	$(BIN)/python -m benchmarks.training.report --rows benchmarks/training/results/quick.jsonl --print

bench-report: $(READY)
	$(BIN)/python -m benchmarks.training.report

clean:
	rm -rf $(VENV) $(LOWEST) $(BASE) $(WHEEL) outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
