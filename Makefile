# make demo   score real photos          make test           run the tests
# make lint   check style and types      make test-browser   check pages in Chromium
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BROWSER_STAMP := $(VENV)/installed-browser

.PHONY: demo test test-browser lint clean

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

test: $(STAMP)
	$(BIN)/python -m pytest

# Pages are checked in a real browser, which not everybody has: not part of "make test".
test-browser: $(BROWSER_STAMP)
	.ci/install-chromium
	$(BIN)/python -m pytest tests/browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
