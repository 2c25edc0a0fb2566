//! Daemons that stop answering in the middle of calls and go on later: SIGSTOP and SIGCONT, on private libvirtd daemons
//! that serve libvirt's test driver. The client library must live through it, and so must what uses it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use support::{Runs as _, Stage, wait_for};

/// How long a daemon is frozen: longer than the client library takes to call a connection dead, which is four times
/// the second that lies between its questions with the `call_timeout`s of these tests.
const FROZEN: Duration = Duration::from_millis(4500);

/// Freezes the daemon for a while.
fn freeze(stage: &Stage, daemon: usize) {
    stage.daemons[daemon].signal("STOP");
    thread::sleep(FROZEN);
    stage.daemons[daemon].signal("CONT");
}

/// A controller that is to live until it is dropped.
struct Controller(Child);

impl Controller {
    /// Panics if it has ended.
    #[track_caller]
    fn assert_lives(&mut self, freezes: usize) {
        if let Some(status) = self.0.try_wait().unwrap() {
            panic!("vmss ended after {freezes} freezes: {status}");
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_controller_outlives_a_daemon_that_freezes_past_the_deadline_again_and_again() {
    let stage = Stage::new(&[1, 1]);
    stage.define(&[1, 1], 12, "[limits]\ncall_timeout = \"2s\"\n");
    stage.expect(0, "create");
    let run = stage
        .command("run --interval 1s")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut controller = Controller(run.unwrap());
    // Another one each time: who goes off again and again is started ever later.
    for (round, domain) in stage.daemons[1].domains().iter().enumerate() {
        if round > 0 {
            freeze(&stage, 1);
        }
        let off = stage.daemons[1]
            .connection()
            .lookup_domain_by_name(domain)
            .unwrap();
        off.destroy().unwrap();
        wait_for("the controller to start what went off", || {
            controller.assert_lives(round);
            stage.daemons[1].running().contains(domain)
        });
    }
}

/// No call is given up here: the daemon goes on before the deadline, though after the client library has called the
/// connection dead with several calls on their way.
#[test]
fn several_calls_at_once_on_a_daemon_that_freezes_for_less_than_the_deadline_end_one_by_one() {
    let stage = Stage::new(&[1]);
    let limits = "[limits]\ncall_timeout = \"11s\"\nstarts_per_host = 4\n";
    for round in 1..=3 {
        stage.define(&[1], 40, limits);
        let mut child = stage
            .command("create --progress json")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let made = |line: &String| line.contains("\"finished\"") && line.contains("create");
        told.find(made).expect("an instance is made");
        freeze(&stage, 0);
        let rest: Vec<String> = told.collect();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), None, "round {round}: {rest:#?}");
        stage.expect(0, "create");
        assert_eq!(stage.faults(40), Vec::<String>::new(), "round {round}");
        stage.expect(0, "delete --yes");
    }
}
