# make demo, make test: each makes its own virtual environment if there is none, installs what it needs, and runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run in two processes; more threads than that only get in each other's way.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint benchmark clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[export,openvino,tensorrt-rtx,cuda,calibration,dev]'
	touch $@

demo: $(VENV)/.installed
	OMP_NUM_THREADS= $(BIN)/python examples/digits/demo.py

# The report's test opens it in Chromium; where that is missing and can be installed, it is.
.PHONY: browser
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; } || \
	  echo "no Chromium: the report's test will fail; install chromium and chromium-driver"

test: $(VENV)/.installed browser
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy reads the package as it is installed, under its import name
	rm -rf build/typed && $(BIN)/python -m pip install --quiet --no-deps --target build/typed .
	MYPYPATH=build/typed $(BIN)/mypy

benchmark: $(VENV)/.installed
	OMP_NUM_THREADS= $(BIN)/python benchmarks/export_time.py

clean:
	rm -rf $(VENV) demo build dist *.egg-info
