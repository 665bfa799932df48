# `make demo` and `make test` are all that a newcomer needs; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu

.PHONY: help demo test test-slow lint format bench table reproduce-fql sweep-utd reproduce-dsearch reproduce-rerd tpu-check install clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/installed  ## collect data, train FQL on a CPU, evaluate, film: some minutes on two cores
	$(BIN)/python -m fql_jax.main --env=ogbench-cube $(ARGS)

test: $(VENV)/installed  ## the default tests: CPU, 8 fake devices
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=15 $(ARGS)

test-slow: $(VENV)/installed  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow --durations=15 $(ARGS)

lint: $(VENV)/installed  ## ruff, and the floors that imports keep to
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/core/test_floors.py

format: $(VENV)/installed  ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed  ## measure speed on this machine, beside peers where they are installed; rows go to results/bench.jsonl
	$(BIN)/python -m fql_jax.bench $(ARGS)
	$(BIN)/python -m scaling.utd.bench $(ARGS)
	$(BIN)/python -m diffusion_jax.bench $(ARGS)
	$(BIN)/python -m core_jax.transformer.bench $(ARGS)
	$(BIN)/python -m colbench_jax.bench $(ARGS)

reproduce-fql: $(VENV)/installed  ## six agents on five environments, three seeds: about two hours on two cores
	$(BIN)/python -m fql_jax.reproduce $(ARGS)

sweep-utd: $(VENV)/installed  ## the laws of UTD ratios: about twelve minutes on two cores; DRY=1 PROFILE= ENVS= SIGMAS= SEEDS=
	$(BIN)/python -m scaling.utd.sweep $(if $(DRY),--dry) $(if $(PROFILE),--profile=$(PROFILE)) \
	    $(if $(ENVS),--envs=$(ENVS)) $(if $(SIGMAS),--sigmas=$(SIGMAS)) $(if $(SEEDS),--seeds=$(SEEDS)) $(ARGS)

reproduce-dsearch: $(VENV)/installed  ## DSearch and what it is compared with, at equal cost: tables and panels
	$(BIN)/python -m diffusion_jax.compare --config=configs/diffusion/dsearch.py $(ARGS)

reproduce-rerd: $(VENV)/installed  ## refinement beside single-shot guidance, at equal cost
	$(BIN)/python -m diffusion_jax.compare --config=configs/diffusion/rerd.py $(ARGS)

table: $(VENV)/installed  ## write docs/results.md from results/*.json
	$(BIN)/python -m core_jax.stats $(ARGS)

tpu-check: $(VENV)/installed $(VENV)/tpu-check  ## compile for TPU slices with the real TPU compiler, on a CPU
	$(BIN)/python -m fql_jax.tpu_check $(ARGS)
	$(BIN)/python -m scaling.utd.tpu_check $(ARGS)
	$(BIN)/python -m diffusion_jax.tpu_check $(ARGS)
	$(BIN)/python -m core_jax.transformer.tpu_check $(ARGS)

install: $(VENV)/installed  ## the environment alone

# constraints.txt is the exact set for Python 3.11; another Python resolves for itself.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,video,tensorboard]' \
	    $$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
	touch $@

$(VENV)/tpu-check: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tpu-check,playground]' \
	    $$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')
	touch $@

clean:  ## remove caches; environment, runs and data stay
	rm -rf .cache .pytest_cache .ruff_cache dist
	find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
