# Everything runs in one virtual environment, made on first use and reused until pyproject or constraints change.
#   make demo    train on the handwritten digits, measure, write the page (about 20 seconds after installation)
#   make test    all tests but slow ones    make lint   style, types
#   make test-slow   campaigns of kills, long sweeps, real torchrun: each beside a faster test of the same law in `make test`
#   make mutants   change the source in one place at a time, and see whether the tests notice (ROOMS=records PER_ROOM=40)
#   make test-minimum   all tests with the oldest versions that pyproject allows, in an environment of its own (.venv-minimum)
#   make test-3.12   all tests with this version of Python, in an environment of its own (.venv-3.12); likewise test-3.13
#   make hooks   have git check style and types before each commit
#   make bench   time and memory beside simple rivals, into docs/records.json (ROWS="fc_1000 stream_128")
#   make release   wheel and source archive in dist/, then demo, examples and a smoke test in a clean environment away from here
#   make docs   the site in site/, in an environment of its own (.venv-docs)    make docs-pages   what is made from the code
#   make ledger   test the claims on folders of sweeps and write the ledger, its pages and figures (RUNS=runs AGAIN=runs/again)
#   make docs-check   a site without executed tutorials and pictures, which finds what `make docs` would warn of in a minute
#   make test-zoo   public networks of torchvision, timm and transformers, in an environment of their own (.venv-zoo)
#   make test-integrations   with Lightning, torchmetrics, transformers, peft, graphs, TensorBoard, wandb, trackio, in an environment of their own (.venv-integrations)
# Knobs: PYTHON=python3.12 VENV=.venv EXTRAS=dev INSTALLER=pip OUT=runs/demo

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
INSTALLER ?= uv
CONSTRAINTS ?= -c constraints.txt
ROOMS ?=
PER_ROOM ?= 40
ROWS ?=
RUNS ?=
AGAIN ?=
OUT ?= runs/demo
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRAS)
SITE := $(VENV)-site
# uv reads neither pip's configured find-links nor, in a bare environment, the system's certificates.
FIND_LINKS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
export UV_SYSTEM_CERTS = 1
export UV_NATIVE_TLS = 1
# Small matrices on few cores: one thread each is faster than two that wait for each other.
export OMP_NUM_THREADS ?= 1
# Dozens of processes import torch and the library: each would compile them where keeping compiled files is turned off.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo hooks test test-slow test-minimum test-3.12 test-3.13 mutants test-zoo test-integrations lint bench release docs docs-here docs-check docs-check-here docs-pages docs-networks ledger test-zoo-here test-integrations-here docs-networks-here clean

demo: $(STAMP)
	$(BIN)/ncollapse demo --out $(OUT)

# One process a core; a file's tests stay together, since they share what is costly to make.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

mutants: $(STAMP)
	$(BIN)/python tests/mutants.py $(ROOMS) --per-room $(PER_ROOM)

# Only uv can choose the oldest versions. Theirs call one another in ways that have been deprecated since.
test-minimum: export PYTEST_ADDOPTS = -W ignore::DeprecationWarning
test-minimum: export VENV = .venv-minimum
test-minimum: export CONSTRAINTS = --resolution lowest-direct
test-minimum:
	$(MAKE) --no-print-directory test

test-3.12 test-3.13: test-3.%:
	$(MAKE) --no-print-directory test VENV=.venv-3.$* PYTHON=$(if $(filter python3,$(PYTHON)),python3.$*,$(PYTHON))

# Apart from the others: torchvision's mere presence beside a torch of another build breaks libraries that look for it.
test-zoo docs-networks: export VENV = .venv-zoo
test-zoo docs-networks: export EXTRAS = dev,vision,text
test-zoo docs-networks:
	$(MAKE) --no-print-directory $@-here

test-zoo-here: $(STAMP)
	$(BIN)/python -m pytest tests/zoo
	$(BIN)/python examples/imagenet_head.py

docs-networks-here: $(STAMP)
	$(BIN)/python docs/write_networks.py

# Apart from the others: the tests of `make test` are to pass without them.
test-integrations: export VENV = .venv-integrations
test-integrations: export EXTRAS = integrations
test-integrations:
	$(MAKE) --no-print-directory $@-here

test-integrations-here: $(STAMP)
	$(BIN)/python -m pytest tests/integrations tests/test_tutorials.py src/ncollapse/integrations

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

hooks: $(STAMP)
	git config core.hooksPath .ci/hooks

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py $(if $(ROWS),--rows $(ROWS))

# The pages and pictures that are made from the code and kept in the checkout.
docs-pages: $(STAMP)
	$(BIN)/python docs/write_metrics.py
	$(BIN)/python docs/write_refusals.py
	$(BIN)/python docs/write_records.py
	$(BIN)/python docs/write_claims.py
	$(BIN)/python docs/write_reproduced.py
	$(BIN)/python docs/draw_discovery.py
	$(BIN)/python docs/draw_diagrams.py

# Each folder is a sweep or holds sweeps. What is not run again stays as it was.
ledger: $(STAMP)
	$(BIN)/python docs/write_claims.py $(RUNS) $(if $(AGAIN),--again $(AGAIN))

release:
	PYTHON=$(PYTHON) .ci/release

# The site, in site/. A warning is an error.
docs: export VENV = .venv-docs
docs: export EXTRAS = docs
docs:
	$(MAKE) --no-print-directory $@-here

docs-here: $(STAMP)
	$(BIN)/python -m sphinx -b html -W --keep-going -q -c docs . site
	@echo "Site: site/index.html"

docs-check: $(SITE)/.installed
	PYTHONPATH=$(SITE) $(BIN)/python -m sphinx -b html -t check -W --keep-going -q -c docs . build/docs-check

# In a folder of its own, which no other command sees: the tests are to pass without what builds the site.
$(SITE)/.installed: $(STAMP)
	mkdir -p $(SITE)
	$(BIN)/python -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	  print(*extras["site"], sep="\n")' > $(SITE)/requirements.txt
	@if [ "$(INSTALLER)" = uv ] && $(BIN)/python -m uv --version >/dev/null 2>&1; then \
	  $(BIN)/python -m uv pip install --quiet --python $(BIN)/python $(if $(FIND_LINKS),--find-links $(FIND_LINKS)) \
	    $(CONSTRAINTS) --target $(SITE) -r $(SITE)/requirements.txt; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) --target $(SITE) -r $(SITE)/requirements.txt; \
	fi
	touch $@

clean:
	rm -rf $(VENV) $(SITE) .venv-docs site jupyter_execute docs/made .venv-zoo .venv-integrations .venv-minimum .venv-3.12 .venv-3.13 build dist .pytest_cache .ruff_cache .mypy_cache

# Nothing is compiled here: of 12,000 files tests import 3,600, and the first start compiles those.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ "$(INSTALLER)" = uv ] && \
	    { $(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }; then \
	  echo "installing with uv"; \
	  $(BIN)/python -m uv pip install --quiet --python $(BIN)/python $(if $(FIND_LINKS),--find-links $(FIND_LINKS)) \
	    $(CONSTRAINTS) -e ".[$(EXTRAS)]"; \
	else \
	  echo "installing with pip"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e ".[$(EXTRAS)]"; \
	fi
	touch $@
