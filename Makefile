# Everything a newcomer needs: each target makes .venv on its own, from the committed constraints.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed
# The same package on the next line of TransformerLens, which has TransformerBridge only.
BRIDGE_VENV  := .venv-bridge
BRIDGE_STAMP := $(BRIDGE_VENV)/.installed
LIBRARIES := .libraries
# Two processes: as many as a laptop has to spare, and each loads its models once.
PARALLEL := --numprocesses 2 --dist worksteal

.PHONY: environments demo smollm2 test test-bridge test-slow libraries fuzz browser lint format bench notebooks notebooks-refresh docs wheel-trial release-check clean

environments: $(DOCS_STAMP) $(BRIDGE_STAMP)

demo: $(STAMP)
	$(BIN)/actadd demo

# A real chat model, fetched once (93 MB), and one answer of its, steered beside unsteered.
smollm2: $(STAMP)
	$(BIN)/actadd fetch smollm2
	$(BIN)/actadd steer "How was your day?" --model smollm2 --chat --pair "I love it" "I hate it" --no-bos \
		--layer 18 --row 1 --norm 56 --position all --temperature 0 --max-new-tokens 48

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

test-bridge: $(BRIDGE_STAMP)
	$(BRIDGE_VENV)/bin/python -m pytest $(PARALLEL) tests actadd_lens --ignore=tests/training

# What takes longer: every golden case, rates and coverage by simulation, processes that are killed, bad inputs.
test-slow: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m slow tests --ignore=tests/play --ignore=tests/pages

# Other libraries of steering vectors, beside the pinned versions and never in their place: their code reads our files
# and ours theirs, and both steer to the same logits.
libraries: $(STAMP) $(LIBRARIES)/.installed
	PYTHONPATH=$(LIBRARIES) $(BIN)/python -m pytest $(PARALLEL) -m slow tests/vectors/test_real_libraries.py

# Of these, the bad inputs alone: thousands, the same ones each time.
fuzz: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m slow tests/fuzz

# The playground and the saved pages in a headless Chromium (Debian: chromium and chromium-driver), where there is one.
browser: $(STAMP)
	$(BIN)/python -m pytest -m slow tests/play tests/pages

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.sweeps

notebooks: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --nbmake notebooks

notebooks-refresh: $(STAMP)
	$(BIN)/python docs/refresh_notebooks.py

# The site, from pages and notebooks as they stand, and a look at every link inside it. Its tools are installed when they are first asked for.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/python docs/check_links.py site
	$(BIN)/python docs/llms.py site

wheel-trial: $(STAMP)
	.ci/wheel-trial $(BIN)/python

# Before a version is tagged: metadata, the wheel on every Python that is here, files of the version before.
release-check: $(STAMP)
	.ci/release-check $(BIN)/python

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $(DOCS_STAMP)

$(BRIDGE_STAMP): pyproject.toml constraints-bridge.txt
	$(PYTHON) -m venv $(BRIDGE_VENV)
	$(BRIDGE_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(BRIDGE_VENV)/bin/python -m pip install --quiet --constraint constraints-bridge.txt --editable ".[dev]"
	touch $(BRIDGE_STAMP)

$(LIBRARIES)/.installed: libraries.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --ignore-requires-python --only-binary :all: \
		--target $(LIBRARIES) --requirement libraries.txt
	touch $(LIBRARIES)/.installed

clean:
	rm -rf $(VENV) $(BRIDGE_VENV) $(LIBRARIES) demo site dist build .pytest_cache .mypy_cache .ruff_cache
