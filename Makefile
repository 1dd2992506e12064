# `make book` and `make test` do all the set-up and the work. They need Python 3.11 to 3.13, git
# and make. `make help` lists the rest.

SHELL := /bin/sh
VENV  := .venv
BIN   := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := $(VENV)/.ready
MUTMUT := $(VENV)/mutmut
HTML  := _build/html
SITE  := $(HTML)/index.html
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

# One thread a process: small arrays run faster so, and sums round the same way everywhere.
export OPENBLAS_NUM_THREADS = 1
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export TF_NUM_INTRAOP_THREADS = 1
export TF_NUM_INTEROP_THREADS = 1
# TensorFlow's start-up messages would land in the notebooks' outputs.
export TF_CPP_MIN_LOG_LEVEL = 3
export CUDA_VISIBLE_DEVICES =
# Windows, too, reads and prints UTF-8.
export PYTHONUTF8 = 1

.DEFAULT_GOAL := help
.PHONY: help setup book site pdf test lint check notebooks serve lab lock mutate bench conformance studies test-portable linkcheck clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from requirements.lock (the other commands do this by themselves)

$(READY): requirements.lock pyproject.toml
	@python=$$(sh tools/find_python.sh $(PYTHON)) && \
	echo "Setting up $(VENV) with $$python: a few minutes, once." && \
	rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --compile \
	  --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $@

book: site  ## render the book
	@echo "The book is in $(SITE). Open it in a browser, or run 'make serve'."

site: $(READY)
	@$(BIN)/python tools/build_site.py

pdf: site  ## make a PDF of the whole book, with the system's Chromium
	@$(BIN)/python tools/make_pdf.py

test: $(READY) lint  ## lint, build the site with warnings as errors, run every test and notebook
	@$(BIN)/python tools/build_site.py --all
	@$(MAKE) --no-print-directory check

lint: $(READY)  ## ruff over code and notebooks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

# Outputs that are kept or compared hold no progress bar.
KEPT := BNUTILS_PROGRESS=0 $(BIN)/python

check: $(READY)  ## tests and notebooks, without building the site again
	@$(KEPT) -m pytest

notebooks: $(READY)  ## execute the notebooks in place, then compare a second run with the first
	@$(KEPT) tools/notebooks.py $(NOTEBOOKS)
	@$(KEPT) -m pytest notebooks tests/test_notebooks.py

test-portable: $(READY)  ## run the tests as other machines would, and write down what passed (ONLY=name one of them)
	@$(BIN)/python tools/build_site.py
	@$(KEPT) tools/portable.py $(ONLY)

serve: site  ## serve the book on this machine
	@echo "http://127.0.0.1:8000"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) 8000

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

lock: $(READY)  ## resolve pyproject.toml into requirements.lock; versions that fit stay (UPGRADE=1: the newest)
	@$(BIN)/python tools/lock.py $(if $(UPGRADE),--upgrade)

mutate: $(MUTMUT)/.ready  ## change the package in small ways, and ask whether a test notices (ONLY=norm one part, N=200 of its changes, SEED=2 which)
	@PYTHONPATH=$(MUTMUT) $(KEPT) -u tools/mutate.py $(if $(ONLY),--only $(ONLY)) $(if $(N),--sample $(N)) $(if $(SEED),--seed $(SEED))

# Beside the packages of .venv, which nothing else may change.
$(MUTMUT)/.ready: $(READY) tools/mutate.txt
	@rm -rf $(MUTMUT)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --require-hashes --target $(MUTMUT) --requirement tools/mutate.txt
	@touch $@

bench: site  ## measure how fast all is, side by side, and write the tables of book/speed.md (QUICK=1 a try that writes none)
	@$(KEPT) benchmarks/bench_norm.py $(if $(QUICK),--quick)
	@$(KEPT) benchmarks/bench_network.py $(if $(QUICK),--quick)
	@$(KEPT) benchmarks/bench_doctor.py $(if $(QUICK),--quick)
	@$(KEPT) benchmarks/bench_studies.py $(if $(QUICK),--quick)
	@$(KEPT) benchmarks/bench_site.py --table $(if $(QUICK),--quick)

conformance: $(READY)  ## compare norm with the libraries that are installed
	@$(BIN)/python tests/conformance.py

studies: $(READY)  ## compute the records that are missing or out of date (NAME=race one of them, SCHEDULER=tcp://... on a Dask cluster)
	@$(BIN)/python -m bnutils.studies $(NAME) $(if $(SCHEDULER),--scheduler $(SCHEDULER))

linkcheck: $(READY)  ## ask every outside link whether it still answers
	@$(BIN)/python tools/build_site.py --builder linkcheck

clean:  ## remove what was built; keep the environment
	rm -rf _build .pytest_cache .ruff_cache
