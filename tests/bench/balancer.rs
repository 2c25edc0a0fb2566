//! How long it takes to bring a real HAProxy level, by its Runtime API: 1,000 instances behind it.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its figures"
)]

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use vmss::balancer::Balancers as _;
use vmss::balancer::haproxy::Haproxies;
use vmss::health::State;
use vmss::membership::{Duty, Membership, Server};
use vmss::names::{InstanceId, Label, instance_name};

const INSTANCES: u32 = 1000;

fn members(set: &Label, duty: impl Fn(u32) -> Duty) -> Membership {
    let label = |text: &str| Label::new(text).unwrap();
    let server = |id: u32| Server {
        id: InstanceId(id.into()),
        name: instance_name(set, InstanceId(id.into())),
        fault_domain: label("a"),
        host: label("kvm1"),
        revision: Some(1),
        address: Ipv4Addr::from(0x7f01_0000 + id).into(),
        weight: 100,
        state: State::Healthy,
        duty: duty(id),
    };
    Membership {
        servers: (1..=INSTANCES).map(server).collect(),
    }
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = act();
    println!("{what}: {:.3} s", began.elapsed().as_secs_f64());
    result
}

/// The best of five.
fn best(what: &str, act: impl Fn()) {
    let once = || {
        let began = Instant::now();
        act();
        began.elapsed()
    };
    let best: Duration = (0..5).map(|_| once()).min().unwrap();
    println!("{what}: {:.3} s", best.as_secs_f64());
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let text = format!(
        "name = \"web\"\n[image]\nsource = \"i\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n\
         [[fault_domains]]\nname = \"a\"\nhosts = [{{ name = \"k\", uri = \"qemu:///system\" }}]\n\
         [health]\nprobe = \"tcp\"\nport = 80\ninterval = \"60s\"\n\
         [load_balancer]\nrun = \"local\"\n\
         [[load_balancer.frontends]]\nname = \"http\"\nbind = \"127.0.0.1:{port}\"\nport = 80\n"
    );
    let set = vmss::definition::parse(&text, Path::new("/x.toml")).unwrap();
    let balancer = Haproxies.of(&set, &folder.path().join("web")).remove(0);
    timed("start HAProxy", || {
        balancer.bring(&Membership::default()).unwrap()
    });
    let all = members(&set.name, |_| Duty::In);
    timed("1,000 instances join while it runs", || {
        balancer.bring(&all).unwrap()
    });
    assert_eq!(balancer.observe().unwrap().servers.len(), INSTANCES as usize);
    best("look at 1,000", || {
        balancer.observe().unwrap();
    });
    best("1,000 with nothing to do", || {
        assert!(balancer.bring(&all).unwrap().is_empty())
    });
    let fewer = members(&set.name, |id| if id % 10 == 0 { Duty::Out } else { Duty::In });
    timed("100 of 1,000 leave", || balancer.bring(&fewer).unwrap());
    let slow = vmss::scaleset::ScaleSet {
        load_balancer: set
            .load_balancer
            .clone()
            .map(|balancer| vmss::load_balancer::LoadBalancer {
                slow_start: Duration::from_secs(5),
                ..balancer
            }),
        ..set.clone()
    };
    let reloaded = Haproxies.of(&slow, &folder.path().join("web")).remove(0);
    timed("reload with 1,000", || reloaded.bring(&fewer).unwrap());
    timed("stop", || balancer.retire().unwrap());
}
