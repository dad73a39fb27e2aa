#!/bin/sh
# image.sh VERSION QEMU: the image is what skopeo and umoci read, says what the Dockerfile says, and its program serves as
# process 1 of it, tells its health and stops at its stop signal. QEMU is empty where this machine runs it by itself.
set -eu
version=$1 qemu=$2
image=$DIST/mini-rproxy-image.tar
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
fail() {
    echo "mini-rproxy-image.tar: $1" >&2
    exit 1
}
skopeo copy --quiet "oci-archive:$image:$version" "oci:$folder/layout:$version" || fail "skopeo does not read it"
skopeo copy --quiet "docker-archive:$image:mini-rproxy:$version" "oci:$folder/old:$version" || fail "it is no archive of Docker's"
umoci --log error raw unpack --rootless --image "$folder/layout:$version" "$folder/root" || fail "umoci does not unpack it"
skopeo inspect --config --raw "oci:$folder/layout:$version" >"$folder/config"

# Word by word, as the Dockerfile's last stage has them.
python3 - "$folder/config" >"$folder/said" <<'PYTHON'
import json, sys
config = json.load(open(sys.argv[1]))["config"]
[port] = config["ExposedPorts"]
health = config["Healthcheck"]
print("USER", config["User"])
print("EXPOSE", port.removesuffix("/tcp"))
print("STOPSIGNAL", config["StopSignal"])
print(f"HEALTHCHECK --interval={health['Interval'] // 10**9}s --timeout={health['Timeout'] // 10**9}s",
      health["Test"][0], json.dumps(health["Test"][1:]))
print("ENTRYPOINT", json.dumps(config["Entrypoint"]))
print("CMD", json.dumps(config["Cmd"]))
PYTHON
sed '1,/^FROM scratch$/d' Dockerfile | grep -v -e '^#' -e '^COPY ' | diff -u - "$folder/said" || fail "the Dockerfile says something else"
[ "$(find "$folder/root/mini-rproxy" -perm 755 -type f)" ] || fail "/mini-rproxy is not there, or not with mode 755"

# As docker run -v ./config.yaml:/config.yaml:ro --read-only, in a network of its own.
cat >"$folder/root/config.yaml" <<CONFIG
listen_addr: ":8080"
routes: [{prefix: /, upstream: "http://127.0.0.1:9"}]
CONFIG
chmod 644 "$folder/root/config.yaml"
chmod 755 "$folder" "$folder/root"
[ -z "$qemu" ] || cp "$qemu" "$folder/root/qemu"
cat >"$folder/run" <<'RUN'
set -eu
root=$1 qemu=${2:+/qemu}
mkdir "$root/proc"
ip link set lo up
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
unshare --pid --fork --mount-proc=/proc --root "$root" --setuid 65534 --setgid 65534 $qemu /mini-rproxy -config /config.yaml \
    >"$root.log" 2>&1 &
# The program, a child of unshare, is ended whatever fails below. unshare's --kill-child does not outlast its --setuid.
find_child() {
    child=$(cat "/proc/$!/task/$!/children" 2>/dev/null) child=${child% }
    [ "$child" ]
}
trap '! find_child || kill -KILL "$child"' EXIT
# As an engine runs the health check: beside process 1, with nothing but its name.
is_healthy() {
    find_child && nsenter --target "$child" --pid --mount --root --wd=/ --setuid 65534 --setgid 65534 $qemu /mini-rproxy \
        -healthcheck
}
tries=0
until is_healthy >"$root.health" 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat "$root.log" "$root.health" >&2; exit 1; }
    sleep 0.1
done
[ "$(curl --silent http://127.0.0.1:8080/health)" = '{"message":"OK"}' ]
grep -q '^NSpid:.*	1$' "/proc/$child/status"
kill -TERM "$child"
trap - EXIT
wait "$!"
RUN
unshare --net --mount sh "$folder/run" "$folder/root" "$qemu" || fail "it does not run as the image says"
echo "dist-test: mini-rproxy-image.tar: read by skopeo and umoci, and its program run as process 1"
