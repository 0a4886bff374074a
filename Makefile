# Two commands do everything on a fresh machine: `make demo` runs the whole chain, `make test` passes the tests.

# Python that rapo runs on: `python3` where it fits, else the first of the others on the PATH that does.
FITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do $$p $(FITS) 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
OUT ?= runs/demo
SET ?=
LANES ?= 2
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: setup demo test test-all quick long release unit integration chaos browser gpu lint resolve format proto bench bench-runs clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints/$(EXTRA).txt constraints/cpu-excluded.txt $(wildcard tools/*.py)
	@$(or $(PYTHON),false) $(FITS) || { echo "rapo needs Python 3.11 to 3.13, and $(or $(PYTHON),python3) is none." \
		"Install one, or say where it is: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m tools.setup_env --venv $(VENV) --extra $(EXTRA)
	@touch $@

demo: setup
	$(BIN)/rapo run configs/cpu.toml --out $(OUT) $(SET)

test: setup lint quick

# The quick tests and the long ones: chaos, resume, ZeRO stages, scaling of a live run, the service's life.
test-all: test long

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check

# Seconds: whether the extra for GPUs can be installed, for Linux on x86-64. It asks the package index and installs nothing.
resolve: setup
	$(BIN)/python -m tools.resolve_gpu

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -q -n auto --maxprocesses 8 --dist loadfile

# One worker runs all that needs the real parts, the other the unit tests (tests/conftest.py).
quick: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration tests/unit -q -m "not long and not release" -n 2 --dist loadscope \
		--no-loadscope-reorder --durations=10

integration: setup
	$(BIN)/python -m pytest tests/integration -q -m "not long and not release" --durations=15

# Two files at once, which takes 16 GiB of memory; with less: make long LANES=1.
long: setup
	$(BIN)/python -m pytest tests/integration tests/chaos -q -m long -n $(LANES) --dist loadfile \
		--no-loadscope-reorder --durations=15

# Before a release, half an hour: whole runs and clusters of several nodes, and the whole chain with each model family.
release: setup
	$(BIN)/python -m pytest tests/integration -q -m release -n $(LANES) --dist loadfile --no-loadscope-reorder --durations=15

# On a machine with a GPU and `make setup EXTRA=gpu`: the tests of the real parts that a GPU concerns, on it.
gpu: setup
	RAPO_TEST_GPUS=1 $(BIN)/python -m pytest tests/integration -q -m gpu --durations=15

# Half an hour: sixty faults instead of six, on a run that learns, compared with one that was left alone.
chaos: setup
	RAPO_CHAOS_FAULTS=60 $(BIN)/python -m pytest tests/chaos -q

# The page for people in headless Chromium; needs Debian's chromium and chromium-driver.
browser: setup
	$(BIN)/python -m pytest tests/browser -q

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: setup
	$(BIN)/python protos/generate.py

# Half an hour on an idle machine; TRL gets an environment of its own in bench/.trl-venv.
bench: setup
	$(BIN)/python -m bench.reward
	$(BIN)/python -m bench.packing
	$(BIN)/python -m bench.rollout --workload W1
	$(BIN)/python -m bench.full_step --workload W1
	$(BIN)/python -m bench.full_step --workload W2 --steps 5 --trl-steps 3

# About two hours: staleness on a finished run, and the ablations over three seeds.
bench-runs: demo
	$(BIN)/python -m bench.asynchronous $(OUT)
	$(BIN)/python -m bench.ablation --work runs/ablation

clean:
	rm -rf $(VENV) build dist *.egg-info
