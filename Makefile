# make demo: from bundled speech to a finished sweep; make demo-moshi: from bundled dialogues; make demo-moonshine: a recogniser.
# make test: format, lint, types and all fast tests. All install what they need into .venv. PYTHON chooses the interpreter; the pins are tested with 3.11.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: demo demo-moshi demo-moonshine test types test-fast test-slow install install-dev format docs clean

demo: .venv/installed .venv/installed-judges
	$(BIN)/python pretokenize.py --config configs/demo/pretokenize.yaml
	$(BIN)/python sweep.py --config configs/demo/train.yaml --sweep_config configs/demo/sweep.yaml \
		--output_dir exp/demo --study_name demo --n_trials 6 --n_gpus 2 --device cpu
	$(BIN)/python -m csm_ft.evaluate exp/demo --device cpu
	@echo "Open exp/demo/report.html and exp/demo/evaluation/index.html in a browser."

demo-moshi: .venv/installed
	$(BIN)/python pretokenize.py --config configs/demo/moshi_pretokenize.yaml
	$(BIN)/python sweep.py --config configs/demo/moshi_train.yaml --sweep_config configs/demo/moshi_sweep.yaml \
		--output_dir exp/demo-moshi --study_name demo-moshi --n_trials 4 --n_gpus 2 --device cpu
	@echo "Open exp/demo-moshi/report.html in a browser: left speaks Moshi, right the user."

demo-moonshine: .venv/installed
	$(BIN)/python pretokenize.py --config configs/demo/moonshine_pretokenize.yaml
	$(BIN)/python pretokenize.py --config configs/demo/moonshine_pretokenize_old.yaml
	$(BIN)/python sweep.py --config configs/demo/moonshine_train.yaml --sweep_config configs/demo/moonshine_sweep.yaml \
		--output_dir exp/demo-moonshine --study_name demo-moonshine --n_trials 6 --n_gpus 2 --device cpu
	@echo "Open exp/demo-moonshine/report.html in a browser."

test: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --jobs=2 types test-fast

types: .venv/installed-dev
	$(BIN)/pyright

test-fast: .venv/installed-dev
	$(BIN)/pytest -q -n 2 --dist loadfile

test-slow: .venv/installed-dev
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "slow or browser" --timeout 900

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# docs/options.md, after the options have changed; docs/performance.md, after a benchmark.
docs: .venv/installed
	$(BIN)/python scripts/make_option_tables.py
	$(BIN)/python scripts/make_performance_table.py

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-judges: requirements-judges.txt | .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-judges.txt
	touch $@

.venv/installed-dev: requirements-dev.txt requirements-cluster.txt requirements-onnx.txt requirements-storage.txt requirements-pitch.txt requirements-moshi.txt requirements-moonshine.txt .venv/installed .venv/installed-judges
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -r requirements-cluster.txt -r requirements-onnx.txt -r requirements-storage.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-pitch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-moshi.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-moonshine.txt || \
		echo "moonshine-voice has no wheel for this system: its tests are left out"
	touch $@

clean:
	rm -rf exp/demo exp/demo-moshi exp/demo-moonshine
