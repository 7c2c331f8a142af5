# `make` prints the targets. V=1 shows the output of each stage. ONLY=name runs the tests whose names contain it.
# ENVOY_VERSION=1.40.0 uses another Envoy.
FILTERS := jwt-auth rate-limit trace-tags mesh-filters
CORES   := plugin-kit jwt-auth rate-limit trace-tags mesh-filters

include tools/versions
ENVOY_VERSION ?= $(ENVOY_DEFAULT)
export ENVOY_VERSION
export ENVOY_BIN     := $(CURDIR)/.tools/envoy/$(ENVOY_VERSION)/envoy
export PATH          := $(CURDIR)/.tools/bin:$(PATH)
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER := wasm-bindgen-test-runner
export V

STAGE := @tools/stage

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo filters bench bench-cores test test-unit test-manifests test-wasm test-mock test-envoy test-native test-native-arm64 test-examples native bursts test-services test-convert test-tools soak soak-faults differential fuzz miri mutants lint format check-reproducible release release-rehearsal test-chart tools clean

include tests/mesh/mesh.mk

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1 /p' $(filter-out tools/versions,$(MAKEFILE_LIST)) | \
		while read -r target text; do printf 'make %-20s %s\n' "$$target" "$$text"; done

demo: filters tools-envoy ## Sends real requests through real Envoys with the filters; KEEP=1 leaves them running
	$(STAGE) "demo" cargo build --locked --workspace --bin demo
	@target/debug/demo

filters: ## Builds target/filters/*.wasm
	$(STAGE) "filters" tools/build-filters $(FILTERS)

native: ## Builds the native module, target/filters/libmesh_filters.so; ARCH=arm64: the one for that architecture
	$(STAGE) "native module" tools/build-native $(ARCH)

test: test-unit test-manifests test-wasm filters test-tools test-mock test-envoy test-native test-examples ## Runs all tests

test-unit: ## Runs the native unit tests
	$(STAGE) "unit tests" tools/run-tests unit $(ONLY)

test-manifests: ## Renders every kustomization; the filters' parsers read every configuration there and in the documents
	$(STAGE) "kubectl" tools/install kubectl
	$(STAGE) "manifests" tools/run-tests manifests $(ONLY)

test-wasm: ## Tests the cores in wasm32, under Node
	$(STAGE) "wasm test runner" tools/install rust-targets wasm-bindgen-test
	$(STAGE) "wasm tests" cargo test --locked --target wasm32-unknown-unknown $(CORES:%=--package %) --test 'wasm*'

test-tools: filters ## Tests the post-link step, and what each module exports and imports
	$(STAGE) "module tests" node --test --test-reporter=tap tools/link-filter.test.mjs

test-mock: filters ## Tests the built modules in the mock host
	$(STAGE) "mock host tests" tools/run-tests mock $(ONLY)

test-envoy: filters tools-envoy ## Tests the built modules in a real Envoy
	$(STAGE) "envoy $(ENVOY_VERSION) tests" tools/run-tests envoy $(ONLY)

test-native: native tools-envoy ## Tests the native module in a real Envoy
	$(STAGE) "native module in envoy $(ENVOY_VERSION) tests" tools/run-tests native $(ONLY)

test-examples: filters tools-envoy ## Does what the pages of examples/ say, and compares the answers
	$(STAGE) "examples in envoy $(ENVOY_VERSION)" tools/run-tests examples $(ONLY)

test-native-arm64: ## Runs the cases with the native module for arm64 in an Envoy for arm64, under qemu
	$(STAGE) "native module for arm64" tools/build-native arm64
	$(STAGE) "envoy for arm64" tools/install envoy-arm64
	$(STAGE) "native module for arm64 in envoy $(ENVOY_VERSION)" env ENVOY_BIN=$(CURDIR)/.tools/envoy/$(ENVOY_VERSION)-arm64/envoy \
		NATIVE_MODULE=$(CURDIR)/target/filters/arm64/libmesh_filters.so tools/run-tests native .yaml

test-chart: ## Compares what the Helm chart renders with the kustomization of the filters (needs Go, which builds Helm)
	$(STAGE) "kubectl" tools/install kubectl
	$(STAGE) "helm" tests/release/install helm
	$(STAGE) "chart" tools/run-tests manifests --ignored

test-convert: filters tools-envoy ## Compares 20,000 decisions of Istio's own filters, as istiod translates now, with those of what convert makes; SEED= (needs Go)
	$(STAGE) "command line" cargo build --locked --workspace --bin mesh-filters
	$(STAGE) "istiod's translations" tests/convert/translate --check
	$(STAGE) "convert in envoy $(ENVOY_VERSION)" env CONVERT_REQUESTS=20000 CONVERT_SEED=$(SEED) tools/run-tests envoy old_and_new

bursts: filters native tools-envoy ## Tries every combination of what many requests wait for and how that ends; BURSTS=all: on real Envoy too
	$(STAGE) "bursts in the mock host" env BURSTS=all tools/run-tests mock bursts
	$(STAGE) "bursts in envoy $(ENVOY_VERSION)" env BURSTS="$(or $(BURSTS),pairs)" tools/run-tests envoy bursts
	$(STAGE) "bursts in envoy $(ENVOY_VERSION), native module" env BURSTS="$(or $(BURSTS),pairs)" tools/run-tests native bursts

test-services: filters tools-envoy ## Tests with a real rate limit service, Redis and a registry, which it installs (needs Go, and root once)
	$(STAGE) "services of others" tests/services/install
	$(STAGE) "services tests" tools/run-tests services $(ONLY)

MINUTES ?= 10

soak: filters native tools-envoy ## Runs a real Envoy under traffic and faults and judges every request; MINUTES=10, SEED=, FORM=joined|three|native
	$(STAGE) "soak" cargo build --locked --workspace --bin soak
	@MINUTES=$(MINUTES) SEED=$(SEED) FORM=$(FORM) RATE=$(RATE) BURST=$(BURST) target/debug/soak

soak-faults: filters native tools-envoy ## Checks that the soak finds each deliberate fault; FAULT=name for one, FORM=native
	$(STAGE) "soak" cargo build --locked --workspace --bin soak
	@FAULT=$(or $(FAULT),all) SEED=$(or $(SEED),1) FORM=$(FORM) target/debug/soak

differential: filters native tools-envoy ## Sends generated requests to all hosts and compares them; SEED=, CONFIGURATIONS=200, REQUESTS=500, FILE= of a difference
	$(STAGE) "differential" cargo build --locked --workspace --bin differential
	@SEED=$(SEED) CONFIGURATIONS=$(CONFIGURATIONS) REQUESTS=$(REQUESTS) HOSTS=$(HOSTS) FILE=$(FILE) target/debug/differential

.PHONY: memcheck-native
memcheck-native: native tools-envoy ## Runs the native module under memcheck, in a proxy that is none and in a real Envoy: about an hour
	@command -v valgrind >/dev/null || { echo "memcheck-native: valgrind is missing: apt install valgrind" >&2; exit 1; }
	$(STAGE) "native module under memcheck" tools/memcheck-native

bench: filters native tools-envoy ## Measures each filter beside Envoy's native ones, into docs/benchmarks.md; QUICK=1 takes three minutes
	@command -v valgrind >/dev/null || { echo "bench: valgrind is missing: apt install valgrind" >&2; exit 1; }
	$(STAGE) "empty SDK filter" cargo build --locked --release --target wasm32-wasip1 --package empty-sdk-filter
	@cargo run --quiet --locked --profile harness --package bench -- $(if $(QUICK),--quick) $(PARTS)

bench-cores: ## Measures the cores natively, without a proxy; ONLY=jwt runs some
	@cargo bench --quiet --locked --profile harness --package bench --bench cores -- $(ONLY)

# The files that decide. .cargo/mutants.toml names each change that no test notices and that changes no decision, with the
# reason.
OF      ?= jwt-auth
MUTANTS ?= $(MUTANTS_OF_$(OF))
MUTANTS_OF_jwt-auth := $(addprefix filters/jwt-auth/src/,decision.rs decision/*.rs fetch/*.rs keys/*.rs policy/*.rs token/*.rs) \
           $(addprefix filters/plugin-kit/src/,request/path.rs request/matcher.rs request/matcher/*.rs request/headers.rs request/exchange.rs wire/*.rs)
MUTANTS_OF_rate-limit := $(addprefix filters/rate-limit/src/,decision.rs decision/*.rs keys/*.rs limits/*.rs service/health.rs)
MUTANT_PACKAGES_OF_jwt-auth := jwt-auth plugin-kit
MUTANT_PACKAGES_OF_rate-limit := rate-limit
MUTANT_TESTS := --locked --lib
MUTANT_TESTS_OF_jwt-auth := --test decisions --test verdicts
FUZZ    ?= token jwks path config request
SECONDS ?= 600

fuzz: ## Fuzzes the parsers and whole requests, 10 minutes each; FUZZ=token SECONDS=60 for less
	$(STAGE) "cargo-fuzz" tools/install cargo-fuzz
	@for target in $(FUZZ); do tools/stage "fuzz $$target" tools/fuzz "$$target" $(SECONDS) || exit 1; done

# The one file of ours with unsafe code that runs without a host. It keeps freed blocks for later, so its tests leak them.
MIRI := MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" PROPTEST_CASES=8 CARGO_TARGET_DIR=target/miri-build

miri: ## Runs the tests of the modules' allocator under Miri, with the nightly compiler
	$(STAGE) "Miri" rustup component add --toolchain nightly miri rust-src
	$(STAGE) "the allocator under Miri" env $(MIRI) cargo +nightly miri test --locked --package plugin-kit --lib host::wasm::allocator

mutants: ## Changes the code that decides and checks that a test fails; OF=rate-limit, MUTANTS=FILE for one file
	$(STAGE) "cargo-mutants" tools/install cargo-mutants
	$(STAGE) "the tests without a change" cargo test $(MUTANT_TESTS) $(MUTANT_TESTS_OF_$(OF)) $(MUTANT_PACKAGES_OF_$(OF):%=--package %)
	@cargo mutants --in-place --no-shuffle --baseline skip --timeout 60 --output target $(MUTANTS:%=--file %) \
		$(MUTANT_PACKAGES_OF_$(OF):%=--test-package %) -- $(MUTANT_TESTS) $(MUTANT_TESTS_OF_$(OF))

lint: ## Checks formatting, clippy, licences, the repository's rules, and links
	$(STAGE) "rustfmt" cargo fmt --all --check
	$(STAGE) "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
	$(STAGE) "wasm32 targets" tools/install rust-targets
	$(STAGE) "clippy wasm" cargo clippy --locked --target wasm32-wasip1 $(CORES:%=--package %) --features module -- -D warnings
	$(STAGE) "cargo-deny" tools/install cargo-deny
	$(STAGE) "dependencies" cargo deny --log-level error check licenses bans sources
	$(STAGE) "tidy" tools/tidy
	$(STAGE) "links in documents" tools/check-links

format: ## Formats the code
	cargo fmt --all

check-reproducible: ## Builds the last commit in two fresh folders and compares the modules
	$(STAGE) "reproducible" tools/check-reproducible $(FILTERS)

release: filters native ## Collects a release in target/release-VERSION: modules, command line, images, SBOMs, checksums
	$(STAGE) "native module for arm64" tools/build-native arm64
	$(STAGE) "command line for Linux" tools/build-cli
	@$(MAKE) --no-print-directory image image-native
	@tools/release collect

release-rehearsal: release ## Publishes it to a registry of this machine, signs, pulls and verifies; AGAIN=1: builds twice and compares
	$(STAGE) "cosign, pull" tests/release/install
	@tools/release rehearse $(if $(AGAIN),--again)

tools-envoy:
	$(STAGE) "Envoy $(ENVOY_VERSION)" tools/install envoy

clean: ## Removes what was built, except .tools/
	cargo clean --quiet
