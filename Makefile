# make demo [CONCEPT="santa claus"]   forgets a concept of the miniature in a real ComfyUI; pictures in out/demo
# make test                           formatting, types, unit tests, tests through a real server
# make browser                        the workflows in the real front end; needs Chromium, installs playwright
# make slow                           every node on random full-size SD 1.5, 2.1 and XL; long, up to 20 GB memory, 7 GB disk
# FMN_COMFYUI=path                    use that ComfyUI instead of the one that setup unpacks
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CONCEPT ?= zebra

.PHONY: setup demo test lint unit server browser slow bench clean

setup: $(VENV)/.installed
	@$(PY) -m mini_sd.comfy_host

$(VENV)/.installed: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

demo: setup
	$(PY) -m bench.demo --concept "$(CONCEPT)"

test: lint unit server

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright

unit: setup
	$(PY) -m pytest -c tests/pytest.ini tests/unit tests/inprocess

server: setup
	$(PY) -m pytest -c tests/pytest.ini tests/server

browser: setup
	$(PY) -m pip install --quiet --disable-pip-version-check playwright
	$(PY) -m pytest -c tests/pytest.ini -rs tests/browser

slow: setup
	$(PY) -m pytest -c tests/pytest.ini -m slow tests/slow

bench: setup
	$(PY) -m bench.forget

clean:
	rm -rf $(VENV) .comfyui out
