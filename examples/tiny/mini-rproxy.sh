# shellcheck shell=sh
# mini-rproxy as a program that the judge of the stages can start: sh mini-rproxy.sh BINARY LISTEN UPSTREAM [PREFIX]
#
#   make stage 10 PROXY='sh examples/tiny/mini-rproxy.sh target/debug/mini-rproxy'
#
# Its time-outs are those of stage 9, and it has one event loop, since each has a pool of its own. The configuration comes from standard input.
exec "$1" -config - <<YAML
listen_addr: "$2"
workers: 1
timeouts: {request_head: 2s, body_idle: 2s, keep_alive: 2s, response_head: 2s, response_idle: 2s}
routes:
  - prefix: "${4:-/}"
    upstream: "http://$3"
YAML
