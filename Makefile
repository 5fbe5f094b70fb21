# Everything below needs only Python >= 3.10 and a package index; the virtual environment is made on first use.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: help demo test test-all fuzz check format bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Rebuilt only when a requirements file changes. torch and torchvision are installed in one go, as a pair.
$(INSTALLED): requirements.txt requirements-dev.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . \
	  || $(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(PY) -c 'import cgc.commands'
	touch $@

demo: $(INSTALLED)  ## train on a drawn dataset with and without CGC; table and picture, five minutes on two cores
	$(PY) -m cgc demo

test: $(INSTALLED)  ## every test but the slow ones
	$(PY) -m pytest -q

test-all: $(INSTALLED)  ## every test
	$(PY) -m pytest -q -m ''

fuzz: $(INSTALLED)  ## 100,000 changed files for every reader of files from elsewhere; hours
	$(PY) -m tests.reliability.fuzz --inputs 100000

check: $(INSTALLED)  ## format, lint, types, doctests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q --doctest-modules cgc -p no:cacheprovider

format: $(INSTALLED)  ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(INSTALLED)  ## every benchmark, with the bound it is held against, and the predicted cost
	$(PY) benchmarks/loader.py
	$(PY) benchmarks/loss.py
	$(PY) benchmarks/step.py
	$(PY) benchmarks/methods.py
	$(PY) benchmarks/memory.py
	$(PY) benchmarks/scaling.py
	$(PY) benchmarks/saliency.py
	$(PY) benchmarks/evaluate.py
	$(PY) benchmarks/cost_model.py

# The sources are read, not imported: no torch is needed here, so this has a small virtual environment of its own.
build/docs/.installed: requirements-docs.txt
	test -x build/docs/bin/python || $(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

docs: build/docs/.installed  ## the documents and the API reference as pages in site/; a warning is an error
	build/docs/bin/mkdocs build --quiet --strict

clean:  ## remove caches and build products, keep the virtual environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
