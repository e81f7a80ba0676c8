# `make paper` and `make test` do all their own set-up: Python 3.11 to 3.13, make and git are enough. `make help` lists
# the rest. Everything is idempotent: what is up to date is left alone, what was interrupted is repaired or resumed.

PROFILE ?= quick
WORKERS ?= 2
JOBS ?= 2
ARGS ?=
TORCH ?=
PYTHON ?= python3.13 python3.12 python3.11 python3 python

BIN := .venv/bin
# Variables of another environment would lead Python and uv astray.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX

# Compiled once and kept in .venv: without, every process spends 10 s on it before it has imported torch.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help paper book test grids bench env lock lint clean
.DEFAULT_GOAL := help

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo "Variables: PROFILE=quick|laptop|..., JOBS=notebooks at a time, TORCH=cpu (small CPU builds of torch), PYTHON=/path/to/python3, ARGS='-k views' for tests"

paper: env ## compute the PROFILE here, print the claims, build the book
	@echo "==> 1/3 computing the profile '$(PROFILE)'; interrupt at will, the next run goes on from there"
	@$(BIN)/sslmem run --profile "$(PROFILE)" --jobs "$(JOBS)"
	@echo "==> 2/3 claims"
	@$(BIN)/sslmem claims --profile "$(PROFILE)"
	@echo "==> 3/3 the book of this run"
	@$(BIN)/sslmem book --profile "$(PROFILE)"

book: env ## render the book from the committed results; computes nothing; ARGS='--edition student' another edition
	@$(BIN)/sslmem book --committed $(ARGS)

test: env ## run the tests
	@echo "==> running the tests with $(WORKERS) workers of one thread each"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not grid" $(ARGS)

grids: env ## run the tests of whole grids: real workers, kernels and nodes that are killed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m grid $(ARGS)

bench: env ## measure speeds against the usual pipeline, under 10 minutes; ARGS='--only views' measures one line
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

lint: env ## check the style of code and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/nbstripout --verify notebooks/*.ipynb

lock: ## write requirements.lock anew after a change of pyproject.toml; ARGS=--upgrade takes newer versions
	@sh -eu -c "$$SETUP; base"
	@$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 pyproject.toml --all-extras \
		--custom-compile-command "make lock" -o requirements.lock $(ARGS)
	@echo "==> requirements.lock: $$(grep -c '^[a-z0-9._-]*==' requirements.lock) entries"

clean: ## remove built pages and runs (_build)
	rm -rf _build .pytest_cache .ruff_cache
	@echo "kept: .venv (environment), data/cache (datasets), data/store (trained encoders); remove them by hand if you mean to"

env:
	@sh -eu -c "$$SETUP; install"

# Creates .venv. The file .venv/.ready is written last and names this checkout and the torch builds; whatever does not
# match it (an interrupted set-up, a moved folder, a vanished interpreter) is made anew from uv's cache in seconds.
define SETUP
say() { echo "==> $$*"; }
fail() { echo "error: $$*" >&2; exit 1; }

pick() {
  found=; venvless=
  for candidate in $(PYTHON); do
    "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || continue
    if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; return; fi
    venvless=$$candidate
  done
  [ -z "$$venvless" ] || fail "$$venvless has no venv module; install it (Debian, Ubuntu: apt install python3-venv) and try again."
  fail "Python 3.11, 3.12 or 3.13 is needed, but none of these is one: $(PYTHON); install one or name it with PYTHON=/path/to/python3."
}

works() { "$(BIN)/python" -c '' 2>/dev/null; }

base() {
  if works && [ -x "$(BIN)/uv" ]; then return; fi
  pick
  [ ! -e .venv ] || say "removing a .venv that is incomplete or not usable here"
  rm -rf .venv
  say "creating .venv with $$("$$found" --version)"
  "$$found" -m venv .venv
  "$(BIN)/python" -m pip install --quiet --disable-pip-version-check uv
}

install() {
  [ -f requirements.lock ] || fail "requirements.lock is missing; restore it (git checkout requirements.lock) or run make lock."
  torch="$(TORCH)"
  [ -n "$$torch" ] || torch=$$(sed -n 's/^torch //p' .venv/.ready 2>/dev/null) || torch=
  ready="checkout $$(pwd -P)
torch $${torch:-locked}"
  if [ "$$(cat .venv/.ready 2>/dev/null)" != "$$ready" ] || ! works; then rm -f "$(BIN)/uv"
  elif [ ! requirements.lock -nt .venv/.ready ] && [ ! pyproject.toml -nt .venv/.ready ]; then return; fi
  rm -f .venv/.ready
  base
  say "installing the packages of requirements.lock into .venv (some GB the first time, seconds afterwards)"
  quiet=; [ -t 2 ] || quiet=--quiet # bars for people, silence for logs
  if [ "$${torch:-locked}" = locked ]; then
    "$(BIN)/uv" pip sync $$quiet --python "$(BIN)/python" --require-hashes requirements.lock
  else # builds from another index have other hashes than the lock; the versions stay those of the lock
    "$(BIN)/uv" pip install $$quiet --python "$(BIN)/python" --torch-backend "$$torch" --no-verify-hashes \
      --constraints requirements.lock --requirements pyproject.toml --all-extras
  fi
  "$(BIN)/uv" pip install --quiet --python "$(BIN)/python" --no-deps --no-build-isolation --editable .
  echo "$$ready" > .venv/.ready
  say ".venv is ready"
}
endef
export SETUP
