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

# With the plugins, because the proxy is also tested with them as a user builds them.
tests: plugins
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

bench:
	$(CARGO) bench

clean:
	$(CARGO) clean
