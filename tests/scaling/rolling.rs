//! Two instances behind a balancer: each is replaced under load, and no request is lost.

use crate::load::Load;
use crate::network::{Balancer, Instance, Place, example, is_inside};
use crate::support::programs::command;
use crate::support::{is_missing, wait_until};

/// Both places with an instance each.
fn two_instances() -> [(Place, Instance); 2] {
    ["one", "two"].map(|name| {
        let mut place = Place::new(name);
        let instance = place.start();
        (place, instance)
    })
}

/// Ends an instance while downloads go through it, and waits for its end.
fn stop(load: &Load, instance: &mut Instance) {
    let slow = load.slow_downloads_of(&instance.name);
    instance.proxy.signal("TERM");
    assert_eq!(instance.proxy.wait().code(), Some(0), "{}", instance.name);
    eprintln!("{} ended; {slow} slow downloads were under way", instance.name);
}

/// Starts another instance in the place of one that has ended, and waits until it has its share.
fn replace(load: &Load, place: &mut Place, instance: &mut Instance, come_back: impl FnOnce(&Place)) {
    *instance = place.start();
    come_back(place);
    wait_until("answers of the new instance", || load.answers_of(&instance.name) > 20);
}

/// As an orchestrator does it that takes an instance out of the balancer and waits before it stops it.
fn replaced_after_it_has_left(leave: fn(&Balancer, &Instance, &Place), come_back: fn(&Balancer, &Place)) {
    let mut both = two_instances();
    let balancer = Balancer::haproxy();
    let load = Load::during(|load| {
        for (place, instance) in &mut both {
            leave(&balancer, instance, place);
            wait_until("the balancer", || !balancer.server(place.name).is_up());
            // From now on it gets no new connections, and those that it has go on.
            let total = balancer.server(place.name).total;
            load.go_on();
            assert_eq!(balancer.server(place.name).total, total, "{} is asked by new connections", place.name);
            stop(load, instance);
            load.go_on();
            replace(load, place, instance, |place| come_back(&balancer, place));
            assert!(balancer.server(place.name).is_up());
        }
    });
    load.assert_nothing_is_lost();
}

#[test]
fn instances_that_say_first_that_they_leave_are_replaced_and_nothing_is_lost() {
    if is_missing("haproxy")
        || !is_inside("rolling::instances_that_say_first_that_they_leave_are_replaced_and_nothing_is_lost")
    {
        return;
    }
    // The new one has the example's configuration again, so that nothing is to be told.
    replaced_after_it_has_left(|_, instance, _| instance.withdraw_health(), |_, _| ());
}

#[test]
fn what_haproxy_is_told_to_drain_is_replaced_and_stays_drained_until_it_is_told_to_use_it() {
    if is_missing("haproxy")
        || !is_inside("rolling::what_haproxy_is_told_to_drain_is_replaced_and_stays_drained_until_it_is_told_to_use_it")
    {
        return;
    }
    replaced_after_it_has_left(
        |balancer, _, place| balancer.set_state(place.name, "drain"),
        |balancer, place| {
            // DOWN, until the health check finds the new one.
            wait_until("a healthy instance", || balancer.server(place.name).status == "DRAIN");
            balancer.set_state(place.name, "ready");
        },
    );
}

/// As a rolling update does it that knows nothing of the balancer: the health check finds out when it is over.
fn replaced_by_sigterm_alone(balancer: fn() -> Balancer) {
    let mut both = two_instances();
    let _balancer = balancer();
    let load = Load::during(|load| {
        for (place, instance) in &mut both {
            wait_until("a slow download", || load.slow_downloads_of(&instance.name) > 0);
            stop(load, instance);
            load.go_on();
            replace(load, place, instance, |_| ());
        }
    });
    load.assert_nothing_is_lost();
}

#[test]
fn behind_haproxy_sigterm_alone_loses_nothing() {
    if is_missing("haproxy") || !is_inside("rolling::behind_haproxy_sigterm_alone_loses_nothing") {
        return;
    }
    replaced_by_sigterm_alone(Balancer::haproxy);
}

#[test]
fn behind_nginx_sigterm_alone_loses_nothing() {
    if is_missing("nginx") || !is_inside("rolling::behind_nginx_sigterm_alone_loses_nothing") || !has_stream_module() {
        return;
    }
    replaced_by_sigterm_alone(Balancer::nginx);
}

/// Whether nginx takes the example; without its module `stream` the test is skipped.
fn has_stream_module() -> bool {
    let output = command("nginx").args(["-t", "-e", "stderr", "-c"]).arg(example("nginx.conf")).output();
    let said = String::from_utf8_lossy(&output.expect("nginx runs").stderr).into_owned();
    let is_there = !said.contains("unknown directive \"stream\"");
    if !is_there {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "nginx has no module stream, and CI must not skip its tests"
        );
        eprintln!("skipped: nginx has no module stream (Debian's libnginx-mod-stream)");
    }
    is_there
}

/// The count counts: what was under way in an instance that is killed is lost, and is seen to be.
#[test]
fn an_instance_that_is_killed_loses_what_was_under_way() {
    if is_missing("haproxy") || !is_inside("rolling::an_instance_that_is_killed_loses_what_was_under_way") {
        return;
    }
    let [(_, one), (_, two)] = two_instances();
    let _balancer = Balancer::haproxy();
    let load = Load::during(|load| {
        wait_until("a slow download", || load.slow_downloads_of(&one.name) > 0);
        one.proxy.signal("KILL");
        load.go_on();
        assert!(load.answers_of(&two.name) > 0);
    });
    eprintln!("{load}");
    assert!(load.failed() > 0, "{load}");
}
