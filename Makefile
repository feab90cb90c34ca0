# Two commands do most of it: `make demo` and `make test`. Everything runs in .venv, made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format docs clean

help:  ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# The bytecode is compiled once: TensorFlow's import takes 20 s without it where Python may not write any.
$(VENV)/installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(0 if (3, 11) <= v < (3, 14) else f"Woodshed needs Python 3.11 to 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV): about 3 GB from PyPI.'
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[jam,test]'
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 2 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

install: $(VENV)/installed  ## Makes .venv and installs the tested set of versions.

demo: install  ## From nothing to a tuned model, reports and two WAV files, in 6 minutes on 2 cores.
	@$(BIN)/python -m pipelines.demo --output_dir=demo

test: install  ## Runs the test suite.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: install  ## Runs the tests that take minutes, too, and fuzzes for longer.
	@WOODSHED_FUZZ_EXAMPLES=$${WOODSHED_FUZZ_EXAMPLES:-3000} $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install  ## Checks style with ruff.
	@$(BIN)/ruff check .

docs: install  ## Builds the documentation site into site/.
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	@$(BIN)/mkdocs build --strict

clean:  ## Removes what the demo made; .venv stays.
	rm -rf demo site build
