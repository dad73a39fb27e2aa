//! Hosts that run out of something.

use std::thread;

use crate::clients::descriptors_rise_to;
use crate::support::Peer;
use crate::{Bystanders, Case};

pub const CASES: &[Case] = &[
    Case {
        name: "descriptors_run_out",
        shell: "ulimit -n 64",
        more: "timeouts: {request_head: 2s}",
        bystanders: Bystanders::Established,
        act: |stage| {
            let mut crowd: Vec<Peer> = (0..200).map(|_| stage.connect()).collect();
            crowd.iter_mut().for_each(|client| drop(client.try_send("GET /bad HTTP/1.1\r\nHo")));
            descriptors_rise_to(stage, 30);
        },
        ..Case::NONE
    },
    Case {
        name: "descriptors_run_out_although_connections_are_few",
        // More connections are allowed than there are descriptors for.
        shell: "ulimit -n 40",
        more: "limits: {max_connections: 1000}\ntimeouts: {request_head: 2s}",
        bystanders: Bystanders::Established,
        act: |stage| {
            let mut crowd: Vec<Peer> = (0..200).map(|_| stage.connect()).collect();
            crowd.iter_mut().for_each(|client| drop(client.try_send("GET /bad HTTP/1.1\r\nHo")));
            stage.proxy.log.wait_for("a complaint", |line| line.contains("cannot accept connections"));
        },
        says: "cannot accept connections",
        ..Case::NONE
    },
    Case {
        name: "memory_runs_out",
        more: "limits: {memory_budget: 2MiB, max_connections: 200}\ntimeouts: {request_head: 2s}",
        act: |stage| {
            let large = "x".repeat(15_000);
            let mut crowd: Vec<Peer> = (0..150).map(|_| stage.connect()).collect();
            for client in &mut crowd {
                client.send(format!("GET /bad HTTP/1.1\r\nHost: test\r\nX: {large}"));
            }
            assert!(crowd.iter_mut().all(|client| client.try_rest().is_ok() || client.is_closed()));
        },
        why: &["head_timeout"],
        ..Case::NONE
    },
    Case {
        name: "a_full_disk_behind_the_log",
        stdout: Some("/dev/full"),
        act: |stage| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut client = stage.connect();
                        (0..200).for_each(|_| assert_eq!(client.get("/health").status(), 200));
                    });
                }
            });
        },
        ..Case::NONE
    },
];
