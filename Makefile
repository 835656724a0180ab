# make demo, make test: each makes its own virtual environment if there is none, installs what it needs, and runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run in two processes; more threads than that only get in each other's way.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow test-arm64 lint benchmark clean

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

# The test of the ONNX file that needs nothing of ours runs it in JavaScript.
WEB := build/web/node_modules/onnxruntime-web/package.json
$(WEB):
	@command -v npm >/dev/null && npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix build/web \
	  onnxruntime-web@1.30.0 || echo "no npm: the test in JavaScript will fail; install Node.js 20 or newer"

# Each process begins with its own half, so that what a file of tests prepares is mostly made once, and takes from the other's at the end.
test: $(VENV)/.installed browser $(WEB)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m slow

# The runtime's tests on an emulated ARM64 processor, with the wheels that a device would install, then what this
# machine exports. It begins by naming the tests that are left out: those that need TensorRT or cuda-python, or a processor that keeps
# a time.
# ARM64_ONNXRUNTIME=1.23.2 takes another version of onnxruntime.
ARM64_ONNXRUNTIME ?= $(shell sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' constraints.txt)
ARM64 := build/arm64/$(ARM64_ONNXRUNTIME)
ARM64_PYTHON := $(CURDIR)/$(ARM64)/root/usr/bin/python-arm64
NOT_ARM64 := slow or native or tensorrt

$(ARM64)/.unpacked: tests/arm64/unpack.sh constraints.txt | $(VENV)/.installed
	tests/arm64/unpack.sh $(ARM64) $(BIN)/python $(ARM64_ONNXRUNTIME)
	touch $@

test-arm64: $(ARM64)/.unpacked $(VENV)/.installed
	@echo "left out: tests/runtime/cuda, and" && \
	  $(ARM64_PYTHON) -m pytest -q tests/runtime --ignore tests/runtime/cuda --collect-only -m '$(NOT_ARM64)'
	$(ARM64_PYTHON) -m pytest -n 2 tests/runtime --ignore tests/runtime/cuda -m 'not ($(NOT_ARM64))'
	ARM64_PYTHON=$(ARM64_PYTHON) $(BIN)/python -m pytest tests/arm64/same_samples.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy reads the package as it is installed, under its import name
	rm -rf build/typed && $(BIN)/python -m pip install --quiet --no-deps --target build/typed .
	MYPYPATH=build/typed $(BIN)/mypy

# An hour or two, on a machine that does nothing else.
RESULTS := build/benchmarks
benchmark: export OMP_NUM_THREADS =
benchmark: $(VENV)/.installed
	mkdir -p $(RESULTS)
	$(BIN)/python benchmarks/samplers.py --out $(RESULTS)/samplers.json
	$(BIN)/python benchmarks/jitter.py --out $(RESULTS)/samplers.json
	$(BIN)/python benchmarks/sampler_page.py $(RESULTS)/samplers.json $(RESULTS)/samplers.md
	$(BIN)/python benchmarks/long_run.py --steps 100000 --kills 5 --out $(RESULTS)/long_run.json
	$(BIN)/ebm-export examples/digits/model.pt --target onnxruntime --precision fp32 --out $(RESULTS)/digits.ebm --force
	$(BIN)/python benchmarks/first_sample.py $(RESULTS)/digits.ebm --out $(RESULTS)/first_sample.json
	$(BIN)/python benchmarks/export_time.py

clean:
	rm -rf $(VENV) demo build dist *.egg-info
