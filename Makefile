# The menu. Each target sets up what it needs in .venv; `make` alone lists them.
PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The index the selector on pytorch.org shows, to get another build of torch (CPU only, ROCm, ...).
TORCH_INDEX ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint format docs bench torture wheels clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## install everything into .venv

$(READY): pyproject.toml setup.py $(wildcard concepthash/runtime/kernel/*)
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet torch torchvision --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY) ## draw birds, train, evaluate, export, index, query: the main job end to end
	$(BIN)/chash demo

test: $(READY) ## run the tests
	$(BIN)/python -m pytest

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## renew the generated pages, and build the site into site
	$(BIN)/python docs/renew.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY) ## measure, and write benchmarks/results
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks

torture: $(READY) ## kill, fill, fuzz and overload it for half an hour, and report what broke
	$(BIN)/python -m benchmarks.torture

wheels: $(READY) ## cross-build Linux wheels for x86-64 and arm64 into dist
	$(BIN)/python -m pip install --quiet ziglang 'setuptools>=77'
	for arch in x86_64 aarch64; do \
		rm -rf build; \
		zig="$(CURDIR)/$(BIN)/python -m ziglang cc -target $$arch-linux-gnu.2.17 -g0"; \
		CC="$$zig" LDSHARED="$$zig -shared" _PYTHON_HOST_PLATFORM=manylinux2014-$$arch \
		$(BIN)/python -m pip wheel --quiet . --no-deps --no-build-isolation --wheel-dir dist || exit 1; \
	done

clean: ## remove what the targets made, except .venv
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo
