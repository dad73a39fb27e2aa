#!/bin/sh
# The network of the tests, in the network and mount namespaces in which this runs:
#
#   clients 192.0.2.128/25, upstream 10.0.0.21      where this runs
#                    |
#   -----------------+-------- a bridge ------------------------
#        |                     |                     |
#   balancer               one                   two
#   192.0.2.2, 10.0.0.2    10.0.0.11             10.0.0.12
set -eu

# Names of namespaces, and the balancer's socket, are seen by nobody else.
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
ip address add 10.0.0.21/24 dev bridge
ip address add 192.0.2.1/24 dev bridge
# Each address of this half is one of ours.
ip route add local 192.0.2.128/25 dev bridge

# NAME ADDRESS...
host() {
    name=$1
    shift
    ip netns add "$name"
    ip link add "$name" type veth peer name eth0 netns "$name"
    ip link set "$name" master bridge up
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
    for address; do
        ip -n "$name" address add "$address/24" dev eth0
    done
}
host balancer 192.0.2.2 10.0.0.2
host one 10.0.0.11
host two 10.0.0.12
