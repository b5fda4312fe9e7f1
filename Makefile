# nsgf_nb: everything runs in .venv, which any target that needs it creates. `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
FORMATTED := nbs tests bench tools setup.py
KATEX := tools/site/node_modules/.package-lock.json
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-gpu test-portable bench-toy2d bench-mnist bench-cells bench-gpu dist docs docs-check readme export format hooks clean lock

help:           ## this list
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

install: $(INSTALLED)  ## .venv with the package (editable) and all that its tests and docs need

$(INSTALLED): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## fit 8gaussians into ./demo (renewed at each run), pictures included
	rm -rf demo
	$(BIN)/nsgf fit 8gaussians --out demo --seed 0
	@echo "Look at demo/samples.png, demo/path.gif and demo/loss.png; more samples: $(BIN)/nsgf sample demo -n 1000"

test: $(INSTALLED)  ## gates, notebooks, tests, docs site; last line: N passed, M failed, K skipped
	$(BIN)/python tools/test_all.py

test-slow: $(INSTALLED)  ## what carries the flag slow: notebook cells and tests
	$(BIN)/python tools/test_all.py slow

test-gpu: $(INSTALLED)  ## the programs of the solver on a GPU, and what carries the flag cuda: notebook cells and tests
	$(BIN)/python -m pytest -q tests/test_triton.py
	$(BIN)/python tools/test_all.py cuda

test-portable: $(INSTALLED)  ## the suite under six settings of processor, threads and versions; goes on where it was stopped; AGAIN=1: from the start
	$(BIN)/python tools/test_portable.py $(if $(AGAIN),--again) $(SETTING)

bench-toy2d: $(INSTALLED)  ## the table of the plane: 90 minutes on two cores, goes on where it was stopped; QUICK=1: 10 minutes, no record
	OMP_NUM_THREADS=1 $(BIN)/python bench/toy2d.py $(if $(QUICK),--quick)

bench-mnist: $(INSTALLED)  ## NSGF++ beside flow matching and OT-CFM on digits, MNIST and FashionMNIST: twenty hours of one core, goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python bench/digits.py
	for part in trials finalists; do OMP_NUM_THREADS=1 $(BIN)/python bench/mnist.py --part $$part || exit 1; done
	for seed in 0 1 2 3 4 5 6; do OMP_NUM_THREADS=1 $(BIN)/python bench/mnist.py --part final --seed $$seed || exit 1; done
	for seed in 0 1 2 3 4; do OMP_NUM_THREADS=1 $(BIN)/python bench/mnist.py --part final --set fashionmnist --seed $$seed || exit 1; done
	for part in transport extras long "times --fits long" few; do OMP_NUM_THREADS=1 $(BIN)/python bench/mnist.py --part $$part || exit 1; done
	for seed in 1 2 3 4; do OMP_NUM_THREADS=1 $(BIN)/python bench/mnist.py --part times --set fashionmnist --seed $$seed || exit 1; done
	for seed in 5 6; do OMP_NUM_THREADS=1 $(BIN)/python bench/mnist.py --part times --seed $$seed || exit 1; done
	OMP_NUM_THREADS=1 $(BIN)/python bench/by_class.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/by_class.py --methods NSGF++ --fits long
	for part in more model ship; do OMP_NUM_THREADS=1 $(BIN)/python bench/shipped.py --part $$part || exit 1; done
	OMP_NUM_THREADS=1 $(BIN)/python bench/distil.py

bench-cells: $(INSTALLED)  ## distances on blood cells, five seeds: 15 minutes of one core; DATA=lineage.csv, or $$NSGF_DATA; goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python bench/cells.py $(if $(DATA),--data $(DATA))

bench-gpu: $(INSTALLED)  ## what a GPU does: agreement, pairs a second, training, then MNIST: a quarter of an hour
	$(BIN)/python -m pip install -q -e ".[gpu]"
	$(BIN)/python bench/gpu.py --minutes 7
	$(BIN)/python bench/gpu.py --part images --minutes 8

dist: $(INSTALLED)  ## sdist and wheel in dist/; the wheel, without extras, installed in a clean environment and used there
	$(BIN)/python tools/dist.py

docs: $(INSTALLED) $(KATEX)  ## the docs site in _site/, built offline
	$(BIN)/python tools/docs.py _site

docs-check: docs  ## the site as a reader's browser sees it (Chromium), and as pandoc reads the notebooks
	$(BIN)/python tools/check_site.py _site
	$(BIN)/python tools/parity.py _site

$(KATEX): tools/site/package-lock.json
	@command -v npm >/dev/null || { echo "npm is needed for KaTeX, which draws the formulas of the site: install Node.js"; exit 1; }
	cd tools/site && npm ci --ignore-scripts --no-audit --no-fund

readme: $(INSTALLED)  ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

export: $(INSTALLED)  ## notebooks cleaned; nsgf_nb/, README.md, the API index and the sidebar written from them
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/docstrings.py
	$(BIN)/python tools/api.py
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/sidebar.py
	@git diff --stat -- nsgf_nb README.md  # what it has changed

format: $(INSTALLED)  ## notebooks, tests, bench and tools in one form (ruff), and what ruff can mend mended
	$(BIN)/ruff check --fix-only $(FORMATTED)
	$(BIN)/ruff format $(FORMATTED)
	$(BIN)/ruff check $(FORMATTED) nsgf_nb

hooks: $(INSTALLED)  ## once per clone: git cleans, formats and checks what is committed, and merges notebooks cell by cell
	@if [ -d .git ]; then $(BIN)/nbdev_install_hooks && $(BIN)/pre-commit install; \
	else echo "no hooks: this folder is not a clone of its own (no folder .git)"; fi

lock: $(INSTALLED)  ## requirements-lock.txt: the versions in .venv
	{ sed -n '/^#/p' requirements-lock.txt; $(BIN)/python -m pip freeze --exclude-editable --exclude nsgf_nb; } > .lock.tmp && mv .lock.tmp requirements-lock.txt

clean:          ## remove what was built; .venv stays
	rm -rf _site _proc _docs _figs build dist demo *.egg-info .pytest_cache nbs/nbdev.yml
