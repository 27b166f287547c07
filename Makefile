# make predict [IN=DIR] [OUT=DIR]    classify a case (default: the synthetic example) and show the result
# make test                          run the tests
# make lint                          check style and format
# Each makes .venv when it is missing. PYTHON names the interpreter it is made with (3.11 or newer).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
IN ?= test/input
OUT ?= output

.PHONY: predict test lint benchmark

predict: .venv/requirements.done
	.venv/bin/python process.py --input "$(IN)" --output "$(OUT)" --table

test: .venv/test-requirements.done
	.venv/bin/python -m pytest

lint: .venv/test-requirements.done
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

benchmark: .venv/requirements.done
	.venv/bin/python -m benchmark.case_time

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/requirements.done: requirements.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/training-requirements.done: training/requirements.txt .venv/requirements.done
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/test-requirements.done: test/requirements.txt .venv/training-requirements.done
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
