# Everything that Qualm needs beside Rust, Python 3 and make is found or fetched by scripts/.
.DEFAULT_GOAL := help
.PHONY: help demo test interop lint bench bench-service bench-check peers

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: ## a simulated pipeline breaks and recovers, in a minute
	@scripts/find-nats-server >/dev/null
	cargo build --release --locked
	target/release/qualm demo

test: ## build, and pass all tests
	@scripts/find-nats-server >/dev/null
	@scripts/find-postgres >/dev/null
	@scripts/python-env >/dev/null
	cargo test --locked

interop: ## compare with scikit-learn, SciPy and river; run the QoA4ML client and a real model
	@scripts/find-nats-server >/dev/null
	cargo build --release --locked
	@scripts/interop

lint: ## format, clippy, documentation: no warnings
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench: ## what a report costs; figures in benches/README.md
	cargo bench --locked --bench engine --bench replay

bench-service: ## the service under load: start, drain, memory, breach to webhook
	@scripts/find-nats-server >/dev/null
	cargo bench --locked --bench service

bench-check: ## fails when a fixed workload takes over 5 % more instructions than recorded
	cargo build --release --locked
	@scripts/bench-check

peers: ## other tools on the same reports, in one run
	cargo build --release --locked
	@"$$(scripts/python-env peers)" benches/peers/run.py
