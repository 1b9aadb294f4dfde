# A fresh machine needs python3 (3.11 or newer), pip and make: everything else is set up here, inside this folder.
PYTHON ?= python3
UV = .tools/bin/uv --quiet --system-certs
READY = .venv/.ready
OLDEST = $(firstword $(patsubst %/initdb,%,$(wildcard $(foreach v,15 16 17 18,/usr/lib/postgresql/$(v)/bin/initdb))))

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' $(MAKEFILE_LIST)

demo: $(READY)  ## a simulated provider, a private PostgreSQL and the daemon (ARGS='--seconds 20' ends it by itself)
	.venv/bin/checkpointd demo $(ARGS)

test: $(READY)  ## the tests, on the embedded PostgreSQL (ARGS='-k word' chooses)
	.venv/bin/pytest $(ARGS)

test-oldest: $(READY)  ## the tests, on the oldest PostgreSQL of this machine, where Debian's packages are
	@if [ -n "$(OLDEST)" ]; then TEST_POSTGRES_BIN=$(OLDEST) .venv/bin/pytest $(ARGS); \
	else echo "skipped: no PostgreSQL 15 to 18 in /usr/lib/postgresql"; fi

test-external: $(READY)  ## the tests with programs of Debian's: the status page in Chromium
	.venv/bin/pytest -m external $(ARGS)

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

check: lint test test-oldest test-external wheel  ## lint, types, tests on two PostgreSQLs and in Chromium, and the built wheel run elsewhere

wheel: $(READY)
	sh tests/check_wheel.sh "$(UV)"

lock: .tools/bin/uv  ## resolve the dependencies anew into requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --all-extras --group dev --upgrade -o requirements.lock pyproject.toml

clean:  ## remove what was set up here
	rm -rf .tools .venv dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# As root pip warns that it is root; with --target there is nothing of the system's that it could break.
.tools/bin/uv:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools uv

$(READY): .tools/bin/uv pyproject.toml requirements.lock
	$(UV) venv --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --python .venv --compile-bytecode --require-hashes requirements.lock
	$(UV) pip install --python .venv --no-deps --no-build-isolation --editable .
	@touch $(READY)

.PHONY: help demo test test-oldest test-external lint check wheel lock clean
