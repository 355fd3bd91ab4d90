# make demo, make test: each target first sets up what it needs, in .venv, with plain pip and from whatever
# package index pip is configured for. Nothing is installed again until pyproject.toml or constraints.txt change.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SHELLFLAGS := -ec

VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -c constraints.txt
PIP += --no-compile  # a third of the time: of most packages little is ever imported

# Caches, presets and IPython's profile of a test run live in a folder that goes away with it, and the kernels
# are those of .venv.
ISOLATED := scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
  export DSPY_CACHEDIR="$$scratch/cache" DSPY_NB_CONFIG_DIR="$$scratch/config" IPYTHONDIR="$$scratch/ipython"; \
  export JUPYTER_PREFER_ENV_PATH=1; unset JUPYTER_PATH DSPY_NB_LM DSPY_NB_REGISTRY;

# Who wants no bytecode left behind gets it in .venv: not every process has to compile DSPy for itself.
ifdef PYTHONDONTWRITEBYTECODE
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/bytecode
endif

PYTEST := $(BIN)/python -m pytest
NOTEBOOKS := --nbmake --nbmake-timeout=900 notebooks/*.ipynb

.PHONY: help
help:
	@echo "make demo       optimize a small program on an embedded language model, from data to registry"
	@echo "make check      lint, types and the fast unit tests: for the minute between two edits"
	@echo "make test       what CI runs: lint, types, tests, widgets in a browser, and the notebooks executed"
	@echo "make full       everything: slow tests too, and the embedded model computes every answer"
	@echo "make lint       ruff, mypy, import-linter, and zizmor for the workflows"
	@echo "make lab        the notebooks in JupyterLab"
	@echo "make notebooks  the notebooks executed"
	@echo "make browser    the widgets in a real JupyterLab; skipped where there is neither Chromium nor Chrome"
	@echo "make record     write down what the embedded model answers in tests and notebooks"
	@echo "make bench      the benchmarks"
	@echo "make results    one table of all comparisons, kept in benchmarks/RESULTS.md; on a quiet machine only"
	@echo "make screenshots  the pictures in notebooks/images, from the widgets themselves"
	@echo "make gallery    the notebooks executed, as HTML to browse: gallery/index.html"
	@echo "make clean      remove what the other targets made, but neither .venv nor the language model"

.PHONY: demo
demo: $(VENV)/demo.stamp
	@$(BIN)/dspy-nb install-model
	@$(BIN)/dspy-nb demo

.PHONY: lab
lab: model
	@$(BIN)/jupyter lab notebooks

# All in one run: tests, widgets and notebooks share three workers, which are started once and end together; more than
# there may be processors, for much of it is waiting. Types are checked beside them, and what is found is said at the
# end.
.PHONY: test
test: model
	@$(STYLE)
	@$(ISOLATED) $(BIN)/mypy >"$$scratch/types" 2>&1 & types=$$!; failed=0; \
	  $(PYTEST) -n 3 -m "not slow" tests $(NOTEBOOKS) || failed=$$?; \
	  wait $$types || failed=1; cat "$$scratch/types"; exit $$failed

STYLE = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo && \
  $(BIN)/zizmor --quiet --offline .github

.PHONY: lint
lint: $(VENV)/dev.stamp
	$(STYLE)
	$(BIN)/mypy

.PHONY: check
check: lint
	@$(ISOLATED) $(PYTEST) -n 2 -m "not heavy" --hypothesis-profile fast tests

.PHONY: unit
unit: model
	@$(ISOLATED) $(PYTEST) -n 2 -m "not slow and not browser" tests

.PHONY: notebooks
notebooks: model
	@$(ISOLATED) $(PYTEST) -n 2 -p tests.recorded --timeout=1800 $(NOTEBOOKS)

.PHONY: browser
browser: $(VENV)/dev.stamp
	@$(ISOLATED) $(PYTEST) -m "browser and not slow" tests

# An empty name of the file of answers: every answer is computed.
.PHONY: full
full: lint model
	@$(ISOLATED) export DSPY_NB_LOCAL_ANSWERS=; \
	  $(PYTEST) -n 2 --hypothesis-profile full --timeout=3600 tests $(NOTEBOOKS)

.PHONY: record
record: model
	@$(ISOLATED) export DSPY_NB_LOCAL_ASKED="$$scratch/asked"; mkdir "$$scratch/asked"; \
	  $(PYTEST) -m "local_model and not slow" --ignore=tests/core/local tests; \
	  $(PYTEST) -n 2 -p tests.recorded --timeout=1800 $(NOTEBOOKS); \
	  $(BIN)/python -m tests.recorded "$$scratch/asked"

.PHONY: screenshots
screenshots: model
	@$(ISOLATED) $(BIN)/python -m tests.screenshots

.PHONY: gallery
gallery: model
	@$(ISOLATED) $(BIN)/python -m tests.gallery

.PHONY: bench
bench: model
	@$(ISOLATED) for file in $(filter-out benchmarks/results.py, $(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python $$file; done

# MLFLOW=python of an environment with the extra bench: its registry is compared too.
.PHONY: results
results: model
	@$(ISOLATED) $(BIN)/python benchmarks/results.py --write $(if $(MLFLOW),--mlflow $(MLFLOW))

.PHONY: clean
clean:
	rm -rf demo gallery build dist .mypy_cache .import_linter_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf notebooks/registry notebooks/runs notebooks/demo notebooks/result.json
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# -- set-up -------------------------------------------------------------------------------------------------

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 none; do \
	  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && break; \
	done; \
	if [ $$python = none ]; then \
	  echo "dspy-nb needs Python 3.11 to 3.14, and found none; name one with make PYTHON=..." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dspy-nb; the first time takes a minute"
	@$(PIP) -e '.[local]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dspy-nb and its tools; the first time takes a minute or two"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

.PHONY: model
model: $(VENV)/dev.stamp
	@$(BIN)/dspy-nb install-model
