# Everything a stranger needs: `make tour` and `make test`. Each makes .venv first (scripts/bootstrap.py).
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SETUP := "$(PYTHON)" scripts/bootstrap.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help tour test check lint docs format pin clean venv-tour venv-dev

help:
	@echo "make tour    every engine on real input: tour/index.html   (creates .venv, installs everything)"
	@echo "make test    the test suite                           (creates .venv, installs everything)"
	@echo "make check   ruff, mypy --strict, import-linter, the tests and the documentation build"
	@echo "make lint | docs | format | clean"
	@echo "Options: PYTHON=/path/to/python3.11  ARGS='passed on to pytest or to elinvar tour'"

venv-tour:
	@$(SETUP) seismic audio vision video tensor

venv-dev:
	@$(SETUP) dev

tour: venv-tour
	@$(BIN)/python -m elinvar tour $(ARGS)

# passive: torch's threads do not spin on a core that another worker could use.
test: venv-dev
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: venv-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

docs: venv-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

check: lint test docs

format: venv-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# What was tested becomes what is pinned. A local version label (+cpu) names a build, not a version.
pin: venv-dev
	"$(PYTHON)" -m pip --python $(BIN)/python freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//' > constraints.part
	printf '%s\n' '# The tested set, exactly; `make pin` writes this file. Ranges are in pyproject.toml.' | cat - constraints.part > constraints.txt
	rm constraints.part

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist site tour
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
