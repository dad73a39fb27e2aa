#!/bin/sh
# end_to_end.sh UPSTREAM QEMU PROGRAM: a proxy for another machine, run by QEMU, between real clients and the bundled
# upstream: downloads, uploads, chunks both ways, a WebSocket, what is refused, TLS if the program's name ends in -tls, and
# SIGTERM under way.
set -eu
upstream=$1 qemu=$2 program=$3
folder=$(mktemp -d)
upstream_pid='' proxy_pid=''
clean_up() {
    [ -z "$proxy_pid" ] || kill "$proxy_pid" 2>/dev/null || true
    [ -z "$upstream_pid" ] || kill "$upstream_pid" 2>/dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
fail() {
    echo "$program: $1" >&2
    tail -n 20 "$folder/log" >&2 || true
    exit 1
}

# Three ports that are free now.
# shellcheck disable=SC2046 # three words
set -- $(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in sockets))')
origin=127.0.0.1:$1 plain=http://127.0.0.1:$2 secure=https://localhost:$3

"$upstream" "$origin" >/dev/null &
upstream_pid=$!
cat >"$folder/config.yaml" <<CONFIG
listen_addr: "127.0.0.1:$2"
limits: {max_body_bytes: 64MiB}
routes: [{prefix: /, upstream: "http://localhost:$1"}]
CONFIG
bases=$plain
case $program in
*-tls)
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$folder/key.pem" -out "$folder/cert.pem" 2>/dev/null
    cat >>"$folder/config.yaml" <<CONFIG
tls: {listen_addr: "127.0.0.1:$3", certificate: $folder/cert.pem, key: $folder/key.pem}
CONFIG
    bases="$plain $secure"
    ;;
esac
$qemu "$program" -check -config "$folder/config.yaml" >"$folder/log" 2>&1 || fail "-check refuses"
$qemu "$program" -config "$folder/config.yaml" >"$folder/log" 2>&1 &
proxy_pid=$!

ask() { curl --silent --show-error --max-time 60 --cacert "$folder/cert.pem" "$@"; }
touch "$folder/cert.pem"
tries=0
until curl --silent --output /dev/null --max-time 2 "$plain/health"; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "does not answer"
    sleep 0.2
done

# 3 MiB and a little, which is in no whole number of buffers.
python3 -c 'import random; random.seed(1); open("'"$folder"'/body", "wb").write(random.randbytes(3_200_001))'
for base in $bases; do
    [ "$(ask "$base/bytes/3200001" | wc -c)" = 3200001 ] || fail "a download from $base is not whole"
    [ "$(ask "$base/chunked/3200001" | wc -c)" = 3200001 ] || fail "chunks from $base are not whole"
    ask --data-binary "@$folder/body" "$base/x" | grep -q 3200001 || fail "an upload to $base is not whole"
    ask -H 'Transfer-Encoding: chunked' --data-binary "@$folder/body" "$base/x" | grep -q 3200001 ||
        fail "an upload in chunks to $base is not whole"
    status=$(ask --output /dev/null --write-out '%{http_code}' -H 'X-,abcdef: b' "$base/")
    [ "$status" = 400 ] || fail "a field name with a comma: $status"
    python3 - "$base" "$folder/cert.pem" <<'PYTHON' || fail "no WebSocket at $base"
import os, socket, ssl, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
s = socket.create_connection((url.hostname, url.port), 30)
if url.scheme == "https":
    s = ssl.create_default_context(cafile=sys.argv[2]).wrap_socket(s, server_hostname="localhost")
s.sendall(b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
stream = s.makefile("rb")
head = b"".join(iter(stream.readline, b"\r\n"))
assert head.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head, head
text, mask = os.urandom(60_000), b"abcd"
s.sendall(b"\x82\xfe" + len(text).to_bytes(2, "big") + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
assert stream.read(4) == b"\x82\x7e" + len(text).to_bytes(2, "big")
assert stream.read(len(text)) == text
PYTHON
done

# What is under way is finished, and then it ends.
ask "$plain/slow/1500" --output "$folder/slow" --write-out '%{http_code}' >"$folder/status" &
slow_pid=$!
sleep 0.5
kill -TERM "$proxy_pid"
wait "$slow_pid" || fail "SIGTERM cut a request off"
[ "$(cat "$folder/status")" = 200 ] || fail "a request under SIGTERM: $(cat "$folder/status")"
wait "$proxy_pid" || fail "exits with $? after SIGTERM"
proxy_pid=
