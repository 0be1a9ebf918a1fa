# Each target does its own set-up: git, make and Python 3.11 or newer are all that it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed
RUN := $(VENV)/bin/python
BENCH := .venv-bench
MEASURE := $(BENCH)/bin/python -m benchmarks.
OUT := --json .cache/bench

.PHONY: demo demo-edit test test-slow lint format bench bench-gpu lock clean

demo: $(READY)  ## train on digits, draw them, and say how good they are (about four minutes)
	$(RUN) train.py digits
	$(RUN) -m benchmarks.digits_accuracy runs/digits

demo-edit: $(READY)  ## train an editor on pairs of emoji, draw held-out edits, measure them (12 to 18 minutes)
	$(RUN) train.py emoji_edit_small
	$(RUN) -m benchmarks.edit_accuracy runs/emoji_edit_small

test: $(READY)  ## every law but the slow ones (6 to 7 minutes on two quiet cores)
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

bench: $(BENCH)/.installed  ## this CPU, also against PyTorch, in about ten minutes; figures in .cache/bench
	$(MEASURE)forward --networks channels32 channels64 ddpm --rounds 3 $(OUT)/forward.json
	$(MEASURE)train_step --networks channels64 ddpm --rounds 3 $(OUT)/train_step.json
	$(MEASURE)train_step --networks channels32 --batch-size 4 16 32 --rounds 3 $(OUT)/batches.json
	$(MEASURE)plot .cache/bench/batches.png .cache/bench/batches.json
	$(MEASURE)sampling --networks channels32 --batch-size 4 --rounds 3 $(OUT)/ddim.json
	$(MEASURE)sampling --sampler heun --networks channels32 --batch-size 4 --rounds 3 $(OUT)/heun.json
	$(MEASURE)memory --networks channels32 $(OUT)/memory.json
	$(MEASURE)data --seconds 2 $(OUT)/data.json
	$(MEASURE)compile --rounds 1 $(OUT)/compile.json
	$(MEASURE)loop digits --run.save-every-steps 400 --pairs 1 $(OUT)/loop.json

GPU := --dtype bfloat16 --sides compiled eager

bench-gpu: $(BENCH)/.installed  ## a GPU against PyTorch on it; figures in .cache/bench
	$(BENCH)/bin/python -m pip install --quiet -c requirements.lock -e ".[bench,cuda13]"
	$(MEASURE)devices
	$(MEASURE)roofline --networks ddpm edm --batch-size 256 512 --dtype bfloat16 $(OUT)/roofline.json
	$(MEASURE)train_step --networks ddpm edm --batch-size 128 256 512 1024 $(GPU) $(OUT)/train_step.json
	$(MEASURE)plot .cache/bench/batches.png .cache/bench/train_step.json
	$(MEASURE)forward --networks ddpm edm --batch-size 256 $(GPU) $(OUT)/forward.json
	$(MEASURE)sampling --networks ddpm edm --batch-size 256 $(GPU) $(OUT)/ddim.json
	$(MEASURE)sampling --sampler heun --networks ddpm edm --batch-size 256 $(GPU) $(OUT)/heun.json
	$(MEASURE)memory --networks ddpm edm --batch-size 256 $(OUT)/memory.json
	$(MEASURE)largest --networks ddpm --dtype bfloat16 $(OUT)/largest.json
	$(MEASURE)data $(OUT)/data.json
	$(MEASURE)loop digits $(OUT)/loop.json

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

$(BENCH)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[bench]"
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH) build dist .cache .pytest_cache .ruff_cache *.egg-info
