# Two commands on a fresh machine: `make demo` and `make test`. Needs git, make, python3 (3.11 or newer, with venv) and pip.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: setup demo test lint clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sixnd needs Python 3.11 or newer; set PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "python3 has no venv here; on Debian: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade "pip>=25.1"
	$(BIN)/python -m pip install -qq "$(TORCH)"
	$(BIN)/python -m pip install -qq --editable ".[demo]"
	$(BIN)/python -m pip install -qq --group dev
	@$(BIN)/python -c 'import sixnd.sweeps.cli'
	@touch $@

demo: setup
	$(BIN)/sixnd demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile  # two processes; each file stays on one

lint: setup
	@mkdir -p .typecheck && ln -sfn .. .typecheck/sixnd
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.typecheck $(BIN)/mypy -p sixnd.models -p sixnd.train -p sixnd.sweeps -p sixnd.analysis

clean:
	rm -rf .venv .typecheck build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
