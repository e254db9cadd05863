# make setup | demo | test | kernel | check | check-native | bench: each does all of its own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.uproxy-installed
APT := apt-get install -y

.PHONY: setup demo test kernel check check-native bench clean

setup: $(STAMP)

NATIVE := $(wildcard uproxy/dataplane/relay/engine/*.[ch] uproxy/bench/load/native/*.[ch])

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: $(APT) python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "uproxy needs Python 3.11 or newer; $$($(PYTHON) --version) is what $(PYTHON) is" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: $(APT) python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python tests/missing_packages.py --native
	@touch $@

demo: $(STAMP)
	$(BIN)/uproxy demo --once

test: $(STAMP)
	@$(BIN)/python tests/missing_packages.py
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

kernel: $(STAMP)
	@$(BIN)/python -m tests.kernel.fetch

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-native: $(STAMP)
	$(BIN)/python tests/check_native.py

bench: $(STAMP)
	$(BIN)/uproxy bench --quick --peers haproxy,nginx

clean:
	rm -rf $(VENV) .kernel .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find uproxy -name "*.so" -delete
