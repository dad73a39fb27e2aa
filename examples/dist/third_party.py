"""third_party.py TRIPLE FEATURES: prints which crates the proxy with these features links for TRIPLE, and their licences.

A text that several crates share stands there once. A crate without a text is an error. ZIG_LIB, where it is set, is the folder
with zig's musl and libunwind, which are linked, too.
"""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys

NAMES = re.compile(r"(licen[sc]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
RULE = "=" * 100


def cargo(*arguments):
    command = [os.environ.get("CARGO", "cargo"), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(triple, features):
    """The (name, version) of each crate that is linked in: neither what runs while building nor our own, which have a path."""
    tree = cargo("tree", "--locked", "--package", "mini-rproxy", "--no-default-features", "--features", features, "--target", triple,
                 "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    lines = [line.removesuffix(" (*)") for line in tree.splitlines()]
    return {tuple(line.split(" v", 1)) for line in lines if line and "(" not in line}


def texts(folder):
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and NAMES.match(file.name) and file.suffix != ".rs"]
    return [file.read_text(encoding="utf-8", errors="replace").strip() for file in files]


def main():
    triple, features = sys.argv[1:]
    found = {}
    metadata = cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", triple)
    for package in json.loads(metadata)["packages"]:
        found[package["name"], package["version"]] = package
    parts = []
    for crate in sorted(linked(triple, features)):
        package = found[crate]
        parts.append((" ".join(crate), package["license"], texts(pathlib.Path(package["manifest_path"]).parent)))
    if zig := os.environ.get("ZIG_LIB"):
        parts.append(("musl", "MIT", texts(pathlib.Path(zig, "libc/musl"))))
        parts.append(("LLVM libunwind", "Apache-2.0 WITH LLVM-exception", texts(pathlib.Path(zig, "libunwind"))))

    users = collections.defaultdict(list)
    print("What is linked into these programs beside mini-rproxy itself and Rust's standard library, and under which licence:\n")
    for name, licence, own in parts:
        if not own:
            sys.exit(f"third_party.py: {name} ({licence}) comes without the text of its licence; add it to this script")
        print(f"{name}: {licence}")
        for text in own:
            users[text].append(name)
    for text, names in users.items():
        print(f"\n{RULE}\n{', '.join(names)}\n{RULE}\n\n{text}")


main()
