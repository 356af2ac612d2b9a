# Seawall. `make up` does the main job: it serves real images from plain nginx on this machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# The inventory that `make up` and `make check` work on.
INVENTORY ?= inventory/local
# The Python that the virtual environment is made of: 3.11 or later.
PYTHON ?= python3
VENV := .venv

# Ansible wants a locale in UTF-8, and a bare machine has none set.
export LC_ALL := C.UTF-8

# root needs no sudo, nor need it be there; anybody else is asked for a password where sudo wants one.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
BECOME = $(if $(AS_ROOT),$(shell sudo -n true 2>/dev/null || echo --ask-become-pass))
PLAYBOOK = $(VENV)/bin/ansible-playbook -i $(INVENTORY)

.PHONY: help
help: ## say what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# --- what a person wants ---------------------------------------------------------------------------------------------

.PHONY: up
up: $(VENV)/installed ## serve the images of INVENTORY (inventory/local), prove it, and say what is served
	@rm -f $(VENV)/up.log
	@ANSIBLE_LOG_PATH=$(VENV)/up.log $(PLAYBOOK) site.yml $(BECOME)
	@if grep -Eq ' changed=[1-9]' $(VENV)/up.log; then \
	    echo "Seawall is up. It serves:"; \
	else \
	    echo "Seawall is up; nothing had to be changed. It serves:"; \
	fi
	@grep -Eo 'docker pull [^ ]+' $(VENV)/up.log | sort -u | sed 's/^/  /' || echo "  no image yet"

.PHONY: check
check: $(VENV)/installed ## say what `make up` would change, and change nothing
	@$(PLAYBOOK) site.yml --check --diff $(BECOME)

.PHONY: verify
verify: $(VENV)/installed ## prove once more what is served
	@$(PLAYBOOK) playbooks/verify.yml $(BECOME)

# A lab to keep and to play with: in the Docker engine that answers, else in the tests' sandbox (as root).
LAB = PYTHONPATH=tests $(VENV)/bin/python -m lab

.PHONY: lab
lab: $(VENV)/installed ## start hosts in containers, and roll inventory/lab out to them: docs/lab.md
	@$(LAB) up

.PHONY: lab-status
lab-status: $(VENV)/installed ## say which hosts the lab has
	@$(LAB) status

.PHONY: lab-shell
lab-shell: $(VENV)/installed ## a shell where the lab's hosts can be reached, or on one of them (HOST=origin1)
	@$(LAB) shell $(HOST)

.PHONY: lab-down
lab-down: $(VENV)/installed ## remove the lab, and nothing else
	@$(LAB) down

# --- the controller's packages ---------------------------------------------------------------------------------------

# Debian's Python comes without what makes virtual environments; that is installed where it is missing.
$(VENV)/installed: requirements.txt
	@echo "Making the virtual environment in $(VENV), half a minute the first time"
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    $(AS_ROOT) apt-get -o DPkg::Lock::Timeout=300 -qq update; \
	    $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive \
	        apt-get -o DPkg::Lock::Timeout=300 -qq install --yes --no-install-recommends python3-venv >/dev/null; \
	fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Seawall wants Python 3.11 or later")'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

# Pins anew what the requirements.in files ask for. The tool's own packages come first: the controller's follow them.
.PHONY: requirements
requirements: ## pin the Python packages anew (wants uv)
	@for list in tools/requirements requirements; do \
	    uv --no-config pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make requirements' \
	        "$$list.in" --output-file "$$list.txt"; \
	done

.PHONY: schema
schema: $(VENV)/installed ## write the JSON Schema of the images file anew
	@PYTHONPATH=tools $(VENV)/bin/python -m seawall.schema >$(VENV)/images.schema.json
	@mv $(VENV)/images.schema.json tools/seawall/images.schema.json

# --- tests -----------------------------------------------------------------------------------------------------------
# Each layer can be run alone; docs/tests.md says what is in it.

PYTEST = $(VENV)/bin/python -m pytest -q
SANDBOX = $(AS_ROOT) tests/lab/sandbox

.PHONY: test
test: lint test-unit test-hosts ## run all tests, and install what they need

.PHONY: lint
lint: $(VENV)/installed-tests ## look at the code without running it
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-ansible lint-python

.PHONY: lint-python
lint-python:
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

.PHONY: lint-ansible
lint-ansible:
	$(VENV)/bin/yamllint --strict .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/ansible-lint

# One test more at a time than there are cores: some wait for what does not come.
.PHONY: test-unit
test-unit: $(VENV)/installed-tests ## test the tool, and the project's own rules
	$(PYTEST) --numprocesses $$(($$(nproc) + 1)) --dist worksteal tests/unit

# --- what needs hosts: each group in a sandbox of its own, two of them at a time, because a play keeps hardly more than
# one core busy. The longest come first. Each prints what it found when it is through.

# What stands around origins: balancers, edges, endpoints, stores, machines that pull, and a bare one that makes itself
# an origin.
E2E_AROUND := $(foreach name,balancer bare client edge endpoint matrix stores,tests/e2e/test_$(name).py)
ROLLING := tests/e2e/test_rolling.py
E2E := test-e2e-origins test-e2e-around
LAB_TESTS := test-lab-sites test-lab-rolling test-lab-itself
SIDE_BY_SIDE = +$(MAKE) --no-print-directory --jobs=2 --output-sync=target

.PHONY: test-hosts
test-hosts: $(VENV)/installed-tests
	$(AS_ROOT) tests/lab/install
	$(SIDE_BY_SIDE) $(E2E) $(LAB_TESTS)

.PHONY: test-e2e
test-e2e: $(VENV)/installed-tests ## test real hosts, nginx, registries and clients (as root)
	$(AS_ROOT) tests/lab/install
	$(SIDE_BY_SIDE) $(E2E)

.PHONY: test-lab
test-lab: $(VENV)/installed-tests ## test rollouts to sites of several hosts, and the laboratory itself (as root)
	$(AS_ROOT) tests/lab/install
	$(SIDE_BY_SIDE) $(LAB_TESTS)

.PHONY: test-e2e-around
test-e2e-around:
	$(SANDBOX) $(PYTEST) --durations=10 $(E2E_AROUND)

.PHONY: test-e2e-origins
test-e2e-origins:
	$(SANDBOX) $(PYTEST) --durations=10 tests/e2e $(addprefix --ignore=,$(E2E_AROUND) $(ROLLING))

.PHONY: test-lab-sites
test-lab-sites:
	$(SANDBOX) $(PYTEST) --durations=10 tests/sites

.PHONY: test-lab-rolling
test-lab-rolling:
	$(SANDBOX) $(PYTEST) --durations=10 $(ROLLING)

.PHONY: test-lab-itself
test-lab-itself:
	$(SANDBOX) $(PYTEST) --durations=10 tests/lab

$(VENV)/installed-tests: tests/requirements.txt $(VENV)/installed
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

.PHONY: clean
clean: ## remove what the tests and the virtual environment left in this folder
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .ansible
