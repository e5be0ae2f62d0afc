# Everything runs in .venv, made from the package registry alone. A second run starts in seconds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
FUZZ_SECONDS ?= 60
DEMO_DIR ?= runs/demo
EXPERIMENTS := convergence degenerate few_shot
STUDY_DIR ?= runs/study
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SOURCES := $(shell find csrc tests/native -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')

# An editable installation finds the modules that there were when it was made.
MODULES := $(VENV)/.modules-$(shell find tsloss_fast benchmarks -name '*.py' | LC_ALL=C sort | cksum | cut -d' ' -f1)

# Waiting OpenMP threads that spin make everything else on a busy machine many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test ptx test-wheel test-torch docs conformance fuzz valgrind lint format bench evidence experiments \
  venv dist lock audit clean

# The main job: tune a real language model with TSLoss and without, measure against GUDHI, report.
demo: venv
	$(BIN)/tsloss tune --model smollm2 --task boolean --loss tsloss --control --steps 60 --out $(DEMO_DIR)
	$(BIN)/tsloss bench --quick --out $(DEMO_DIR)/benchmark.md | tee $(DEMO_DIR)/benchmark.txt
	$(BIN)/tsloss report $(DEMO_DIR) --out $(DEMO_DIR)/report.html
	@echo
	@echo "make demo wrote:"
	@find $(DEMO_DIR) -maxdepth 1 -type f ! -name '.*' -print | sort | sed 's/^/  /'

# The tests of a file stay together: they share what was built for them.
test: venv
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# All tests of the PTX that nvcc writes for the CUDA kernels, also the long ones that `make test` skips.
ptx: venv
	TSLOSS_PTX=all $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder tests/gpu -k ptx

# The wheel, built under isolation and installed into an environment of its own, tested from another
# folder, so that nothing of the source tree can be imported by accident.
test-wheel: venv
	.ci/test-wheel

# build/docs/index.html: the tutorial is run, and any warning is an error.
docs: venv
	$(BIN)/python -m sphinx -n -W --keep-going -q -b html tsloss_fast/docs build/docs

# The core on another torch and Python, to be downloaded: make test-torch TORCH=2.6.0 PYTHON=python3.12 NUMPY=1.26.0
test-torch:
	.ci/test-versions $(TORCH) $(PYTHON) $(NUMPY)

# Which implementation of H0 persistence gets what right.
conformance: venv
	PYTHONPATH=tests $(BIN)/python -m conformance --output benchmarks/results/conformance.md

# The native core on inputs that a fuzzer makes up (tests/native/findings.md has what it found), and
# under valgrind. An input that breaks something is left in build/fuzz.
fuzz: venv
	$(BIN)/python tests/native_build.py fuzz build/fuzz --seconds $(FUZZ_SECONDS)

valgrind: venv
	$(BIN)/python tests/native_build.py valgrind build/valgrind

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

bench: venv
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/tsloss bench --out benchmark-results/benchmark.md

# Every table and figure of the experiments, and the one in the README, from their raw results.
evidence: venv
	$(BIN)/python -m tsloss_fast.benchmarks.study.page --readme README.md

# The studies that decide whether TSLoss helps: hours, stopped and started at will.
experiments: venv
	for name in $(EXPERIMENTS); do \
	  $(BIN)/tsloss compare $$name --processes 2 --out $(STUDY_DIR) >/dev/null; done

# What is released: the source distribution, and wheels for the Pythons that are here. CUDA=1 adds the variant.
dist: venv
	.ci/dist $(if $(CUDA),--cuda)

# The hashes of what constraints.txt pins; and, with a network, what is known against those versions.
lock: venv
	.ci/lock

audit: venv
	.ci/audit

venv: $(VENV)/.requirements $(VENV)/.built

$(VENV)/.requirements: constraints.txt pyproject.toml .ci/install .ci/requirements.py .ci/requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	.ci/install
	touch $@

# Editable: Python files are read from the tree, the native module lives in the environment.
$(VENV)/.built: $(VENV)/.requirements $(MODULES) CMakeLists.txt pyproject.toml $(shell find csrc -type f)
	$(PIP) install -c constraints.txt --no-deps -e .
	touch $@

$(MODULES): $(VENV)/.requirements
	rm -f $(VENV)/.modules-*
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
