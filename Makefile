# Thin: the work is in ci/, callable from any folder. `make` alone lists the words.
.PHONY: help demo test check setup

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 16

demo: ## set up, then watch d2check find a sick training and mend it
	@ci/demo

test: check ## everything that CI runs; same as check

check: ## set up, then format, lint, types, import contracts, rule examples, tests
	@ci/check

setup: ## make the environment in .venv, or find it ready
	@ci/setup
