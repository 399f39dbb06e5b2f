PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: embed test test-fast lint clean

embed: $(READY)  ## embed the sample faces and draw their sheet
	$(BIN)/facepcl embed examples/faces -o embeddings.parquet --sheet sheet.png
	@echo "look at sheet.png; read the table with facepcl.read_embeddings('embeddings.parquet')"

test: $(READY)  ## all tests, without network and GPU
	$(BIN)/python -m pytest

test-fast: $(READY)  ## the tests that take less than ten seconds each
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info embeddings.parquet sheet.png probes report.html
