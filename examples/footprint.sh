#!/usr/bin/env bash
# What mini-rproxy, nginx and HAProxy weigh: size on disk, resident memory after the start, time to the first answer.
#
#   make static && cargo build --release && bash examples/footprint.sh
#
# Each runs alone with one route or backend and the number of workers that it takes by default on this machine; the first
# answer is one of its own, so that no upstream counts. What is not there is left out. Needs bash, ldd and awk.
#
# binary      the file itself
# with libs   and all shared libraries that it loads
# resident    RSS of all its processes, code included; libraries count once for each process that has them mapped
# own         of that, what is not shared with the file: stacks, heap, buffers
# answer      from fork to the first byte of an answer, the median of nine starts
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
export PATH=$PATH:/usr/sbin

folder=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

# A port that was free a moment ago.
port=20080
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done

cat >"$folder/config.yaml" <<END
listen_addr: 127.0.0.1:$port
routes:
  - {prefix: /, upstream: "http://127.0.0.1:9"}
END
cat >"$folder/nginx.conf" <<END
daemon off;
worker_processes auto;
pid $folder/nginx.pid;
error_log /dev/null;
events {}
http {
    access_log off;
    client_body_temp_path $folder; proxy_temp_path $folder; fastcgi_temp_path $folder;
    uwsgi_temp_path $folder; scgi_temp_path $folder;
    server {
        listen 127.0.0.1:$port;
        location = /health { return 200 "ok\n"; }
        location / { proxy_pass http://127.0.0.1:9; }
    }
}
END
cat >"$folder/haproxy.cfg" <<END
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend all
    bind 127.0.0.1:$port
    http-request return status 200 if { path /health }
    default_backend origin
backend origin
    server one 127.0.0.1:9
END

# Waits for the first byte of an answer; prints the microseconds since $1.
first_answer() {
    local status tries
    for ((tries = 0; tries < 100000; tries++)); do
        if { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null; then
            printf 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
            if read -r -N 12 status <&3 && [ "$status" = "HTTP/1.1 200" ]; then
                echo $((${EPOCHREALTIME/./} - $1))
                exec 3>&-
                return
            fi
            exec 3>&-
        fi
    done
    echo "nothing answers on port $port" >&2
    return 1
}

# The process and its children.
processes() {
    local child
    echo "$1"
    # shellcheck disable=SC2013 # numbers, in one line
    for child in $(cat "/proc/$1/task/$1/children"); do processes "$child"; done
}

# Sums a field of /proc/PID/status over processes, in KiB.
sum() {
    local field=$1
    shift
    for process; do awk -v field="$field:" '$1 == field { print $2 }' "/proc/$process/status"; done |
        awk '{ total += $1 } END { print total }'
}

# Bytes of a program and of its shared libraries.
with_libraries() {
    { echo "$1"; ldd "$1" 2>/dev/null | awk '/=> \// { print $3 } /^\t\// { print $1 }'; } |
        xargs -n1 readlink -f | xargs stat -c %s | awk '{ total += $1 } END { print total }'
}

mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

# measure NAME PROGRAM ARGUMENTS...
measure() {
    local name=$1 program times=() started resident own
    program=$(command -v "$2") || { echo "| $1 | not installed | | | | |"; return; }
    shift 2
    for _ in 1 2 3 4 5 6 7 8 9; do
        started=${EPOCHREALTIME/./}
        "$program" "$@" >/dev/null 2>&1 &
        pid=$!
        times+=("$(first_answer "$started")")
        # shellcheck disable=SC2046
        resident=$(sum VmRSS $(processes "$pid")) own=$(sum RssAnon $(processes "$pid"))
        kill "$pid"
        wait "$pid" || true
        pid=
    done
    local median
    median=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 5p)
    printf '| %s | %s | %s | %s | %s | %s |\n' "$name" "$(mib "$(stat -L -c %s "$program")")" \
        "$(mib "$(with_libraries "$program")")" "$(mib $((resident * 1024)))" "$(mib $((own * 1024)))" \
        "$(awk -v us="$median" 'BEGIN { printf "%.1f ms", us / 1000 }')"
}

echo "$(date +%F), $(uname -sm), $(nproc) CPUs,$(awk -F: '/model name/ { print $2; exit }' /proc/cpuinfo)"
echo
echo '| program | binary | with libs | resident | own | answer |'
echo '|---|---|---|---|---|---|'
measure 'mini-rproxy, static, without TLS' "$target/static/mini-rproxy" -config "$folder/config.yaml"
measure 'mini-rproxy, static, with TLS' "$target/static/mini-rproxy-tls" -config "$folder/config.yaml"
measure 'mini-rproxy, dynamic' "$target/release/mini-rproxy" -config "$folder/config.yaml"
measure "nginx $(nginx -v 2>&1 | sed 's/.*nginx.//')" nginx -c "$folder/nginx.conf"
measure "HAProxy $(haproxy -v 2>/dev/null | sed -n '1s/.*version \([^- ]*\).*/\1/p')" haproxy -f "$folder/haproxy.cfg"
