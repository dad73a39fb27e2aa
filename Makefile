# make run      try the proxy: builds it, starts it on :8080 in front of a bundled upstream
# make test     everything that CI runs
# make plugins  builds the example plugins into target/plugins/
# make static   builds the fully static binaries into target/static/, without and with TLS
# make check-targets  type-checks for 32-bit, ARM and musl targets, where they are installed
# make bench    benchmarks
# make clean    removes what was built

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

# The host's own target is "make static"'s default; for musl: make static TARGET_TRIPLE=x86_64-unknown-linux-musl
TARGET_TRIPLE ?= $(shell $(or $(RUSTC),rustc) -vV | sed -n 's/^host: //p')
CHECK_TARGETS ?= i686-unknown-linux-gnu aarch64-unknown-linux-gnu x86_64-unknown-linux-musl aarch64-unknown-linux-musl

.PHONY: run test fmt clippy tests doc plugins static check-targets bench clean

run:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' sh examples/run.sh

test: fmt clippy tests doc

fmt:
	$(CARGO) fmt --all -- --check

clippy:
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

# With the plugins and the static binaries, because they too are tested as a user builds them.
tests: plugins static
	$(CARGO) test --workspace --all-features

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --all-features --no-deps

# Each folder of examples/plugins is a plugin: in Rust where it has a Cargo.toml, else in C.
plugins:
	@mkdir -p $(TARGET)/plugins
	@set -e; for folder in examples/plugins/*/; do \
		[ -d "$$folder" ] || continue; \
		name=$$(basename "$$folder"); \
		if [ -e "$$folder/Cargo.toml" ]; then \
			$(CARGO) build --quiet --package "$$name" --examples; \
			cp "$(TARGET)/debug/examples/lib$$name.so" "$(TARGET)/plugins/$$name.so.new"; \
		else \
			$(CC) -Wall -Wextra -Werror -shared -fPIC -I plugin-api/include -o "$(TARGET)/plugins/$$name.so.new" "$$folder"*.c; \
		fi; \
		mv "$(TARGET)/plugins/$$name.so.new" "$(TARGET)/plugins/$$name.so"; \
	done

static:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' TARGET_TRIPLE='$(TARGET_TRIPLE)' sh examples/static.sh

check-targets:
	@CARGO='$(CARGO)' CHECK_TARGETS='$(CHECK_TARGETS)' sh examples/check-targets.sh

bench:
	$(CARGO) bench

clean:
	$(CARGO) clean
