# `make demo` and `make test` set everything up: they need Python 3.11+, make and git, and fetch uv where there is none.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)

.PHONY: demo test lint setup
.DELETE_ON_ERROR:

demo: setup
	$(UV) run --no-sync robustprobe demo

test: setup
	$(UV) run --no-sync pytest -n auto --dist loadfile

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
