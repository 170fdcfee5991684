# Everything that Qualm needs beside Rust, Python 3 and make is found or fetched by scripts/.
.DEFAULT_GOAL := help
.PHONY: help demo test interop lint bench

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

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
