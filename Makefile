# `make demo` and `make test` set everything up: they need Python 3.11+, make and git, and fetch uv where there is none.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)

.PHONY: demo docs test test-browser test-cluster lint setup
.DELETE_ON_ERROR:

# Without the tools of development; those that are there already stay.
demo: $(UV)
	$(UV) sync --no-dev --inexact
	$(UV) run --no-sync robustprobe demo

test: setup
	$(UV) run --no-sync pytest -n auto --dist loadfile

# The documentation site, in docs/_build: warnings are errors, links are checked, nothing is downloaded while it is built.
docs: $(UV)
	$(UV) sync --group docs
	$(UV) run --no-sync sphinx-build -W --keep-going -q -b html docs docs/_build

# Optional: the page in a headless Chromium, which is installed where there is none (Debian, as root).
test-browser: $(UV)
	$(UV) sync --group browser
	{ command -v chromium && command -v chromedriver; } >/dev/null || (apt-get update && apt-get install --yes chromium chromium-driver)
	$(UV) run --no-sync pytest tests/browser

# Optional: runs by Ray, on this machine.
test-cluster: $(UV)
	$(UV) sync --group cluster
	$(UV) run --no-sync pytest tests/e2e/test_ray.py

lint: setup
	$(UV) run --no-sync ruff format --check
	$(UV) run --no-sync ruff check
	$(UV) run --no-sync mypy
	$(UV) run --no-sync lint-imports

setup: $(UV)
	$(UV) sync

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv
