# Everything runs in .venv, which is made anew when the dependencies change.
PYTHON ?= python3
BIN := .venv/bin
# Threads that spin while they wait slow each other down on a busy machine.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo demo-full test test-long check format bench clean

demo: .venv/demo
	$(BIN)/potstill init license-notices demo/ --keep
	$(BIN)/potstill run demo/recipe.yaml --out demo/run

demo-full: .venv/demo
	$(BIN)/potstill init license-notices demo/ --keep
	$(BIN)/potstill run demo/recipe-full.yaml --out demo/run-full

test: .venv/dev
	$(BIN)/python -m pytest -q -m "not long"

test-long: .venv/dev
	$(BIN)/python -m pytest -q -m long

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev
	$(BIN)/python benchmarks/step_cost.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo]'
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo,dev]'
	touch $@ .venv/demo

clean:
	rm -rf .venv demo/run demo/run-full
