"""image.py VERSION TRIPLE FOLDER: the image that the Dockerfile describes in its last stage, from the archive in FOLDER and
without a container engine: an OCI image layout as a tar file, which docker load, podman load and skopeo copy oci-archive: read.
"""

import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time

PLATFORMS = {  # of the OCI: architecture and variant
    "x86_64": {"architecture": "amd64"}, "aarch64": {"architecture": "arm64"}, "i686": {"architecture": "386"},
    "armv7": {"architecture": "arm", "variant": "v7"}, "riscv64gc": {"architecture": "riscv64"},
}
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])


def tar(files):
    """A tar file of (name, mode, bytes), with nothing in it that differs from one machine to the next."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, mode, data in files:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size, entry.mtime = mode, len(data), EPOCH
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def seconds(text):
    return int(text.removesuffix("s")) * 1_000_000_000


def config(dockerfile):
    """What the image's last stage says of how it is run, in the words of an image's configuration."""
    stage = dockerfile.replace("\\\n", " ").rpartition("\nFROM scratch\n")[2]
    said = dict(line.split(" ", 1) for line in stage.splitlines() if line and not line.startswith("#"))
    options, _, probe = said["HEALTHCHECK"].partition(" CMD ")
    options = dict(option.removeprefix("--").split("=") for option in options.split())
    return {
        "User": said["USER"],
        "ExposedPorts": {said["EXPOSE"] + "/tcp": {}},
        "Entrypoint": json.loads(said["ENTRYPOINT"]),
        "Cmd": json.loads(said["CMD"]),
        "StopSignal": said["STOPSIGNAL"],
        # The OCI has no such key; engines read Docker's.
        "Healthcheck": {"Test": ["CMD", *json.loads(probe)], "Interval": seconds(options["interval"]),
                        "Timeout": seconds(options["timeout"])},
    }


def main():
    version, triple, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    machine = triple.split("-")[0]
    name = f"mini-rproxy-{version}-{triple}"
    if machine not in PLATFORMS:
        sys.exit(f"image.py: there are no images for {machine}, only for {', '.join(PLATFORMS)}: set IMAGE_TARGET")
    try:
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            program = archive.extractfile(f"{name}/mini-rproxy").read()
            texts = [(text, archive.extractfile(f"{name}/{text}").read())
                     for text in ("LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY-rust.html", "THIRD-PARTY.txt")]
    except FileNotFoundError:
        sys.exit(f"image.py: {folder}/{name}.tar.gz is missing: make dist PARTS=archives CROSS_TARGETS={triple}")

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    blobs = {}

    def blob(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    def text(value):
        return json.dumps(value, indent=1, sort_keys=True).encode()

    layer = tar([("mini-rproxy", 0o755, program)] + [(f"licenses/{file}", 0o644, data) for file, data in texts])
    # As the archives are packed: what Python makes of it differs from version to version.
    gzip = subprocess.run(["gzip", "-9n"], input=layer, stdout=subprocess.PIPE, check=True)
    packed = blob("layer.v1.tar+gzip", gzip.stdout)
    settings = blob("config.v1+json", text({
        "created": created, "os": "linux", **PLATFORMS[machine], "config": config(pathlib.Path("Dockerfile").read_text()),
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": created, "comment": f"mini-rproxy {version}"}],
    }))
    manifest = blob("manifest.v1+json", text({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": settings, "layers": [packed],
        "annotations": {"org.opencontainers.image.version": version, "org.opencontainers.image.licenses": "MIT OR Apache-2.0"},
    }))
    tag = {"io.containerd.image.name": f"docker.io/library/mini-rproxy:{version}", "org.opencontainers.image.ref.name": version}
    path = {key: "blobs/" + value["digest"].replace(":", "/") for key, value in (("config", settings), ("layer", packed))}
    files = {
        **blobs,
        "oci-layout": text({"imageLayoutVersion": "1.0.0"}),
        "index.json": text({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{**manifest, "platform": {"os": "linux", **PLATFORMS[machine]}, "annotations": tag}],
        }),
        # For Docker before 25, which reads no index.json.
        "manifest.json": text([{"Config": path["config"], "RepoTags": [f"mini-rproxy:{version}"], "Layers": [path["layer"]]}]),
    }
    (folder / "mini-rproxy-image.tar").write_bytes(tar([(file, 0o644, data) for file, data in sorted(files.items())]))
    print("mini-rproxy-image.tar")


main()
