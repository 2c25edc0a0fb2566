//! Load balancers: what every one must do, on the fake and on real HAProxies; and what only a real one can show.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod contract;
mod guests;
mod real;
mod subject;

use subject::{Elsewhere, Fake, Local, Subject};

fn run(new: impl Fn() -> Box<dyn Subject>) {
    for (name, situation) in contract::SITUATIONS {
        println!("{name}");
        situation(&*new());
    }
}

#[test]
fn the_contract_holds_on_the_fake() {
    run(|| Box::new(Fake::new()));
}

#[test]
fn the_contract_holds_on_a_haproxy_that_vmss_runs() {
    run(|| Box::new(Local::new()));
}

#[test]
fn the_contract_holds_on_a_haproxy_that_runs_already() {
    run(|| Box::new(Elsewhere::new()));
}
