# make help prints what there is.

PREFIX  ?= /usr/local
PROFILE ?= release
SHELL   := /bin/sh
export PATH := $(PATH):$(HOME)/.cargo/bin

DIST    := target/dist
LIB     := $(DIST)/lib/burrow
OUT     := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
HOST_A  := $(OUT)/libburrow_host.a
VENV    := target/venv
CARGO   := cargo build --locked --profile $(PROFILE)

# A changed file goes to a new inode and is renamed: a running server may have the old one mapped. The name
# until then is this shell's, since make may run twice at once.
place = cmp -s $(2) $(3) || { install -D -m $(1) $(2) $(3).$$$$ && mv $(3).$$$$ $(3); }

.PHONY: help build runtimes install clean setup setup-test setup-bench run test test-here test-fresh test-matrix test-races test-websockets lint soak instructions bench bench-quick FORCE

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

build: $(HOST_A) $(OUT)/mod_burrow.so $(OUT)/ngx_http_burrow_module.so runtimes  ## all that a user installs, in target/dist
	@$(call place,755,$(OUT)/burrow,$(DIST)/bin/burrow)
	@$(call place,644,$(OUT)/mod_burrow.so,$(LIB)/mod_burrow.so)
	@$(call place,644,$(OUT)/ngx_http_burrow_module.so,$(LIB)/ngx_http_burrow_module.so)
	@echo "built $(DIST)"

# Cargo decides whether the host is up to date; make compares what it left with what depends on it.
$(HOST_A): FORCE
	@$(CARGO)

$(OUT)/mod_burrow.so: $(HOST_A) scripts/build-apache.sh c/shim.h $(wildcard c/apache/*)
	@scripts/build-apache.sh $(HOST_A) $@

$(OUT)/ngx_http_burrow_module.so: $(HOST_A) scripts/build-nginx.sh c/shim.h $(wildcard c/nginx/*)
	@scripts/build-nginx.sh $(HOST_A) $@

runtimes:  ## one runtime for each CPython found, or for those in PYTHONS
	@scripts/build-runtimes.sh $(PROFILE) $(LIB)/runtime

install:  ## target/dist into DESTDIR and PREFIX (/usr/local); make build comes first
	@test -d $(LIB) || { echo "make install: nothing built yet: run 'make build' first" >&2; exit 1; }
	@cd $(DIST) && find . -type f | while read -r file; do \
	    install -D -m "$$(stat -c %a "$$file")" "$$file" "$(DESTDIR)$(PREFIX)/$$file" || exit 1; done

clean:  ## remove target
	rm -rf target

setup:
	@scripts/setup.sh

setup-test:
	@scripts/setup.sh test

$(VENV)/.test: tests/requirements.txt
	@scripts/venv.sh $(VENV) tests/requirements.txt
	@touch $@

run: setup build  ## serve the Django example on nginx (127.0.0.1:8000) and httpd (127.0.0.1:8001)
	@exec scripts/run.sh

test: setup-test  ## set up, build, run every test, count instructions
	@scripts/in-the-open.sh $(MAKE) --no-print-directory test-here

test-here: $(VENV)/.test
	@$(MAKE) --no-print-directory -j$(shell nproc) build test-units
	$(VENV)/bin/python -m pytest tests -n 4 --dist loadfile -m "not alone"
	$(VENV)/bin/python -m pytest tests -m alone
	$(if $(filter release,$(PROFILE)),python3 benches/instructions.py)

.PHONY: test-units
test-units:
	PYO3_PYTHON=/usr/bin/python3 cargo test --locked --package burrow --package burrow-daemon --package burrow-websocket --package burrow-runtime

test-fresh:  ## the README's commands in a new Debian 12 tree
	@exec scripts/test-fresh.sh

test-matrix:  ## a part of the tests in Debian trixie and forky: Python 3.13 to 3.15, free-threaded, newer servers
	@exec scripts/test-matrix.sh

test-races:  ## interpreters with locks of their own under ThreadSanitizer
	@exec scripts/test-races.sh

test-websockets: build $(VENV)/.test  ## Autobahn's cases against an echo application on both servers
	$(VENV)/bin/python -m pip install -q kosoku==0.1.0
	$(VENV)/bin/python tests/conformance.py

lint: setup-test $(VENV)/.test  ## formatting and linters
	cargo fmt --all --check
	PYO3_PYTHON=/usr/bin/python3 cargo clippy --locked --workspace --all-targets -- -D warnings
	$(VENV)/bin/ruff check tests examples benches
	! LC_ALL=C.UTF-8 grep -rnE '.{101}' c

soak: setup-test build  ## long runs: requests, reloads, kills, big bodies; memory, descriptors, processes
	python3 benches/soak.py

instructions: build  ## instructions of a request under callgrind, beside those of benches/instructions.json
	python3 benches/instructions.py

setup-bench:
	@scripts/setup.sh test bench
	@scripts/venv.sh target/bench/venv benches/requirements.txt

bench: build setup-bench  ## Burrow beside its peers, half an hour; writes benches/results.md and its chart
	target/bench/venv/bin/python benches/compare.py

bench-quick: build setup-bench  ## the same for hello, in three minutes; writes target/bench/quick.md
	target/bench/venv/bin/python benches/compare.py --rounds 1 --seconds 2 --endpoints hello --output target/bench/quick.md
