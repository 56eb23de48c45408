# make demo       score real photos                make test-all     all tests, also long ones and browsers
# make test       run the quick tests              make test-browser check pages in Chromium
# make lint       check style and types            make test-lowest  run the tests on the lowest versions
# make docs       build the site                   make audit        look for known vulnerabilities
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Each test process computes with one thread: there is a process for every core already.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Python keeps what it compiles, even where the environment forbids it. Otherwise each process of the tests compiles
# all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-long test-browser test-lowest test-all audit lint clean

# A stamp is newer than the files that decide what is installed, so a second call installs nothing.
$(VENV)/installed-%: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[$*]"
	touch $@

demo: $(VENV)/installed-demo
	$(BIN)/python -m descscore.demo

# Into build/site; any warning is an error. The tests build it too.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(VENV)/installed-dev
	$(PYTEST) -m "not long"

# Random kills, fuzzing, several processes, every block of the documentation.
test-long: $(VENV)/installed-dev
	$(PYTEST) -m long

# Not everybody has a browser, so "make test" needs none.
test-browser: $(VENV)/installed-dev
	.ci/install-chromium
	$(PYTEST) tests/browser

# An environment of its own with the lowest versions that pyproject.toml states, on Python 3.10.
test-lowest:
	.ci/test-lowest

test-all: test test-long test-browser test-lowest audit

# Known vulnerabilities of the installed packages. Without a network it says "not reached" and does not fail.
audit: $(VENV)/installed-dev
	$(BIN)/python .ci/audit.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typecheck.py

clean:
	rm -rf $(VENV) build dist *.egg-info
