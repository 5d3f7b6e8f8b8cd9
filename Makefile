# `make demo` and `make test` each do all of the set-up on a machine with Python 3.10 or newer: see utils/setup_env.py.
# Variables: PYTHON=python3.12 (interpreter)   TORCH=cpu|default (build of torch; default: cpu without an NVIDIA GPU)
#            PYTEST_ARGS="-k pipeline"         WORKERS=4 (test processes)
#            UPSTREAM_ARGS=--allow_offline     (flags of utils/run_upstream_tests.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo models docs test test-slow test-upstream coverage bench quality style clean

PYTHON ?= python3
WORKERS ?= 2
RUN := .venv/bin/python
CHECK_DIRS := $(wildcard benchmarks examples metrics src tests utils)
BENCHMARKS := latent_zones pool_size solvers networks sampling training_step scaling data_loading streaming views metrics imports pools
# One thread per process: on two cores, two such processes took a third of the time of one process with two threads.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0 --durations=15

help:  ## show this list
	@sed -n -E 's/^([a-z-]+):[^#]*## (.*)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup:
	@$(PYTHON) utils/setup_env.py $(if $(TORCH),--torch $(TORCH))

demo: setup  ## train on handwritten digits, generate, classify, embed; results in outputs/demo
	$(RUN) examples/demo.py --output_dir outputs/demo
	@echo "Results: $(CURDIR)/outputs/demo"

models: setup  ## train the models that people start from, measured and ready to push, in outputs/models (MODEL_ARGS="--fashion_mnist DIR --emoji DIR")
	$(RUN) utils/make_models.py $(MODEL_ARGS)

docs: setup  ## build the site of the documentation into outputs/docs, and check its links
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build
	@echo "Site: $(CURDIR)/outputs/docs/index.html (with its search: $(RUN) -m http.server -d outputs/docs)"

test: setup  ## run the tests; report in outputs/test
	$(PYTEST) --junitxml=outputs/test/report.xml $(PYTEST_ARGS)

test-slow: setup  ## run the tests that take minutes; report in outputs/test
	$(PYTEST) --junitxml=outputs/test/report_slow.xml -m slow -o faulthandler_timeout=3600 $(PYTEST_ARGS)

test-upstream: setup  ## run the common tests of the installed transformers and diffusers on our classes; log in outputs/upstream
	OMP_NUM_THREADS=1 $(RUN) utils/run_upstream_tests.py --workers $(WORKERS) $(UPSTREAM_ARGS)

# The scripts that tests launch write their data beside COVERAGE_FILE, wherever they run.
coverage: export COVERAGE_FILE := $(CURDIR)/outputs/coverage/data
coverage: setup  ## run the tests and measure which lines of the package they reach; report in outputs/coverage
	$(PYTEST) --cov --cov-report= --cov-report=html:outputs/coverage/html $(PYTEST_ARGS)
	$(RUN) -m coverage report --show-missing > outputs/coverage/report.txt
	@tail -n 1 outputs/coverage/report.txt

bench: setup  ## run the benchmarks with small sizes (results in outputs/bench), then write the tables of docs/benchmarks.md from benchmarks/results
	@set -e; for name in $(BENCHMARKS); do echo "== benchmarks/$$name.py --quick"; $(RUN) benchmarks/$$name.py --quick; done
	@$(RUN) benchmarks/render_table.py

quality: setup  ## check style, types, the direction of imports, and docstrings against signatures
	$(RUN) -m ruff check $(CHECK_DIRS)
	$(RUN) -m ruff format --check $(CHECK_DIRS)
	$(RUN) -m mypy
	$(RUN) utils/check_arrows.py
	$(RUN) utils/check_docstrings.py

style: setup  ## fix style
	$(RUN) -m ruff check --fix $(CHECK_DIRS)
	$(RUN) -m ruff format $(CHECK_DIRS)

clean:  ## remove the environment and all caches (outputs/ stays)
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find $(CHECK_DIRS) -name __pycache__ -type d -prune -exec rm -rf {} +
