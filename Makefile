# Each target sets itself up: a virtual environment in .venv with the tested versions (constraints.txt).
PYTHON ?= python3
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint bench bench-quick bench-report clean

help:
	@echo "make demo [SEED=1]  train a tiny language model with GRPO and with TEA, compare them under best-of-N"
	@echo "make test           run all tests"
	@echo "make lint           ruff, formatting and types"
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

demo: $(READY)
	$(BIN)/python -m tea demo --seed $(SEED)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
