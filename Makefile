# `make demo` and `make test` are all a newcomer needs. TORCH=cuda installs the CUDA build of torch.
PYTHON ?= python3
TORCH ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(TORCH)
# Where compiled modules are not to be kept, as in many containers, every start of `perception` compiles for 4 seconds.
unexport PYTHONDONTWRITEBYTECODE
# Without compiling: what is never imported need not be, and the rest is compiled as it is imported.
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
TESTS ?=
SOURCES := perception sim tests

.PHONY: setup demo test check bench soak chaos proto clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo    install, drive the simulator loop for 10 s, leave a video, pictures and a recording in out/"
	@echo "make test    install, run the tests"
	@echo "make check   linter, types, import rules"
	@echo "make bench   measure the service on this machine (out/bench)"
	@echo "make soak    half an hour at twice what the service can do: does memory stay flat? (out/bench)"
	@echo "make chaos   kill the service's processes 200 times at random and prove that nothing is lost (out/chaos.json)"
	@echo "make setup   install only        make clean   remove what make made"
	@echo "TORCH=cuda   with the CUDA build of torch (gigabytes)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt perception/cli/system_check.py
	$(PYTHON) perception/cli/system_check.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(PIP) torch==2.13.0+cpu 2>/dev/null || $(PIP) --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0
else
	$(PIP) torch==2.13.0
endif
	$(PIP) --editable ".[dev,sim]"
	$(BIN)/python -m compileall -q perception sim
	$(BIN)/python -c "import ray, perception.queues.zenoh, perception.runtime.engines, perception.training.trainer"
	touch $@

demo: setup
	rm -rf out/demo && mkdir -p out/demo
	$(BIN)/perception consume --json --timeout 300 > out/demo/results.jsonl & \
	$(BIN)/perception sim --scenario closed_loop --driver oracle --duration 10 --wait-for-consumer --record out/demo/drive \
	  --video out/demo/video.mp4 --pictures out/demo/pictures; \
	status=$$?; wait; test $$status -eq 0
	@echo "out/demo: video.mp4, pictures/, results.jsonl (what a consumer got), drive/ (a nuScenes root: perception replay out/demo/drive)"

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

check: setup
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	mkdir -p out/bench
	$(BIN)/perception bench model --json | tee out/bench/model.json
	$(BIN)/perception bench pipeline --json | tee out/bench/pipeline.json
	$(BIN)/perception bench nuscenes --json | tee out/bench/nuscenes.json

soak: setup
	mkdir -p out/bench
	$(BIN)/perception bench soak --save out/bench/soak.json

chaos: setup
	mkdir -p out
	$(BIN)/python -m tests.chaos --kills 200 --out out/chaos.json

proto: setup
	$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. perception/queues/perception_result.proto

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
