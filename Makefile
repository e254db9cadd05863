# make setup | demo | test | kernel | check | check-native | bench | lock: each does all of its own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.uproxy-installed
APT := apt-get install -y

.PHONY: setup demo test kernel check check-native bench lock clean

setup: $(STAMP)

NATIVE := $(wildcard uproxy/dataplane/relay/engine/*.[ch] uproxy/bench/load/native/*.[ch])

$(STAMP): pyproject.toml requirements/dev.txt uproxy/launcher/uproxy $(NATIVE)
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: $(APT) python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "uproxy needs Python 3.11 or newer; $$($(PYTHON) --version) is what $(PYTHON) is" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: $(APT) python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
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

# What is installed, of which release and with which hash, for all platforms. UPGRADE=--upgrade takes newer ones.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" $(UPGRADE) pyproject.toml

lock:
	@command -v uv >/dev/null || { echo "uv is missing: pip install uv" >&2; exit 1; }
	$(LOCK) --extra build -o requirements/run.txt
	$(LOCK) --extra dev -o requirements/dev.txt

clean:
	rm -rf $(VENV) .kernel .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find uproxy -name "*.so" -delete
