# A user needs only make test and make demo: each sets up what it uses in a fresh clone.

WITH_ROS := scripts/with_ros
PYTEST_ARGS ?= -q
# Many tests wait for half of their time. A file's tests run in one process and share its fixtures.
PYTEST_PROCESSES ?= 2
PYTEST := python -m pytest -n $(PYTEST_PROCESSES) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup messages test test-fast ruff lint format docs engine demo demo-animation train-tiny fuzz

help:
	@echo "make demo            play a recorded bag to the ROS 2 node, score what it publishes, write a report"
	@echo "make test            format, lint, types and all tests (PYTEST_ARGS=... for pytest)"
	@echo "make test-fast       ruff and the tests that need neither ROS nor a renderer, in under a minute"
	@echo "make fuzz            ten minutes of damaged and hostile input (FUZZ_ARGS=\"bags --seconds 60\")"
	@echo "make docs            build the documentation with the API reference into build/docs"
	@echo "make engine          export models/llava-st-tiny to models/llava-st-tiny-cpu, if it has changed"
	@echo "make train-tiny      train a checkpoint like models/llava-st-tiny; resumes (DEVICE=cuda, MINUTES=30)"
	@echo "make demo-animation  make docs/images/demo.webp from the demo's output"
	@echo "make setup           virtual environment, pinned requirements and messages only"
	@echo "make messages        build msg/, srv/ and action/ again"
	@echo "make format          format the sources and apply lint fixes"

# PYTHON=/path/to/python3.11 names the interpreter of a new virtual environment.
setup:
	@PYTHON="$(PYTHON)" scripts/set_up

messages:
	@scripts/build_messages

ruff: setup
	@echo "[lint] ruff format --check"
	@$(WITH_ROS) ruff format --check -q .
	@echo "[lint] ruff check"
	@$(WITH_ROS) ruff check -q .

lint: ruff
	@echo "[lint] mypy"
	@scripts/typecheck

test: lint
	@echo "[test] pytest"
	@$(WITH_ROS) $(PYTEST) $(PYTEST_ARGS)

# Without mypy, whose first run takes longer than these tests.
test-fast: ruff
	@echo "[test-fast] pytest, without ROS, renderer and slow tests"
	@$(WITH_ROS) $(PYTEST) -m "not ros and not renderer and not slow" $(PYTEST_ARGS)

# FUZZ_ARGS: surfaces, --seconds, --seed, and --index to try one input again.
fuzz: setup
	@PYTHONPATH="tests:$$PYTHONPATH" $(WITH_ROS) python -m fuzz $(FUZZ_ARGS)

docs: setup
	@scripts/build_docs

# The model that node, demo and command line run by default. It is part of the repository.
engine: setup
	@$(WITH_ROS) scripts/export_engine

demo: engine
	@$(WITH_ROS) python -m demo.run

demo-animation: demo
	@$(WITH_ROS) python -m demo.animate

# Where the clips, the run's state and its checkpoint are; delete them to start from scratch.
# DEVICE: auto, cpu or cuda. GROW: batches in a step, for a GPU. MINUTES: training stops by then, and
# the same command resumes (docs/training.md).
CONFIG = config/training/tiny.yaml
DATA = data/train
WORK = data/run
OUT = data/llava-st-tiny
DEVICE = auto
MINUTES = inf
GROW = 1
train-tiny: setup
	@$(WITH_ROS) python -m llava_st_ros.cli train simulate --config $(CONFIG) --data $(DATA)
	@$(WITH_ROS) python -m llava_st_ros.cli train run --config $(CONFIG) --data $(DATA) \
	  --work $(WORK) --out $(OUT) --device $(DEVICE) --grow $(GROW) --minutes $(MINUTES)

format: setup
	@$(WITH_ROS) ruff format .
	@$(WITH_ROS) ruff check --fix .
