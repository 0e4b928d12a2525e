# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Everything that is done with this checkout, one target each. A fresh Debian 12 needs nothing prepared:
# what is missing is installed by the first target that is made. `make` alone lists the targets.

# The cheap ones first, so that a mistake is known early.
TESTS := lint unit static lab integration faults molecule

SYSTEM_PACKAGES := \
    acl attr btrfs-progs chromium chromium-driver debootstrap dpkg-dev e2fsprogs gcc git iproute2 libvirt-dev mount \
    libvirt-clients libvirt-daemon-driver-qemu libvirt-daemon-system openssh-client ovmf pkg-config \
    python3-dev qemu-system-x86 qemu-utils \
    python3-apt python3-libvirt python3-lxml python3-venv shellcheck sudo xfsprogs xorriso

# What only `make hosts` needs.
HOSTS_PACKAGES := dpkg-dev e2fsprogs mmdebstrap openssh-client qemu-system-x86 qemu-utils

# Debian's own Python, because Debian's libvirt bindings are built for it.
PYTHON := /usr/bin/python3
PYTEST := .venv/bin/python -m pytest
# Each process has a hypervisor of its own; tests that share what is dear stay in one (tests/conftest.py). One process more
# than there are cores, as they wait for guests and disks now and then.
SHARED_OUT := --numprocesses $(shell expr `nproc` + 1) --dist loadgroup
PIP_OPTIONS := --quiet --quiet --disable-pip-version-check

# It writes a log into the home directory: not into the user's.
ANTSIBULL_DOCS := mkdir -p .cache/home && HOME="$(CURDIR)/.cache/home" antsibull-docs

# The hypervisor of the tests lives in namespaces of its own, which only root can make.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo env PATH="$$PATH" LC_ALL="$$LC_ALL" \
    PYTHONDONTWRITEBYTECODE= ANSIBLE_CONFIG="$$ANSIBLE_CONFIG" ANSIBLE_HOME="$$ANSIBLE_HOME")
SIDE_BY_SIDE := $(AS_ROOT) python tests/tools/side_by_side.py

# The same tools for everybody: the checkout's venv and Debian, no shims of version managers between them.
export PATH := $(CURDIR)/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL := C.UTF-8
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_HOME := $(CURDIR)/.cache/ansible
export PY_COLORS ?= 0
# Many processes import the same files: what one has compiled serves the others.
export PYTHONDONTWRITEBYTECODE :=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help system venv test $(TESTS) style types playbooks sanity docs build format test-matrix hosts bench figures pictures demo mutants clean

help: ## lists the targets
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

# --- what everything stands on ---------------------------------------------------------------------------------

system: ## installs the Debian packages that are missing (through sudo, unless root)
	@tests/tools/system_packages.sh $(SYSTEM_PACKAGES)

venv: .venv/installed ## makes .venv with the tools of tests/requirements.txt

.venv/installed: tests/requirements.txt tests/tools/kept_bytecode.py tests/tools/kept_payloads.py | system
	rm -rf .venv
	$(PYTHON) -m venv --system-site-packages .venv
	.venv/bin/python -m pip install $(PIP_OPTIONS) --requirement $<
	install --mode=644 tests/tools/kept_bytecode.py tests/tools/kept_payloads.py .venv/lib/python3.*/site-packages
	echo import kept_bytecode, kept_payloads > "$$(echo .venv/lib/python3.*/site-packages)/kept.pth"
	touch $@

.cache/venv-importer/installed: tests/requirements-importer.txt | system
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(PIP_OPTIONS) --no-compile --requirement $<
	touch $@

# --- tests, in the order in which `make test` runs them -----------------------------------------------------------

test: venv ## all tests below, the fast ones first; the first failure ends it
	@report=; \
	for part in $(TESTS); do \
	    SECONDS=0; printf '\n=== %s\n' $$part; \
	    $(MAKE) --no-print-directory $$part || { printf '\n=== %s FAILED after %s s\n' $$part $$SECONDS; exit 1; }; \
	    report+=$$(printf '\n%6s s  %s' $$SECONDS $$part); \
	done; \
	printf '\n=== all passed%s\n' "$$report"

lint: venv ## style, types and playbooks, side by side
	python tests/tools/side_by_side.py make style types playbooks

style: venv ## ruff, yamllint and shellcheck
	ruff format --check .
	ruff check .
	yamllint --strict .
	git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 shellcheck

types: venv ## mypy
	mypy

playbooks: venv ## ansible-lint
	ansible-lint --profile production --offline --strict

format: venv ## formats the Python files and mends what ruff can mend
	ruff check --fix --exit-zero --quiet .
	ruff format .

unit: venv ## decisions and parsers, without QEMU
	$(PYTEST) tests/unit --numprocesses auto

static: venv ## sanity, docs and build, side by side
	python tests/tools/side_by_side.py make sanity docs build

sanity: venv ## ansible-test's sanity tests, all of them
	python tests/tools/side_by_side.py sanity

docs: venv ## checks and builds the documentation (.cache/docs) and the changelog's fragments
	antsibull-changelog lint
	$(ANTSIBULL_DOCS) lint-collection-docs --plugin-docs --validate-collection-refs all \
	    --disallow-unknown-collection-refs .
	tests/tools/build_docs.sh

build: venv .cache/venv-importer/installed ## builds the collection's archive (.cache/build) and has Galaxy's importer check it
	tests/tools/build_collection.sh

lab: venv ## the lab itself: the private hypervisor and its guest
	$(AS_ROOT) $(PYTEST) tests/lab $(SHARED_OUT)

integration: venv ## modules against the real QEMU, libvirt and guests
	$(AS_ROOT) $(PYTEST) tests/integration tests/browser $(SHARED_OUT)
	$(SIDE_BY_SIDE) integration

faults: venv ## kills, full disks and concurrent runs at the worst moment
	$(AS_ROOT) $(PYTEST) tests/faults $(SHARED_OUT)

molecule: venv ## one scenario for each role
	$(SIDE_BY_SIDE) molecule

# --- not part of `make test` ----------------------------------------------------------------------------------------

test-matrix: venv ## every supported ansible-core that this machine has a Python for; three generations of QEMU and libvirt
	python tests/tools/core_matrix.py
	$(AS_ROOT) env PYTHONPATH="$(CURDIR)/tests" python -m lab.matrix bookworm trixie forky

# HOSTS and PLAYBOOKS choose among them, by names with commas between them; CUTS is how often each playbook loses the power,
# and SEED when. Only building a host needs root.
hosts: venv ## whole Debian hosts, emulated: playbooks over ssh, AppArmor, SELinux and power cuts (HOSTS= PLAYBOOKS= CUTS= SEED=)
	@tests/tools/system_packages.sh $(HOSTS_PACKAGES)
	env PYTHONPATH="$(CURDIR)/tests" nice python -m hosts $(if $(HOSTS),--hosts $(HOSTS)) \
	    $(if $(PLAYBOOKS),--playbooks $(PLAYBOOKS)) $(if $(CUTS),--cuts $(CUTS)) $(if $(SEED),--seed $(SEED))

bench: venv ## measures the modules beside the commands that they replace
	mkdir -p .cache
	$(AS_ROOT) env PYTHONPATH="$(CURDIR)/tests" python -m bench | tee .cache/bench.txt

figures: venv ## puts the table of the last `make bench` into the README
	PYTHONPATH="$(CURDIR)/tests" python -m bench.readme .cache/bench.txt

pictures: venv ## draws the pictures of the README from a run of the modules
	python tests/tools/pictures.py

demo: venv ## shows the collection at work: disks converted, attached, grown and backed up, clones of a machine, the report
	$(AS_ROOT) python tests/tools/demo.py

mutants: venv ## takes the guards out, one at a time, and names the test that notices
	$(AS_ROOT) python tests/tools/mutants.py

clean: ## removes what the other targets made in this checkout
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/output
