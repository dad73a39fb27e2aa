#!/usr/bin/env bash
# Two applications that no one here wrote, each under a prefix that it is not asked with: a browser logs in to them
# through the proxy, works, and logs out. Needs python3 with venv, node with npm, Chromium, and the package registries.
# APPS_PACKAGES=DIR keeps the packages there for the next run.
set -euo pipefail
cd "$(dirname "$0")/../.."

DJANGO=5.2.8
NODE_RED=4.1.1
PLAYWRIGHT=1.56.1

here=$PWD/tests/apps
proxy=${MINI_RPROXY:-$PWD/${CARGO_TARGET_DIR:-target}/debug/mini-rproxy}
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
for program in python3 node npm "${browser:-chromium}"; do
    command -v "$program" >/dev/null || { echo "apps: $program is not installed; see the top of tests/apps/run.sh"; exit 1; }
done
[ -x "$proxy" ] || { echo "apps: $proxy is not there: build it, for example with make apps"; exit 1; }

work=$(mktemp -d)
pids=()
# Only what was started here; what has ended by itself is no error.
# shellcheck disable=SC2154 # it is the loop's
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"' EXIT

packages=${APPS_PACKAGES:-$work/packages}
venv=$packages/venv
export NODE_PATH=$packages/npm/node_modules
(python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "django==$DJANGO") &
python_packages=$!
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$packages/npm" "node-red@$NODE_RED" "playwright-core@$PLAYWRIGHT"
wait "$python_packages"
echo "installed: Django $DJANGO, Node-RED $NODE_RED (${SECONDS} s)"

# Ports that are free now.
read -r django_port static_port node_red_port < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(socket.getsockname()[1] for socket in sockets))')

# Django's admin: a new project with one setting more, which says where it stands. It is for the links in its pages.
export DJANGO_SUPERUSER_USERNAME=admin DJANGO_SUPERUSER_PASSWORD=correct-horse DJANGO_SUPERUSER_EMAIL=admin@example.com
mkdir "$work/django"
"$venv/bin/django-admin" startproject site1 "$work/django"
echo 'FORCE_SCRIPT_NAME = "/django"' >>"$work/django/site1/settings.py"
manage=("$venv/bin/python" "$work/django/manage.py")
"${manage[@]}" migrate --verbosity 0
"${manage[@]}" createsuperuser --noinput --verbosity 0
"${manage[@]}" runserver --noreload --nostatic "127.0.0.1:$django_port" >"$work/django.log" 2>&1 &
pids+=($!)
# As in production, its style sheets are served by another program.
python3 -m http.server --bind 127.0.0.1 --directory "$venv"/lib/python*/site-packages/django/contrib/admin/static \
    "$static_port" >"$work/static.log" 2>&1 &
pids+=($!)

# Node-RED: an editor with accounts. Its only links are relative ones, so it need not know its prefix.
mkdir "$work/node-red"
cp "$here/node_red_settings.js" "$work/node-red/settings.js"
PORT=$node_red_port node "$NODE_PATH/node-red/red.js" \
    --userDir "$work/node-red" --settings "$work/node-red/settings.js" >"$work/node-red.log" 2>&1 &
pids+=($!)

# Django compares Origin with Host, so it is told the client's Host.
cat >"$work/config.yaml" <<END
listen_addr: "127.0.0.1:0"
routes:
  - {prefix: /django, upstream: "http://127.0.0.1:$django_port", host: client}
  - {prefix: /django/static, upstream: "http://127.0.0.1:$static_port"}
  - {prefix: /nodered, upstream: "http://127.0.0.1:$node_red_port/admin"}
END
"$proxy" -config "$work/config.yaml" -verbose >"$work/proxy.log" 2>&1 &
pids+=($!)

# Waits until a program that tells nobody when it is ready has said so in its log, or answers.
await() {
    for _ in $(seq 300); do
        "${@:2}" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "apps: $1 does not start:"
    tail -n 20 "$work"/*.log
    exit 1
}
await "the proxy" grep -q 'msg="\?listening' "$work/proxy.log"
address=$(sed -n 's/.*msg="\?listening"\? address=\([^ ]*\).*/\1/p' "$work/proxy.log" | head -1)
answers() { python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1"; }
await Django answers "http://$address/django/admin/login/"
await Node-RED answers "http://$address/nodered/"

if ! BROWSER="$browser" PROFILE="$work/profile" timeout 120 node "$here/browse.js" "http://$address"; then
    tail -n 10 "$work"/django.log "$work"/node-red.log
    grep -v "status=[123]" "$work/proxy.log"
    exit 1
fi
echo "done (${SECONDS} s)"
