# The targets; `make` alone lists them. Another interpreter: make demo PYTHON=python3.12
# PyTorch without CUDA, a much smaller download:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=

BIN := $(VENV)/bin
# One more than there are processors, at most 4: tests also wait, for processes and for files.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(4, (os.cpu_count() or 1) + 1))")
# Run on their own are those that can be, but for these; coverage is part of the sweep.
SHARED := benchmarks.tables benchmarks.throughput.ceilings benchmarks.throughput.child \
  benchmarks.encoders.coverage benchmarks.architecture_coverage benchmarks.kernel_compiling \
  benchmarks.zoo.publish benchmarks.tutorials.execute benchmarks.tutorials.run benchmarks.versions
BENCHMARKS := $(filter-out $(SHARED),$(subst /,.,$(basename $(shell grep -rl --include=*.py __main__ benchmarks))))

.DEFAULT_GOAL := help
.PHONY: help demo check test docs cover dist bench sweep clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## Train on a photograph of coins, segment what was not seen, make a page
	$(BIN)/segzoo demo

check: $(VENV)/.installed-test ## The quick checks: format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Processes of one thread each: most tests are too small for two threads to help, and types are
# checked beside the documentation, which trains a model.
# The browser's tests need chromium and the page's runtime; without them they are skipped.
# Many tests start Python anew, which is to find compiled modules whatever the environment says.
# What tensors leave free is kept by the process (glibc would return it, to get it back as zeros).
# Types and documentation take one processor each, so they are checked side by side.
test: $(VENV)/.installed-test $(VENV)/.runtime ## Every check: format, lint, types, documentation, tests
	OMP_NUM_THREADS=1 $(MAKE) -j2 --output-sync=target check docs
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 \
	  MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000 \
	  $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

cover: $(VENV)/.installed-test $(VENV)/.runtime ## The tests with branch coverage, which has a floor (slower)
	$(BIN)/sphinx-build -q -W docs docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --cov

docs: $(VENV)/.installed-test ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -W docs docs/_build/html

# The wheel, the source, their descriptions checked, and what a new environment with the wheel consists of.
dist: $(VENV)/.installed-release ## Build what a release uploads, into dist/: wheel, source, bill of materials
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --without-pip build/with-the-wheel
	# By name, for a path would be written down in what everybody can read.
	$(BIN)/python -m pip --python build/with-the-wheel install -q $(PIP_FLAGS) --find-links dist \
	  segzoo==$$($(BIN)/python -c "import segzoo; print(segzoo.__version__)")
	$(BIN)/cyclonedx-py environment build/with-the-wheel --mc-type library --output-reproducible \
	  --output-file build/segzoo.cdx.json
	mv build/segzoo.cdx.json dist

bench: $(VENV)/.installed-bench ## Run every benchmark and write benchmarks/results (long)
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m $$name; done

sweep: $(VENV)/.installed-test $(VENV)/.installed-bench ## Every module and architecture of timm (hours)
	SEGZOO_SWEEP=1 $(BIN)/python -m pytest -q tests/encoders/test_families.py
	SEGZOO_FUZZ_SECONDS=900 $(BIN)/python -m pytest -q -k mutated tests
	SEGZOO_RAY=1 $(BIN)/python -m pytest -q tests/folders/test_on_ray.py
	$(BIN)/python -m benchmarks.encoders.coverage
	$(BIN)/python -m benchmarks.encoders.coverage --real
	$(BIN)/python -m benchmarks.architecture_coverage
	$(BIN)/python -m benchmarks.kernel_compiling
	$(BIN)/python -m benchmarks.versions

# What computes in pages, once from npm's registry into the user's cache. Without a network the rest goes on.
$(VENV)/.runtime: $(VENV)/.installed-test segzoo/pages/runtime.py
	-$(BIN)/python -m segzoo.pages.runtime && touch $@

clean: ## Remove what was built; .venv stays
	rm -rf build dist *.egg-info docs/_build docs/architectures docs/generated demo-output
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find segzoo tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# One stamp for each set of extras: installed again only when the requirements change.
$(VENV)/.installed-demo: EXTRAS := demo,page
$(VENV)/.installed-test: EXTRAS := demo,docs,test
$(VENV)/.installed-bench: EXTRAS := bench,demo
$(VENV)/.installed-release: EXTRAS := release
$(VENV)/.installed-%: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -e ".[$(EXTRAS)]"
	@touch $@
