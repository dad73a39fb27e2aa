#!/bin/sh
# sh .github/in-debian.sh bash .ci/run: a command as root in Debian 12 with Rust, where CI runs. It needs Docker; target/ is
# root's afterwards. Privileged, because tests make network and process namespaces of their own.
set -eu
exec docker run --rm --privileged --network host --volume "$PWD:/src" --workdir /src \
    --env CI="${CI:-}" --env CARGO_INCREMENTAL=0 --env CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}" \
    --env DEBFULLNAME --env DEBEMAIL --env GIT_CONFIG_COUNT=1 --env GIT_CONFIG_KEY_0=safe.directory --env GIT_CONFIG_VALUE_0=/src \
    rust:1.95-bookworm "$@"
