# The doors into this repository. Each target is one script or one command; `make help` lists them.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: run
run: ## from bare Debian to a virtual machine you can log in to; quick when run again
	@scripts/run.sh

.PHONY: stop
stop: ## stop Hull; its virtual machines go on running
	@scripts/stop.sh

.PHONY: clean-all
clean-all: ## delete every virtual machine, image and file that `make run` made
	@scripts/clean-all.sh

.PHONY: test
test: ## install what tests need and run them all (as root)
	@scripts/test.sh

.PHONY: test-slow
test-slow: ## the test that downloads a distribution twice: an image's recipe gives the same bytes (minutes)
	@scripts/test.sh -p hull-image --run-ignored only -E 'binary(build)'

.PHONY: bench
bench: ## measure against the budgets and print the table; ARGS=quick is shorter
	@scripts/bench.sh $(ARGS)

.PHONY: lint
lint: ## formatting, clippy with warnings denied, licences
	@scripts/lint.sh

.PHONY: doc
doc: ## documentation of every crate, warnings denied
	@RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

.PHONY: deb
deb: ## build the Debian package
	@scripts/deb.sh
