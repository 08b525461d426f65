# make quickstart: sets up everything, trains the quickstart sweep, draws its figures
# make test:       sets up everything, passes the tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-slow lint lock clean

quickstart: .venv/installed
	$(BIN)/metaphase run quickstart
	$(BIN)/metaphase plot results/quickstart

test: .venv/installed lint
	$(BIN)/pytest -m "not slow" -n 2 --dist loadgroup

test-slow: .venv/installed
	$(BIN)/pytest -m slow

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The environment, from the lock file: the same versions everywhere.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "metaphase needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -c "from metaphase.core.kernels import cpu; cpu.available()"
	sync  # gigabytes were written: what runs next shouldn't wait for the disk
	touch $@

# After a change of the dependencies in pyproject.toml. Versions in the lock file stay as they are
# where they can; delete the file to move all of them.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate \
	    --no-emit-index-url --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv build *.egg-info
