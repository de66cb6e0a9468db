# A fresh machine needs make and a Python of 3.11 or newer; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last: a .venv without it was left half-made, and one older than the lock is out of date.
INSTALLED := $(VENV)/.installed
# Written when the tests are compiled. Otherwise each process of a run would compile all of them.
COMPILED := $(VENV)/.compiled
# The programs that check deploy/ and write the SBOM.
TOOLS := .venv-deploy
TOOLS_INSTALLED := $(TOOLS)/.installed
# The tests in a browser.
BROWSER := .venv-browser
BROWSER_INSTALLED := $(BROWSER)/.installed
# A part of the tests, as in: make test ARGS='tests/inbox/test_inbox.py -x'
ARGS ?=
# How many tests run side by side when all are run: those of processes mostly wait.
TESTS_AT_ONCE ?= 5
# For `make test-fast`: without a server to use, each process of the run would start one.
NO_POSTGRESQL := $(if $(TEST_DATABASE_URL),, and not postgresql)
# For `make handler`: an event type, and UNTYPED=1 for one that is newer than the installed SDK.
TYPE ?=
UNTYPED ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
# For `make image`: docker, podman or buildah, and further options of its `build`.
BUILDER ?= docker
BUILD_OPTIONS ?=
# For `make image`: the extra of pyproject.toml that the image gets, or none.
EXTRA ?=
# For `make sbom`: the file that it writes.
SBOM ?= sbom.json
# For `make lock`. Empty: keep the locked versions, and lock only what is new.
UPGRADE ?= --upgrade

# Without bytecode, each process of a test run compiles the tests again, which takes 3 s of its CPU.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help install run dev handler demo test test-fast test-browser test-deploy test-pooler newer check format bench image sbom lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## Set up .venv with the locked versions

run: $(INSTALLED) .env ## Serve on http://localhost:4242 (PORT), with the settings in .env
	@exec $(BIN)/python -m gunicorn

dev: $(INSTALLED) .env ## Serve with a stand-in for Stripe's API, and restart after each change in handlers/
	@exec $(BIN)/python -m devkit.dev

handler: $(INSTALLED) .env ## Write a handler module and its test (TYPE=v1.customer.created)
	@test -n '$(TYPE)' || { echo 'Give an event type: make handler TYPE=v1.customer.created' >&2; exit 1; }
	@exec $(BIN)/flask handlers new '$(TYPE)' $(if $(UNTYPED),--untyped)

demo: $(INSTALLED) ## Start a service, deliver signed events to it, and show the results
	@exec $(BIN)/python -m devkit.demo

test: $(INSTALLED) $(if $(strip $(ARGS)),,$(COMPILED)) ## Run all tests; fails when one fails or a branch is missed (ARGS='...' runs a part)
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest --numprocesses $(TESTS_AT_ONCE) --dist worksteal
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report
else
	$(BIN)/python -m pytest $(ARGS)
endif

newer: $(INSTALLED) ## Run the server's tests on newer versions of gunicorn, if there are any
	$(BIN)/python tools/newer_gunicorn.py

test-fast: $(INSTALLED) $(COMPILED) ## Run the tests that start neither Python nor PostgreSQL (TEST_DATABASE_URL: with PostgreSQL)
	$(BIN)/python -m pytest --ignore tests/processes -m 'not processes$(NO_POSTGRESQL)' --numprocesses $(TESTS_AT_ONCE) --dist worksteal

test-pooler: $(INSTALLED) ## Run the tests behind PgBouncer (on Debian, as root)
	@tools/debian_packages.sh pgbouncer
	$(BIN)/python -m pytest tests/pooler

test-browser: $(INSTALLED) $(BROWSER_INSTALLED) ## Test the operations page in Chromium (on Debian, as root)
	@tools/debian_packages.sh chromium
	$(BROWSER)/bin/python -m pytest tests/browser $(ARGS)

test-deploy: $(INSTALLED) $(TOOLS_INSTALLED) ## Build the image and the example, run them, and check deploy/ (on Debian, as root)
	@tools/debian_packages.sh buildah mmdebstrap nginx openssl prometheus systemd
	$(BIN)/python -m pytest tests/deploy

check: $(INSTALLED) ## Lint, check the format and the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy

format: $(INSTALLED) ## Format the code, and mend what the linter can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: $(INSTALLED) ## Measure the service beside the snippet of Stripe's documentation
	@exec $(BIN)/python -m benchmarks

image: ## Build the image stripe-event-receiver:VERSION (BUILDER=podman, EXTRA=otel)
	$(BUILDER) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse --short=12 HEAD) $(EXTRA:%=--build-arg REQUIREMENTS=requirements-%.lock) --tag stripe-event-receiver:$(VERSION)$(EXTRA:%=-%) $(BUILD_OPTIONS) .

sbom: $(TOOLS_INSTALLED) ## Write sbom.json: the Python packages of the image, in CycloneDX's format
	$(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file $(SBOM) requirements.lock

lock: $(INSTALLED) ## Lock the newest versions that pyproject.toml allows (UPGRADE= keeps the locked ones)
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) pyproject.toml --extra otel --constraints requirements.lock --output-file requirements-otel.lock
	$(LOCK) pyproject.toml --extra otel --group dev --constraints requirements-otel.lock --output-file requirements-dev.lock
	$(LOCK) --group deploy --output-file requirements-deploy.lock
	$(LOCK) pyproject.toml --extra otel --group browser --constraints requirements-dev.lock --output-file requirements-browser.lock

clean: ## Remove .venv and what tools left behind; .env and var/ stay
	rm -rf $(VENV) $(TOOLS) $(BROWSER) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# Neither the machine's settings nor its addresses go into a lock: only names, versions and hashes.
LOCK = $(BIN)/uv --no-config pip compile --quiet $(UPGRADE) --universal \
	--python-version 3.11 --only-binary :all: --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

$(INSTALLED): requirements-dev.lock
	@command -v '$(PYTHON)' >/dev/null || { \
		echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=python3.13" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "'$(PYTHON)' is no Python 3.11 or newer ($$('$(PYTHON)' --version 2>&1 | head -n 1)). Name one: make PYTHON=python3.13" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' has no venv with pip. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo 'Setting up $(VENV) from requirements-dev.lock (once, and after each change of the lock) ...'
	@rm -rf $(VENV)
	@'$(PYTHON)' -m venv $(VENV)
	@$(BIN)/python -m pip install $$(test -t 1 || echo --quiet) --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement requirements-dev.lock
	@$(BIN)/python tools/skip_flask_dotenv.py
	@touch $@

# The run of the tests shows their errors.
$(COMPILED): $(INSTALLED)
	@echo 'Compiling the tests (once) ...'
	@$(BIN)/python -m pytest --collect-only --quiet >/dev/null || true
	@touch $@

$(TOOLS_INSTALLED): requirements-deploy.lock | $(INSTALLED)
	@echo 'Setting up $(TOOLS) from requirements-deploy.lock (once, and after each change of the lock) ...'
	@rm -rf $(TOOLS)
	@$(BIN)/python -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement requirements-deploy.lock
	@touch $@

$(BROWSER_INSTALLED): requirements-browser.lock | $(INSTALLED)
	@echo 'Setting up $(BROWSER) from requirements-browser.lock (once, and after each change of the lock) ...'
	@rm -rf $(BROWSER)
	@$(BIN)/python -m venv $(BROWSER)
	@$(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: --requirement requirements-browser.lock
	@touch $@

.env: | $(INSTALLED)
	@$(BIN)/python tools/make_env.py
