# Each target does its own set-up: git, make and Python 3.11 or newer are all that it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed
RUN := $(VENV)/bin/python

.PHONY: demo test test-slow lint format bench lock clean

demo: $(READY)  ## train on digits, draw them, and say how good they are (about four minutes)
	$(RUN) train.py digits
	$(RUN) -m benchmarks.digits_accuracy runs/digits

test: $(READY)  ## every law but the slow ones (about seven minutes)
	$(RUN) -m pytest -q -m "not slow" --durations=10 -n auto --maxprocesses 4 --dist worksteal

test-slow: $(READY)
	$(RUN) -m pytest -q -m slow

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(RUN)

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(READY)  ## train.py's loop against the bare step
	$(RUN) -m benchmarks.loop

lock:  ## pins every version, for all supported Pythons, without addresses; needs uv
	uv pip compile --universal --no-emit-index-url --no-header --no-annotate --upgrade \
	    pyproject.toml --extra dev -o requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache *.egg-info
