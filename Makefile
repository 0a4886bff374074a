# Two commands do everything on a fresh machine: `make demo` runs the whole chain, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
OUT ?= runs/demo
SET ?=
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: setup demo test unit integration lint format proto bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints/$(EXTRA).txt rapo/setup_env.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "rapo needs Python 3.11 or 3.12; give make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python rapo/setup_env.py --extra $(EXTRA)
	touch $@

demo: setup
	$(BIN)/rapo run configs/cpu.toml --out $(OUT) $(SET)

test: setup lint unit integration

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -q

integration: setup
	$(BIN)/python -m pytest tests/integration -q

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: setup
	$(BIN)/python protos/generate.py

bench: setup
	$(BIN)/python -m bench.packing --out bench/results/packing.json
	$(BIN)/python -m bench.reward

clean:
	rm -rf $(VENV) build dist *.egg-info
