# make demo   the paper's ablation on the embedded benchmark, and the violation figure
# make test   what .ci/run runs
# make lint   ruff alone
# make clean  the environment, caches and demo runs
# Each target makes its own environment in .venv; PYTHON chooses the interpreter it is made with.

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: demo test lint clean

demo: .venv/.plots
	$(BIN)/python -m janus.demo

test: .venv/.dev
	$(BIN)/ruff check
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest tests $(if $(NOTEBOOKS),--nbval-lax $(NOTEBOOKS))

lint: .venv/.dev
	$(BIN)/ruff check

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.plots: pyproject.toml | .venv/bin/python
	@echo "setting up .venv (some minutes the first time: torch is large)"
	@$(BIN)/python -m pip install --quiet --editable '.[plots]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "setting up .venv (some minutes the first time: torch is large)"
	@$(BIN)/python -m pip install --quiet --editable '.[dev,notebooks]'
	@touch $@ .venv/.plots

.venv/bin/python:
	@$(PYTHON) -m venv .venv
