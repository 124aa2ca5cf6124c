# make demo [CONCEPT="santa claus"]   forgets a concept of the miniature in a real ComfyUI; pictures in out/demo
# make demo MODEL=flux                the same on the miniature FLUX, in scenes of two things
# make test                           formatting, types, unit tests, tests through a real server and, where there is Chromium, a real browser
# make device                         trainings on a pretended accelerator and on one that holds a part of the model (g++ and ninja); make test has the first
# make browser                        the page in a real browser; needs Chromium
# make js-types                       the page's scripts against the front end's types; needs npm
# make slow                           every node on random full-size SD 1.5, 2.1 and XL and in every state of a pretended device, further cases of other tests, ConceptBench on Ray; long, up to 20 GB memory, 7 GB disk
# FMN_COMFYUI=path                    use that ComfyUI instead of the one that setup unpacks
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CONCEPT ?= zebra
MODEL ?= unet
# Tests run in so many processes of one thread each, a server in each.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -c tests/pytest.ini -n $(JOBS) --dist loadfile

.PHONY: setup demo test lint unit device server browser js-types slow bench clean

setup: $(VENV)/.installed
	@$(PY) -m tools.comfy_host

$(VENV)/.installed: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r tests/requirements.txt
	touch $@

demo: setup
	$(PY) -m tools.demo --model $(MODEL) --concept "$(CONCEPT)"

# In one run, so that the two processes share out all of them and start a server only once; those with long files first, so that
# no process is left with one at the end.
test: lint
	$(PYTEST) -rs tests/device tests/server tests/browser tests/inprocess tests/unit

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright
	$(PY) -m tools.lint_imports

unit: setup
	$(PYTEST) tests/unit tests/inprocess

device: setup
	$(PYTEST) -rs -m "slow or not slow" --ignore tests/device/test_all_configurations.py tests/device

server: setup
	$(PYTEST) tests/server

browser: setup
	$(PYTEST) -rs tests/browser

# Laid out as the server serves them, so that their imports of the front end's own scripts are found.
js-types:
	rm -rf out/js_types/extensions
	mkdir -p out/js_types/extensions/forget-me-not
	cp -r tests/js_types/. out/js_types/
	cp js/*.js out/js_types/extensions/forget-me-not/
	cd out/js_types && npm install --silent --no-audit --no-fund && npx tsc -p .

slow: setup
	$(PY) -m pip install --quiet --disable-pip-version-check ray==2.60.0
	$(PY) -m pytest -c tests/pytest.ini -m "slow or not slow" tests/slow tests/device
	$(PY) -m pytest -c tests/pytest.ini -m slow tests/inprocess tests/server

bench: setup
	$(PY) -m bench.forget

clean:
	rm -rf $(VENV) .comfyui out
