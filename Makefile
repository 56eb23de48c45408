# make demo   score real photos          make test           run the tests
# make lint   check style and types      make test-browser   check pages in Chromium
# make docs   build the site             make test-lowest    run the tests on the lowest versions
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BROWSER_STAMP := $(VENV)/installed-browser

.PHONY: demo docs test test-browser test-lowest lint clean

# The stamp is newer than what decides the environment, so a second call installs nothing.
$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(STAMP)

$(BROWSER_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,browser]"
	touch $(BROWSER_STAMP)

demo: $(STAMP)
	$(BIN)/python -m descscore.demo

# Into build/site; any warning is an error. The tests build it too.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test: $(STAMP)
	$(BIN)/python -m pytest

# Pages are checked in a real browser, which not everybody has: not part of "make test".
test-browser: $(BROWSER_STAMP)
	.ci/install-chromium
	$(BIN)/python -m pytest tests/browser

# An environment of its own with the lowest versions that pyproject.toml states, on Python 3.10.
test-lowest:
	.ci/test-lowest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typecheck.py

clean:
	rm -rf $(VENV) build dist *.egg-info
