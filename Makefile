# Two commands are enough: `make demo` and `make test`. Each sets itself up in .venv.
PYTHON ?= python3
OUT ?= demo-out
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test test-slow bench-store bench-truth check format lint types layers clean

help:
	@echo "make demo    render scenes, explain two small classifiers, write a report (OUT=$(OUT))"
	@echo "make test    run the tests"
	@echo "make check   format, lint, types, import directions, tests"
	@echo "make clean   remove .venv and demo-out"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up .venv (about three minutes, 6 GB: the CUDA build of torch comes with torchvision) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[precompute,serve,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/textcam demo -o '$(OUT)'

test: $(READY)
	@$(BIN)/python -m pytest -m "not slow" --durations=15

test-slow: $(READY)
	@$(BIN)/python -m pytest -m slow

bench-store: $(READY)
	@OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.store_index
	@OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.store_memory

bench-truth: $(READY)
	@export OMP_NUM_THREADS=1; \
	( $(BIN)/python -m benchmarks.truth.families; families=$$?; \
	$(BIN)/python -m benchmarks.truth effects calibration genuine && exit $$families ) & second=$$!; \
	$(BIN)/python -m benchmarks.truth t0 t1 t2 details ablation; first=$$?; wait $$second && exit $$first

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY)
	@$(BIN)/mypy

layers: $(READY)
	@$(BIN)/lint-imports

check: lint types layers test

# What these files make by themselves, and nothing that a name was given to: that may be anybody's folder.
clean:
	rm -rf .venv demo-out
	@test '$(OUT)' = demo-out || echo 'left alone: $(OUT)'
