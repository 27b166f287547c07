# make predict [IN=DIR] [OUT=DIR]    classify a case (default: the synthetic example), show the result, and
#                                   write OUT/report.html, a page to look at
# make test                          run the tests that matter most, in three minutes on two cores
# make test-all                      run every test
# make test-slow                     run those that `make test` leaves out
# make lint                          check style, format and types
# make fuzz [SECONDS=60]             feed damaged images and slides to the readers
# make train-env                     make .venv with all that training needs (training/train.sh does it itself)
# make benchmark                     measure speed and memory, rewrite docs/speed.md's table and plot (13 minutes, no GPU)
# make figure                        draw the documents' pictures again, after a change of the default weights
# make screenshot                    photograph the documents' pages again; needs Chromium
# make lock                          renew requirements.lock, which the image is built from
# Each makes .venv when it is missing. PYTHON names the interpreter it is made with (3.11, which is what is tested).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
IN ?= test/input
OUT ?= output
SECONDS ?= 60

.PHONY: predict test test-all test-slow lint fuzz benchmark lock train-env figure screenshot

predict: .venv/requirements.done
	.venv/bin/python process.py --input "$(IN)" --output "$(OUT)" --table --report

test: .venv/test-requirements.done
	.venv/bin/python -m pytest --durations=10 -m "not slow" -n logical --maxprocesses 8 --dist loadfile

test-all: .venv/test-requirements.done .venv/cohort-requirements.done
	.venv/bin/python -m pytest --durations=10

test-slow: .venv/test-requirements.done .venv/cohort-requirements.done
	.venv/bin/python -m pytest --durations=10 -m slow

lint: .venv/test-requirements.done
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

train-env: .venv/training-requirements.done

figure: .venv/test-requirements.done
	.venv/bin/python -m docs.figure
	.venv/bin/python -m docs.slide_figure

screenshot: .venv/test-requirements.done
	.venv/bin/python -m docs.screenshot

fuzz: .venv/requirements.done
	.venv/bin/python test/tools/fuzz_readers.py --seconds $(SECONDS)
	.venv/bin/python test/tools/fuzz_slides.py --seconds $(SECONDS)

lock: .venv/export-requirements.done
	.venv/bin/uv pip compile requirements.txt --output-file requirements.lock --generate-hashes --no-header --quiet \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28

benchmark: .venv/benchmark-requirements.done
	.venv/bin/python -m benchmark.cold_start --hplus-runs 3
	.venv/bin/python -m benchmark.invoke_time
	.venv/bin/python -m benchmark.cpu_throughput
	.venv/bin/python -m benchmark.folder_scaling
	.venv/bin/python -m benchmark.augmentation_cost
	.venv/bin/python -m benchmark.roofline --write
	if .venv/bin/python -c "import torch, sys; sys.exit(not torch.cuda.is_available())"; \
		then .venv/bin/python -m benchmark.gpu; else echo "No GPU: benchmark.gpu is left out."; fi
	.venv/bin/python -m benchmark.report

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/requirements.done: requirements.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/export-requirements.done: export-requirements.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/training-requirements.done: training/requirements.txt .venv/requirements.done
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/benchmark-requirements.done: benchmark/requirements.txt .venv/training-requirements.done
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/cohort-requirements.done: cohort/requirements.txt .venv/requirements.done
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/test-requirements.done: test/requirements.txt .venv/training-requirements.done
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
