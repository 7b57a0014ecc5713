# Everything a user or a contributor does begins here: `make help`.

SHELL := /bin/bash

# Source trees of NGINX Unit and FreeUnit, configured and built. A tree that
# is not there is left out of tests; `make install` needs UNIT_SRC.
UNIT_SRC ?= /usr/src/unit
FREEUNIT_SRC ?= /usr/src/freeunit

# dev builds fast; release is for use. `make install` always takes release.
PROFILE ?= dev
PROFILE_DIR := $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
OUT := build
MODULE := wasmtime.unit.so

# Where `make run` serves.
LISTEN ?= 127.0.0.1:8080

CARGO ?= cargo
E2E_FILTER ?=

# How often each hostile guest runs, and seconds for each fuzz target.
HOSTILE_ROUNDS ?= 1000
FUZZ_TIME ?= 60

# `make bench`: unit, freeunit or standin; seconds of a run and runs of each
# peer; parts of the names of rows. docs/performance.md has the rest.
BENCH_HOST ?= $(if $(wildcard $(UNIT_SRC)/build/src/nxt_unit.o),unit,standin)
BENCH_PROFILE ?= release
BENCH_SECONDS ?= 2
BENCH_ROUNDS ?= 5
BENCH_ROWS ?=

.PHONY: help setup build standin unit freeunit type-wasm run check lint test unittest e2e hostile fuzz bench bench-unit bench-freeunit bench-standin guests examples cli dist install

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what the build needs, or say what to install
	@tools/setup

# The package is a cdylib and, for tests, an rlib; Cargo leaves out link-time
# optimisation, silently, if it is to build both.
BUILD_LIB := $(if $(filter dev,$(PROFILE)),build,rustc)
ONLY_CDYLIB := $(if $(filter dev,$(PROFILE)),,--crate-type cdylib)

# The module for one host: $(1) name, $(2) UNIT_SRC, $(3) cargo arguments.
define module
	mkdir -p $(OUT)/$(1)/modules
	UNIT_SRC=$(2) $(CARGO) $(BUILD_LIB) --locked --profile $(PROFILE) --package nxt_wasmtime --lib $(3) $(ONLY_CDYLIB)
	install -m 755 $(TARGET)/$(PROFILE_DIR)/libnxt_wasmtime.so $(OUT)/$(1)/modules/$(MODULE)
endef

standin: setup ## Build the module for the stand-in, and the stand-in
	$(call module,standin,,)
	UNIT_SRC= $(CARGO) build --locked --profile $(PROFILE) --package nxt-standin
	install -m 755 $(TARGET)/$(PROFILE_DIR)/nxt-standin $(OUT)/standin/nxt-standin

unit: setup ## Build the module for the Unit tree in UNIT_SRC
	$(call module,unit,$(UNIT_SRC),)

freeunit: setup ## Build the module for the FreeUnit tree in FREEUNIT_SRC
	$(call module,freeunit,$(FREEUNIT_SRC),)

# The same for type `wasm`.
type-wasm: setup
	$(call module,standin-wasm,,--features type-wasm)
	$(if $(wildcard $(UNIT_SRC)/build/src/nxt_unit.o),$(call module,unit-wasm,$(UNIT_SRC),--features type-wasm))
	$(if $(wildcard $(FREEUNIT_SRC)/build/src/nxt_unit.o),$(call module,freeunit-wasm,$(FREEUNIT_SRC),--features type-wasm))

build: standin ## Build for the stand-in, and for the Unit trees that are there
	@if [ -e $(UNIT_SRC)/build/src/nxt_unit.o ]; then $(MAKE) --no-print-directory unit; \
	else echo "No built Unit tree at UNIT_SRC=$(UNIT_SRC): left out."; fi
	@if [ -e $(FREEUNIT_SRC)/build/src/nxt_unit.o ]; then $(MAKE) --no-print-directory freeunit; \
	else echo "No built FreeUnit tree at FREEUNIT_SRC=$(FREEUNIT_SRC): left out."; fi

cli: setup ## Build the tool nxt-wasm
	UNIT_SRC= $(CARGO) build --locked --profile $(PROFILE) --package nxt-wasm
	install -D -m 755 $(TARGET)/$(PROFILE_DIR)/nxt-wasm $(OUT)/nxt-wasm

run: standin ## Serve the example through the stand-in
	@tools/run-example $(OUT)/standin $(LISTEN)

lint: setup ## Check format and lints
	$(CARGO) fmt --all --check
	UNIT_SRC= $(CARGO) clippy --locked --workspace --all-targets -- -D warnings

check: lint ## Lints, committed components and the rules of the repository
	tools/check-guests

unittest: setup ## Unit tests and tests of the runtime
	UNIT_SRC= $(CARGO) test --locked --workspace --exclude nxt-e2e --exclude componentize
	UNIT_SRC= $(CARGO) test --locked --package componentize

test: unittest e2e ## All tests

e2e: build type-wasm cli ## End-to-end tests on every host there is
	tools/e2e $(OUT) $(E2E_FILTER)

hostile: build ## Hostile guests, HOSTILE_ROUNDS times each (1000), on every host
	E2E_HOSTILE_ROUNDS=$(HOSTILE_ROUNDS) tools/e2e $(OUT) ::hostile::

fuzz: ## Run each fuzz target for FUZZ_TIME seconds (needs nightly and cargo-fuzz)
	tools/fuzz $(FUZZ_TIME)

# Apart from the modules that tests use.
bench-unit: setup
	$(call module,bench-unit,$(UNIT_SRC),)

bench-freeunit: setup
	$(call module,bench-freeunit,$(FREEUNIT_SRC),)

bench-standin: setup
	$(call module,bench-standin,,)
	UNIT_SRC= $(CARGO) build --locked --profile $(PROFILE) --package nxt-standin
	install -m 755 $(TARGET)/$(PROFILE_DIR)/nxt-standin $(OUT)/bench-standin/nxt-standin

bench: ## Measure against native C and other PEERs, BENCH_ROUNDS x BENCH_SECONDS
	$(MAKE) --no-print-directory bench-$(BENCH_HOST) PROFILE=$(BENCH_PROFILE)
	UNIT_SRC= $(CARGO) build --locked --package nxt-bench
	UNIT_SRC=$(UNIT_SRC) FREEUNIT_SRC=$(FREEUNIT_SRC) \
	BENCH_HOST=$(BENCH_HOST) BENCH_OUT=$(OUT)/bench-$(BENCH_HOST) \
	BENCH_SECONDS=$(BENCH_SECONDS) BENCH_ROUNDS=$(BENCH_ROUNDS) BENCH_ROWS="$(BENCH_ROWS)" \
	$(TARGET)/debug/nxt-bench

guests: ## Build all guests of examples and tests: needs root, Python, Node 20
	tools/build-guests
	tools/build-c-guest
	tools/build-python-guest
	tools/build-js-guest
	tools/build-go-guest

examples: ## Build the examples that have changed, as far as this machine can
	tools/build-examples

# FREEUNIT_SRC=... is a tree like any other: UNIT_SRC=$(FREEUNIT_SRC) packs for it.
dist: PROFILE := $(if $(filter-out file,$(origin PROFILE)),$(PROFILE),release)
dist: ## Pack module, nxt-wasm and docs for UNIT_SRC into build/dist
	@[ -e $(UNIT_SRC)/build/src/nxt_unit.o ] || { echo "No built Unit tree at UNIT_SRC=$(UNIT_SRC)."; exit 1; }
	$(MAKE) --no-print-directory cli unit PROFILE=$(PROFILE)
	tools/dist $(OUT)/unit/modules/$(MODULE) $(OUT)/nxt-wasm $(UNIT_SRC) $(OUT)/dist
	tools/check-dist $(OUT)/dist

install: ## Build for UNIT_SRC and install into its modules directory
	$(MAKE) --no-print-directory unit PROFILE=release
	tools/install-module $(OUT)/unit/modules/$(MODULE) $(UNIT_SRC) $(MODULESDIR)
