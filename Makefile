PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EMBEDS := $(VENV)/.embeds
READY := $(VENV)/.ready

.PHONY: embed docs test test-all soak bench audit lint clean

embed: $(EMBEDS)  ## embed the sample faces and draw their sheet
	$(BIN)/facepcl embed examples/faces -o embeddings.parquet --sheet sheet.png
	@echo "look at sheet.png; read the table with facepcl.read_embeddings('embeddings.parquet')"

docs: $(READY)  ## the documentation site, into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# One process a core and one thread each, or they wait for each other; a core that is done takes tests from
# the one with the most left. Two arenas of malloc, or each of a test's threads keeps memory in its own.
PYTEST = OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test: $(READY)  ## the quick tests: six minutes of two cores, no GPU, no network
	$(PYTEST)

test-all: $(READY)  ## all tests but the soak; timm's own are downloaded once
	$(PYTEST) -m "not soak"

soak: $(READY)  ## twenty kills of each job, a million members, a Ray cluster (needs .[ray]), 100,000 damaged files
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s
	$(BIN)/python tools/fuzz --cases 100000 --seed $(or $(SEED),0)

bench: $(READY)  ## beside what users have today, and how the cost grows; tables for benchmarks/RESULTS.md
	for job in embed peers decode growth pretrain; do $(BIN)/python benchmarks/$$job.py || exit 1; done

audit: $(READY)  ## known weaknesses and licences of the dependencies; needs a network
	$(BIN)/python tools/audit.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is in $(VENV) already is kept: a CPU build of torch, for example.
$(EMBEDS): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[parquet]"
	touch $(EMBEDS)

$(READY): $(EMBEDS)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) .hypothesis fuzz-findings build dist *.egg-info embeddings.parquet sheet.png probes report.html site
