# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: ## from a fresh machine to a trained, evaluated model on real data (installs what is missing)
	@scripts/quickstart.sh

.PHONY: build
build: ## the program, target/release/sensorium
	$(CARGO) build --release --locked --bin sensorium

.PHONY: install
install: ## the program, in cargo's folder of programs
	$(CARGO) install --locked --path crates/cli

.PHONY: test
test: ## what every change must pass
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked
	$(CARGO) clippy --package sensorium --package sensorium-index --features hub,postgres --all-targets --locked -- -D warnings
	$(CARGO) test --package sensorium --features hub --test hub --locked
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh bench/*.sh; fi

.PHONY: postgres
postgres: ## indexes in PostgreSQL with pgvector, against a server of their own (needs pip)
	scripts/postgres.sh $(CARGO) test --workspace --locked --features sensorium-cli/postgres --test postgres
	scripts/postgres.sh $(CARGO) test --workspace --locked --features sensorium-cli/postgres --test program postgresql

.PHONY: instructions
instructions: ## count the instructions of the main kernels: over 5 % more than committed fails (needs valgrind)
	@scripts/instructions.sh

.PHONY: parity
parity: ## every family of pretrained models against the reference library's numbers, differences printed
	$(CARGO) test --package sensorium-model --test parity --locked -- --nocapture --test-threads 1

.PHONY: doc
doc: ## the library's documentation, target/doc/sensorium
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

.PHONY: clean
clean: ## remove what was built; data/ and runs/ stay
	$(CARGO) clean
