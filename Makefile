# make demo    mount a directory, convert a disk image into it and back, check every byte
# make test    linters, types, layering, all tests; ends with a table of what ran
# Both do all the set-up by themselves (scripts/setup.sh), as root or with sudo.

export PATH := $(CURDIR)/.venv/bin:$(PATH):/usr/sbin:/sbin

.PHONY: demo test test-long bench setup lint format lock clean

demo:
	scripts/setup.sh demo
	.venv/bin/python scripts/demo.py

# Three at once on two cores: most tests wait for a disk, a server or a clock.
PYTEST := .venv/bin/pytest -n 3 --dist loadfile

test: lint
	$(PYTEST)

test-long: lint
	$(PYTEST) --long

bench: setup
	.venv/bin/python -m bench $(ARGS)

setup:
	@scripts/setup.sh test

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pyright
	.venv/bin/lint-imports --no-logo

format: setup
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

# After a change of the dependencies in pyproject.toml; needs uv. Add UPGRADE=--upgrade for newer ones.
COMPILE := uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--python-version 3.11 $(UPGRADE)
lock:
	$(COMPILE) --group build -o requirements-build.lock
	$(COMPILE) pyproject.toml -c requirements-build.lock -o requirements.lock
	$(COMPILE) pyproject.toml --group dev -c requirements-build.lock -c requirements.lock -o requirements-dev.lock

clean:
	[ ! -d .cache/servers ] || scripts/servers/rgw-stop.sh --wipe
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
