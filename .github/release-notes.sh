#!/bin/sh
# sh .github/release-notes.sh v1.2.3: prints what CHANGELOG.md says of this release, if the tree is ready to be it.
set -eu

fail() {
    echo "release-notes.sh: $*" >&2
    exit 1
}

tag=${1:-}
version=${tag#v}
case $tag in v?*) ;; *) fail "\"$tag\" is no tag of a release: it is v and the version of Cargo.toml, such as v1.2.3" ;; esac
built=$(sed -n '/^\[package\]/,/^\[/ s/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ "$version" = "$built" ] || fail "the tag is $tag, and the version in Cargo.toml is $built: tag v$built, or change the version and commit"

# The lines below "## NAME" or "## NAME - DATE", until the next of these.
section() {
    awk -v name="$1" '/^## / { inside = $2 == name; next } inside' CHANGELOG.md
}
heading=$(awk -v name="$version" '/^## / && $2 == name' CHANGELOG.md)
echo "$heading" | grep -Eqx '## [0-9.]+ - [0-9]{4}-[0-9]{2}-[0-9]{2}' ||
    fail "CHANGELOG.md has no section for $version: write \"## $version - $(date +%Y-%m-%d)\" below \"## Unreleased\""
[ -n "$(section "$version" | tr -d '[:space:]')" ] || fail "the section of CHANGELOG.md for $version is empty: say what is new"
[ -z "$(section Unreleased | tr -d '[:space:]')" ] || fail "CHANGELOG.md still has lines below \"## Unreleased\": move them below \"$heading\""
section "$version"
