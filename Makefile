# `make demo` trains two networks and draws their ranks, `make test` runs the tests.
# Both make .venv on first use and need nothing but Python >= 3.11 and the package registries.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.installed
READY_SLOW := .venv/.installed-slow
IMAGE ?= lowrank:$(shell git rev-parse --short=12 HEAD)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: bench bench-quick demo docker docker-check evidence gpu-check soak test test-slow lint clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo       train with and without weight decay on the digits (a minute or two), draw the ranks"
	@echo "make test       lint, types and every test not marked slow"
	@echo "make test-slow  the slow tests"
	@echo "make evidence   the paper's trends on CIFAR-10, into the README (two hours of CPU time, six more for Figure 7 and optimisers)"
	@echo "make bench      measure speed beside its baselines (make bench-quick: only that it runs)"
	@echo "make gpu-check  whether training works on this machine's GPU (eight minutes)"
	@echo "make docker     build the image of the present commit"
	@echo "make docker-check  build it and use it: lint, training, agent, rerun (half an hour)"
	@echo "make soak       kill runs and fail their W&B server for SECONDS=600, and count what is lost"
	@echo "make clean      remove .venv and caches; runs/ stays"

demo: $(READY)
	@$(BIN)/python scripts/demo.py

evidence: $(READY)
	$(BIN)/python scripts/evidence.py $(FLAGS)
	$(BIN)/python scripts/compression.py
	$(BIN)/python scripts/optimizers.py $(FLAGS)

docker:
	git archive HEAD | docker build --tag $(IMAGE) --build-arg IMAGE=$(IMAGE) \
	  --build-arg COMMIT=$$(git rev-parse HEAD) \
	  --build-arg SOURCE=$$(git remote get-url origin 2>/dev/null | sed 's|//[^/]*@|//|') -

docker-check: $(READY_SLOW)
	$(BIN)/python scripts/docker_check.py $(FLAGS)

bench: $(READY_SLOW)
	$(BIN)/python -m benchmarks $(FLAGS)

bench-quick: $(READY_SLOW)
	$(BIN)/python -m benchmarks --quick

gpu-check: $(READY)
	$(BIN)/python -m benchmarks.gpu $(FLAGS)

SECONDS ?= 600

soak: $(READY)
	$(BIN)/python -m tests.soak --seconds=$(SECONDS)

test: $(READY) lint
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: $(READY_SLOW)
	$(BIN)/python -m pytest -q -n 2 -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Installing pinned packages into .venv (first use only; a few minutes, about 6 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(READY_SLOW): pyproject.toml constraints.txt $(READY)
	@echo "Installing what the slow tests compare with (first use only; about 300 MB)"
	@$(INSTALL) -e '.[dev,slow]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis lowrank.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
