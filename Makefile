# faceflow: `make demo` first; `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Runs a command in the environment whatever the shell has active.
RUN := env -u PYTHONPATH PATH="$(abspath $(BIN)):$$PATH"

.PHONY: help demo test lint bench images compile lock docs test-containers test-portable clean

help:  ## lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 18

# ---- the environment --------------------------------------------------------------------------------------------------------------
# PYTHON=... chooses the interpreter; otherwise the first suitable one is taken, the version of the images first.
PYTHON ?=
SUITABLE := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

define NO_PYTHON
make: faceflow needs Python 3.11, 3.12 or 3.13 with its venv module, and found none.
Tried: $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3); python3 here is $$(python3 --version 2>&1 || true).
Install one (Debian and Ubuntu: apt install python3.11 python3.11-venv; elsewhere: uv python install 3.11, pyenv or conda)
and run make again, or name it: make PYTHON=/path/to/python3.11 ...
endef
export NO_PYTHON

$(READY): requirements-dev.lock setup.cfg pyproject.toml
	@case "$$(uname -sm)" in "Linux x86_64"|"Darwin arm64") ;; *) \
	  echo "make: tfx-bsl has wheels for Linux x86_64 and macOS arm64 only, and this is $$(uname -sm). Use a container or another machine." >&2; exit 1;; esac
	@if ! [ -x $(BIN)/python ]; then \
	  python=; for candidate in $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3); do \
	    if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then python=$$candidate; break; fi; done; \
	  if [ -z "$$python" ]; then eval "cat <<-END"$$'\n'"$$NO_PYTHON"$$'\n'END >&2; exit 1; fi; \
	  echo "$$($$python --version) -> $(VENV)"; "$$python" -m venv $(VENV); \
	fi
	@echo "installing into $(VENV): about 1.5 GB to download, some minutes"
	$(RUN) python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements-dev.lock
	$(RUN) python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# ---- what a person runs -----------------------------------------------------------------------------------------------------------
demo: $(READY)  ## synthetic faces -> trained model -> score and report, on this machine
	$(RUN) faceflow run pipelines/presets/demo.yaml

test: $(READY)  ## the test suite (PYTEST="-k align -x" passes options on)
	$(RUN) python -m pytest $(PYTEST)

lint: $(READY)  ## ruff, mypy, import-linter, generated tables
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) python -m faceflow.pipelines.docs --check

bench: $(READY)  ## every benchmark (QUICK=1: within a minute each)
	@failed=; for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(RUN) python "$$benchmark" $(if $(QUICK),--quick) || failed="$$failed $$benchmark"; done; \
	if [ -n "$$failed" ]; then echo "short of a bar or failed:$$failed" >&2; exit 1; fi

compile: $(READY)  ## writes pipelines/training.yaml (REGISTRY=, GPU=1, SCRATCH_PVC=: with OUTPUT=file.yaml)
	$(RUN) faceflow compile $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(GPU),--gpu) $(if $(SCRATCH_PVC),--scratch-pvc $(SCRATCH_PVC)) \
	  $(if $(OUTPUT),--output $(OUTPUT))

# ---- containers -------------------------------------------------------------------------------------------------------------------
# REGISTRY=registry.example.com/team  names the images for that registry;  PUSH=1 pushes them;  GPU=1 adds CUDA to train and evaluate;
# ENGINE=docker|podman  chooses;  BUILD_OPTIONS="--isolation=chroot --network=host"  goes to `podman build` or `docker build` as it is.
IMAGE_OPTIONS = $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(PUSH),--push) $(if $(GPU),--gpu) $(if $(ENGINE),--engine $(ENGINE)) \
  $(foreach option,$(BUILD_OPTIONS),--build-option=$(option))

images: $(READY)  ## builds the stages' images (REGISTRY=, PUSH=1, GPU=1, ENGINE=, BUILD_OPTIONS=)
	@$(RUN) faceflow images $(IMAGE_OPTIONS)

test-containers: $(READY)  ## builds the images and runs a tiny demo in them (ENGINE=, BUILD_OPTIONS=)
	ENGINE="$(ENGINE)" BUILD_OPTIONS="$(BUILD_OPTIONS)" $(RUN) python -m pytest -m containers --timeout 3600 $(PYTEST)

# ---- Beam on other machines -------------------------------------------------------------------------------------------------------
# JOB_ENDPOINT=host:8099 takes a Flink or Spark job server of your own instead of Prism; WORK_URI=s3://bucket/folder is then the place that
# its workers and this machine share; RUNNER_OPTIONS="--environment_type=EXTERNAL --environment_config=localhost:50000" goes to Beam.
PRISM := $(BIN)/prism
PRISM_VERSION := v2.76.0
PORTABLE_OPTIONS = $(if $(JOB_ENDPOINT),--job-endpoint $(JOB_ENDPOINT)) $(if $(WORK_URI),--work-uri $(WORK_URI)) \
  $(foreach option,$(RUNNER_OPTIONS),--runner-option=$(option))

$(PRISM): $(READY)
	@command -v go >/dev/null || { echo "make: Prism, the job server of this test, is built with Go 1.24 or newer; install it, or name a server: JOB_ENDPOINT=host:port" >&2; exit 1; }
	GOBIN="$(abspath $(BIN))" go install github.com/apache/beam/sdks/v2/go/cmd/prism@$(PRISM_VERSION)

test-portable: $(if $(JOB_ENDPOINT),$(READY),$(PRISM))  ## runs the data stages on a Beam job server (JOB_ENDPOINT=, WORK_URI=, RUNNER_OPTIONS=)
	$(RUN) python -m pytest -m portable $(PORTABLE_OPTIONS) $(PYTEST)

# ---- upkeep -----------------------------------------------------------------------------------------------------------------------
# Keeps what is locked unless it no longer fits; UPGRADE=1 takes the newest.
LOCK = $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate \
  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
IMAGE_LOCK = $(LOCK) --config-file docker/uv.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraints requirements-dev.lock \
  setup.cfg docker/base.in

lock:  ## writes the lock files from setup.cfg and docker/*.in (UPGRADE=1: newest versions)
	@[ -x $(BIN)/uv ] || { echo "make: no $(BIN)/uv yet; run make test or make demo once, or pip install uv into $(VENV)" >&2; exit 1; }
	$(LOCK) --universal --python-version 3.11 --extra dev setup.cfg -o requirements-dev.lock
	$(IMAGE_LOCK) -o docker/base.lock
	$(IMAGE_LOCK) docker/align.in -o docker/align.lock
	$(IMAGE_LOCK) docker/tensorflow.in -o docker/tensorflow.lock
	$(IMAGE_LOCK) docker/tensorflow.in docker/data.in -o docker/data.lock
	$(IMAGE_LOCK) docker/tensorflow.in docker/train.in -o docker/train.lock
	$(IMAGE_LOCK) docker/tensorflow-gpu.in -o docker/tensorflow-gpu.lock
	$(IMAGE_LOCK) docker/tensorflow-gpu.in docker/train.in -o docker/train-gpu.lock

docs: $(READY)  ## writes the generated tables of the READMEs and docs/
	$(RUN) python -m faceflow.pipelines.docs

clean:  ## removes the environment, builds and caches of tools (runs and their caches: faceflow clean)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
