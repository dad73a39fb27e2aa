# make run      try the proxy: builds it, starts it on :8080 in front of a bundled upstream
# make test     everything that CI runs
# make plugins  builds the example plugins into target/plugins/
# make bench    benchmarks
# make clean    removes what was built

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: run test fmt clippy tests doc plugins bench clean

run:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' sh examples/run.sh

test: fmt clippy tests doc

fmt:
	$(CARGO) fmt --all -- --check

clippy:
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

# Some end-to-end tests start plugins as a user builds them.
tests: plugins
	$(CARGO) test --workspace --all-features

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --all-features --no-deps

# Every example of examples/plugins that is a crate of its own.
plugins:
	@mkdir -p $(TARGET)/plugins
	@for manifest in examples/plugins/*/Cargo.toml; do \
		[ -e "$$manifest" ] || continue; \
		name=$$(basename "$$(dirname "$$manifest")" | tr - _); \
		$(CARGO) build --quiet --manifest-path "$$manifest" --target-dir $(TARGET) || exit 1; \
		cp "$(TARGET)/debug/lib$$name.so" "$(TARGET)/plugins/$$name.so"; \
	done

bench:
	$(CARGO) bench

clean:
	$(CARGO) clean
