# Two commands matter: make test and make demo. Each sets up what it needs, from nothing.

WITH_ROS := scripts/with_ros
PYTEST_ARGS ?= -q

.DEFAULT_GOAL := help
.PHONY: help setup messages test lint engine demo train-tiny format

help:
	@echo "make demo      play a recorded bag to the ROS 2 node and show what it finds"
	@echo "make test      lint, types and tests (PYTEST_ARGS=... for pytest)"
	@echo "make engine    export models/llava-st-tiny for ONNX Runtime (docs/export.md)"
	@echo "make train-tiny  train a checkpoint like models/llava-st-tiny in two hours; goes on where it was stopped"
	@echo "make setup     virtual environment, pinned requirements and messages only"
	@echo "make messages  build msg/, srv/ and action/ again"
	@echo "make format    rewrite the sources as ruff wants them"

# PYTHON=/path/to/python3.11 names the interpreter of a new virtual environment.
setup:
	@PYTHON="$(PYTHON)" scripts/set_up

messages:
	@scripts/build_messages

lint: setup
	@echo "[lint] ruff format --check"
	@$(WITH_ROS) ruff format --check -q .
	@echo "[lint] ruff check"
	@$(WITH_ROS) ruff check -q .
	@echo "[lint] mypy"
	@scripts/typecheck

test: lint
	@echo "[test] pytest"
	@$(WITH_ROS) python -m pytest $(PYTEST_ARGS)

# What node, demo and command line run when no model is named; made again when the weights change.
ENGINE := models/llava-st-tiny-cpu
engine: $(ENGINE)/manifest.json
$(ENGINE)/manifest.json: $(wildcard models/llava-st-tiny/* export/*.py export/*/*.py export/targets/*.yaml \
  llava_st_ros/model/*.py llava_st_ros/model/packer/*.py) | setup
	@echo "[engine] exporting models/llava-st-tiny to $(ENGINE)"
	@$(WITH_ROS) python -m llava_st_ros.cli export --out $(ENGINE)

demo: engine
	@$(WITH_ROS) python -m demo.run

# data/ holds the clips, the run's state and its checkpoint; delete it to begin anew.
train-tiny: setup
	@$(WITH_ROS) python -m llava_st_ros.cli train simulate --config config/training/tiny.yaml --data data/train
	@$(WITH_ROS) python -m llava_st_ros.cli train run --config config/training/tiny.yaml \
	  --data data/train --work data/run --out data/llava-st-tiny

format: setup
	@$(WITH_ROS) ruff format .
	@$(WITH_ROS) ruff check --fix .
