# Two commands matter: `make run` and `make test`. The rest is listed by `make help`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# CI installs the pinned versions: make test PIP_FLAGS="-c tests/constraints.txt"
PIP_FLAGS ?=
# nbval runs each lesson and compares the cells tagged nbval-check-output; loadscope keeps its cells on one worker.
NBVAL := --nbval-lax --nbval-current-env --dist loadscope -n 2

.PHONY: help run test test-all test-gpu test-browser site demo wheelhouse lab notebooks exercises bench style constraints licences address release clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | sort | expand -t 14

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable ".[lab,test]"
	@touch $@

run: $(VENV)/installed  ## execute every lesson on phantoms, quick profile, into runs/quick
	$(BIN)/busi run --out runs/quick

test: $(VENV)/installed  ## the tests that CI runs
	$(BIN)/python -m pytest $(NBVAL) -m "not slow and not gpu"

test-all: $(VENV)/installed  ## the slow tests as well
	$(BIN)/python -m pytest $(NBVAL) -m "not gpu and not browser"

test-gpu: $(VENV)/installed  ## the lessons at full profile on a GPU, with Keras on JAX (see benchmarks/README.md)
	KERAS_BACKEND=$${KERAS_BACKEND:-jax} $(BIN)/python -m pytest -m gpu tests/gpu

test-browser: $(VENV)/installed  ## JupyterLab and the demo's page in a headless Chromium (which must be on the PATH)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable ".[lab,test,demo,browser]"
	$(BIN)/python -m pytest -m browser tests/notebooks

site: $(VENV)/installed  ## build the website into build/site; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable ".[site]"
	$(BIN)/python docs/site/build.py

demo: $(VENV)/installed  ## serve lesson 13's page, on which visitors try a scan
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable ".[demo]"
	$(BIN)/busi demo

# Everything that a student's machine needs, for this kind of machine and this Python, to be carried on a stick.
wheelhouse: $(VENV)/installed  ## gather all wheels in build/wheelhouse, to install without network
	rm -rf build/wheelhouse
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --constraint tests/constraints.txt --wheel-dir build/wheelhouse ".[lab]"
	@echo "$$(ls build/wheelhouse | wc -l) wheels, $$(du -sh build/wheelhouse | cut -f1): see 'Without network' in docs/teaching.md"

lab: $(VENV)/installed  ## open JupyterLab on the lessons
	$(BIN)/jupyter lab notebooks

notebooks: $(VENV)/installed  ## refresh the stored outputs of the lessons: one clean quick run
	$(BIN)/busi refresh

exercises: $(VENV)/installed  ## write notebooks/exercises from notebooks/solutions
	$(BIN)/busi exercises

bench: $(VENV)/installed  ## measure (ONLY="start memory": only these), print one table, write benchmarks/results.json
	$(BIN)/python benchmarks/bench.py $(if $(ONLY),--only $(ONLY))

style: $(VENV)/installed  ## check the code's style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

constraints: $(VENV)/installed  ## write what is installed now into tests/constraints.txt
	(echo "# What CI installs; written by 'make constraints'. Users install the ranges of pyproject.toml."; \
	  $(BIN)/python -m pip freeze --exclude-editable) > tests/constraints.txt
	$(BIN)/python docs/licences.py

address: $(VENV)/installed  ## set the public address: make address URL=https://github.com/NAME/busi-notebooks
	$(BIN)/python .ci/address.py $(URL)

release: $(VENV)/installed  ## check all that a release needs; a placeholder address is refused
	$(BIN)/python .ci/release.py

licences: $(VENV)/installed  ## write docs/licences.md: what the pinned packages say of their licences
	$(BIN)/python docs/licences.py

clean:  ## remove what make made here (the user's cache stays)
	rm -rf $(VENV) runs build dist
