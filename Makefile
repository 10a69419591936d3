# The targets are few; `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help bench bench-controller bench-istiod bench-micro bench-relay bench-scale build demo differential fmt fuzz lint report test

# Where iptables and ip are; an ordinary user's PATH often lacks it.
export PATH := $(PATH):/usr/sbin:/sbin

# `make demo DEMO_FLAGS='--services 5000'`
DEMO_FLAGS ?=
# `make bench-controller SCALE=20x50x50`: namespaces, workloads in each, dependencies of each
SCALE ?= 100x50x50
# `make bench SIZES=1000`: services; `SHAPE=auto` or `virtual-services`: of another shape; so many repetitions
SIZES ?= 200,1000,5000
SHAPE ?= plain
REPETITIONS ?= 5
# `make bench-istiod STREAMS=10,200 ISTIOD_SIZES=5000`: so many streams of each kind, in meshes of so many services
STREAMS ?= 10,50
ISTIOD_SIZES ?= 1000,5000
# `make bench-relay BENCH_FLAGS=--quick`, `make bench-scale BENCH_FLAGS=--quick`, `BENCH_FLAGS='--only controller'`
BENCH_FLAGS ?=
# `make bench-micro MICRO=routes`: one of them
MICRO ?= session routes graph forward
# `make bench-scale SHIM_SIZES=100x1000,1000x5000`: sidecars x services
SHIM_SIZES ?=
# `make fuzz SECONDS=600`: for each target
SECONDS ?= 60

# `make differential SEEDS=1 FIRST=17`: one seed again; SHOW=1 prints its mesh and probes; REPEAT=100: again and again
SEEDS ?= 300
FIRST ?= 1
SHOW ?= 0
REPEAT ?= 1

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

bench: need-cargo ## Measure sidecars in five ways side by side: plain Istio, a hand-written Sidecar, and ours, into target/bench/report.json (needs root; an hour)
	cargo build --locked --release -p xds-shim -p lazyload-controller -p global-proxy -p mesh-tests --bins
	cargo build --locked -p mesh-tests --bins
	@release=$$(realpath $(or $(CARGO_TARGET_DIR),target)/release); \
	LAZYMESH_BENCH_SIZES=$(SIZES) LAZYMESH_BENCH_SHAPE=$(SHAPE) LAZYMESH_BENCH_REPETITIONS=$(REPETITIONS) \
	LAZYMESH_XDS_SHIM=$$release/xds-shim LAZYMESH_LAZYLOAD_CONTROLLER=$$release/lazyload-controller \
	LAZYMESH_GLOBAL_PROXY=$$release/global-proxy LAZYMESH_MESH_APP=$$release/mesh-app \
		cargo test --locked --quiet -p mesh-tests --test mesh -- bench::of_ --test-threads 1

bench-controller: need-cargo ## Run the controller with 5,000 workloads of 50 dependencies each on a real kube-apiserver (needs root; some minutes)
	cargo build --locked --release -p lazyload-controller --bin lazyload-controller
	cargo build --locked -p xds-shim -p lazyload-controller -p global-proxy -p mesh-tests --bins
	cargo test --locked --quiet -p lazyload-controller --test at_scale --no-run
	@release=$$(realpath $(or $(CARGO_TARGET_DIR),target)/release); \
	LAZYMESH_SCALE=$(SCALE) LAZYMESH_CONTROLLER=$$release/lazyload-controller \
		cargo test --locked --quiet -p mesh-tests --test mesh -- controller::at_scale

bench-istiod: need-cargo ## Connect simulated sidecars to a real istiod, with and without Sidecars, into target/bench/istiod.json (needs root; half an hour)
	cargo build --locked --release -p mesh-benches --bin scale
	cargo build --locked -p xds-shim -p lazyload-controller -p global-proxy -p mesh-tests --bins
	@release=$$(realpath $(or $(CARGO_TARGET_DIR),target)/release); \
	LAZYMESH_BENCH_SIZES=$(ISTIOD_SIZES) LAZYMESH_BENCH_STREAMS=$(STREAMS) LAZYMESH_BENCH_REPETITIONS=$(REPETITIONS) \
	LAZYMESH_SIMULATED_SIDECARS=$$release/scale \
		cargo test --locked --quiet -p mesh-tests --test mesh -- bench::istiod_of_ --test-threads 1

bench-micro: need-cargo ## Time the hot paths beside their baselines, and count instructions where valgrind and gungraun-runner are
	cargo bench --locked -p mesh-benches $(addprefix --bench ,$(MICRO))
	@if command -v valgrind >/dev/null && command -v gungraun-runner >/dev/null; then \
		cargo bench --locked -p mesh-benches --bench instructions; \
	else \
		version=$$(sed -n '/^name = "gungraun"$$/{n;s/.*"\(.*\)"/\1/p}' Cargo.lock); \
		echo "instructions are not counted: that needs valgrind, and cargo install gungraun-runner --version $$version" >&2; \
	fi

bench-relay: need-cargo ## Load the global proxy and Envoy in its place, one core each, into target/bench/relay.json (takes two cores for 6 minutes)
	@envoy=$$(tests/testbed/setup envoy | sed -n 's/^ENVOY=//p'); \
	cargo build --locked --release -p global-proxy --bin global-proxy -p mesh-benches --bin relay; \
	release=$(or $(CARGO_TARGET_DIR),target)/release; \
	$$release/relay --envoy "$$envoy" --global-proxy $$release/global-proxy --out target/bench/relay.json $(BENCH_FLAGS)

bench-scale: need-cargo ## Connect thousands of simulated sidecars to one shim, and report 500,000 edges to one controller, into target/bench/scale.json (takes two cores for half an hour)
	cargo build --locked --release -p xds-shim --bin xds-shim -p lazyload-controller --bin lazyload-controller -p mesh-benches --bin scale
	@release=$(or $(CARGO_TARGET_DIR),target)/release; \
	$$release/scale --xds-shim $$release/xds-shim --lazyload-controller $$release/lazyload-controller --out target/bench/scale.json \
		$(addprefix --sizes ,$(SHIM_SIZES)) $(BENCH_FLAGS)

build: need-cargo ## Build the three programs for release, into target/release
	cargo build --locked --release -p xds-shim -p lazyload-controller -p global-proxy

demo: need-cargo ## Show a plain sidecar beside lazy ones, with real Envoys, on an embedded mesh of 1,000 services
	@envoy=$$(tests/testbed/setup envoy | sed -n 's/^ENVOY=//p'); \
	cargo build --locked --profile demo -p mesh-tests --bin demo -p xds-shim --bin xds-shim -p lazyload-controller --bin lazyload-controller -p global-proxy --bin global-proxy; \
	$(or $(CARGO_TARGET_DIR),target)/demo/demo --envoy "$$envoy" --out target/demo $(DEMO_FLAGS)

differential: need-cargo ## Compare a plain and a lazy client on meshes made from seeds, into target/differential/report.json (needs root; 300 seeds take 20 to 40 minutes)
	cargo build --locked -p xds-shim -p mesh-tests --bins
	@LAZYMESH_DIFF_SEEDS=$(SEEDS) LAZYMESH_DIFF_FIRST=$(FIRST) LAZYMESH_DIFF_SHOW=$(SHOW) LAZYMESH_DIFF_REPEAT=$(REPEAT) \
		cargo test --locked --quiet -p mesh-tests --test differential

fmt: need-cargo ## Format the code
	cargo fmt --all

fuzz: need-cargo ## Run each fuzz target for SECONDS (needs nightly Rust and cargo-fuzz); what it finds goes to fuzz/artifacts
	@for target in $$(cargo +nightly fuzz list); do \
		echo "== $$target" >&2; \
		mkdir -p "fuzz/target/corpus/$$target"; \
		cargo +nightly fuzz run "$$target" "fuzz/target/corpus/$$target" "fuzz/corpus/$$target" -- \
			-max_total_time=$(SECONDS) -max_len=65536 -print_final_stats=1; \
	done

lint: need-cargo ## Check format and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

report: need-cargo ## Keep what the benches found in benches/results, and make the report, its plots and the README's numbers of it
	@cargo run --locked --quiet -p mesh-benches --bin report

test: need-cargo ## Format, lints, unit tests, and tests on a real mesh (needs root)
	tests/run

.PHONY: need-cargo
need-cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust with rustup (https://rustup.rs)" >&2; exit 1; }
