# make train   train an agent on the maze, evaluate it, show the result   (make train ARGS="mnm-g --env mnm/MazeSmall-v0 --seed 1")
# make test    formatter, linter, type checker, tests, documentation
# make browser   installs Chromium, as root on Debian or Ubuntu, for those tests of reports that look at one
# make docs    the documentation with the API reference, in site/
# make bench   throughput and memory beside the alternatives, for about half an hour (make bench ARGS="--json FILE --plot FILE")
# make dist    the wheel and the source archive, in dist/
# All make the virtual environment .venv first, with the versions of constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test browser docs bench dist format clean

train: $(VENV)/installed
	$(BIN)/python train.py $(or $(ARGS),mnm-p --env mnm/MazeSmall-v0 --total-timesteps 5e5)

test: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(BIN)/python -m mnm_rl.compile & compiling=$$!; $(BIN)/mypy || { kill $$compiling; exit 1; }; wait $$compiling
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile
	$(MAKE) docs

browser:
	apt-get update --quiet --quiet
	apt-get install --quiet --quiet --yes --no-install-recommends chromium

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.throughput $(ARGS)

dist: $(VENV)/installed
	rm -rf build dist
	$(BIN)/python -m build --no-isolation

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "MNM-RL needs Python 3.11 or newer; name one with: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist site *.egg-info
