//! The renderers of the event stream, to the character: lines and JSON with a clock that stands still, bars as a
//! terminal shows them.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{InMemoryTerm, ProgressDrawTarget, TermLike as _};
use jiff::Timestamp;

use crate::event::{Event, Listener};
use crate::hypervisor::{FaultKind, Stage};
use crate::model::ImageDigest;
use crate::names::Label;
use crate::plan::action::{Action, Step};
use crate::plan::testing::label;
use crate::ui::bars::Bars;
use crate::ui::json_events::JsonEvents;
use crate::ui::lines::{Level, Lines};
use crate::ui::table::Table;
use crate::world::Output;

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn noon() -> Timestamp {
    "2026-11-23T12:00:00.123Z".parse().unwrap()
}

fn lines(level: Level, events: &[Event]) -> String {
    let page = Page::default();
    let lines = Lines::new(Output::new(page.clone()), noon, level);
    events.iter().for_each(|e| lines.event(e));
    page.text()
        .lines()
        .map(|l| {
            let said = l
                .strip_prefix("2026-11-23T12:00:00Z ")
                .expect("every line has its time");
            format!("{said}\n")
        })
        .collect()
}

fn push(host: &str) -> Step {
    let digest = ImageDigest("ab".repeat(32));
    Step {
        host: label(host),
        action: Action::PushImage { digest },
        why: "web-1 needs it".into(),
    }
}

fn volume(host: &str, volume: &str) -> Step {
    let action = Action::DeleteVolume {
        volume: volume.into(),
        cause: crate::warrants::Cause::UnfinishedDeletion,
    };
    Step {
        host: label(host),
        action,
        why: "no instance owns it".into(),
    }
}

fn started(number: u64, step: &Step) -> Event {
    Event::Started {
        number,
        host: step.host.clone(),
        verb: step.action.verb(),
        subject: step.action.subject(),
        why: step.why.to_string(),
    }
}

fn stage(number: u64, step: &Step, stage: Stage) -> Event {
    Event::Stage {
        number,
        host: step.host.clone(),
        subject: step.action.subject(),
        stage,
    }
}

fn finished(number: u64, step: &Step) -> Event {
    Event::Finished {
        number,
        host: step.host.clone(),
        verb: step.action.verb(),
        subject: step.action.subject(),
        took: Duration::from_millis(420),
        kept: false,
    }
}

fn failed(number: u64, step: &Step, error: &str) -> Event {
    Event::Failed {
        number,
        host: step.host.clone(),
        verb: step.action.verb(),
        subject: step.action.subject(),
        kind: FaultKind::NoSpace,
        error: error.into(),
    }
}

fn bytes(number: u64, done: u64) -> Event {
    Event::Bytes {
        number,
        done,
        total: 400 << 20,
    }
}

/// A run with something of everything.
fn run() -> Vec<Event> {
    let (image, left, right) = (
        push("kvm1"),
        volume("kvm2", "web-3-os.qcow2"),
        volume("kvm2", "web-4-os.qcow2"),
    );
    let mut events = vec![
        Event::HostUnseen {
            host: label("kvm3"),
            reason: "no route\nto \u{1b}[31mhost".into(),
        },
        Event::Batch {
            number: 1,
            steps: vec![image.clone(), left.clone(), right.clone()],
        },
        started(1, &image),
        stage(1, &image, Stage::Upload),
    ];
    events.extend((0..=100).map(|i| bytes(1, i * (4 << 20))));
    events.extend([
        stage(1, &image, Stage::Verify),
        bytes(1, 200 << 20),
        finished(1, &image),
        started(2, &left),
        started(3, &right),
        failed(2, &left, "deleting volume web-3-os.qcow2: pool default is full\n"),
        Event::Interrupted { in_flight: 1 },
        Event::Interrupted { in_flight: 1 },
        finished(3, &right),
        Event::Note {
            text: "the set is paused".into(),
        },
    ]);
    events
}

#[test]
fn quiet_lines_tell_what_failed_or_was_found() {
    assert_eq!(
        lines(Level::Failures, &run()),
        "warning: host kvm3 was not seen: no route to [31mhost
error: kvm2: delete volume web-3-os.qcow2 failed: deleting volume web-3-os.qcow2: pool default is full
interrupted: waiting for 1 action in flight; Ctrl-C again exits at once
the set is paused
"
    );
}

#[test]
fn lines_tell_actions() {
    assert_eq!(
        lines(Level::Actions, &run()),
        "warning: host kvm3 was not seen: no route to [31mhost
batch 1: 3 steps
kvm1: push image abababababab (web-1 needs it)
kvm1: push image abababababab done in 0.4s
kvm2: delete volume web-3-os.qcow2 (no instance owns it)
kvm2: delete volume web-4-os.qcow2 (no instance owns it)
error: kvm2: delete volume web-3-os.qcow2 failed: deleting volume web-3-os.qcow2: pool default is full
interrupted: waiting for 1 action in flight; Ctrl-C again exits at once
kvm2: delete volume web-4-os.qcow2 done in 0.4s
the set is paused
"
    );
}

#[test]
fn verbose_lines_tell_stages_and_every_tenth_of_the_bytes() {
    let said = lines(Level::Stages, &run());
    let of_image: Vec<&str> = said.lines().filter(|l| l.starts_with("kvm1")).collect();
    assert_eq!(of_image.len(), 15, "{said}");
    assert_eq!(
        of_image[1..4],
        [
            "kvm1: push image abababababab: sending",
            "kvm1: push image abababababab: sending 10 % of 400.0 MiB",
            "kvm1: push image abababababab: sending 20 % of 400.0 MiB",
        ]
    );
    assert_eq!(
        of_image[11..14],
        [
            "kvm1: push image abababababab: sending 100 % of 400.0 MiB",
            "kvm1: push image abababababab: verifying",
            "kvm1: push image abababababab: verifying 50 % of 400.0 MiB",
        ]
    );
}

#[test]
fn what_was_given_up_says_no_more() {
    let image = push("kvm1");
    let late = [
        started(1, &image),
        failed(1, &image, "no sign of life"),
        stage(1, &image, Stage::Verify),
        bytes(1, 400 << 20),
    ];
    assert_eq!(lines(Level::Stages, &late).lines().count(), 2);
    // Its number is another's by now.
    let other = volume("kvm2", "x.qcow2");
    let late = [started(1, &other), stage(1, &image, Stage::Verify)];
    assert_eq!(lines(Level::Stages, &late).lines().count(), 1);
}

#[test]
fn json_is_an_object_a_line_with_its_time() {
    let page = Page::default();
    let json = JsonEvents::new(Output::new(page.clone()), noon);
    run().iter().for_each(|e| json.event(e));
    let text = page.text();
    let told: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(told.len(), run().len());
    assert!(
        told.iter()
            .all(|t| t["at"] == "2026-11-23T12:00:00.123Z" && t["event"].is_string())
    );
    let line = |event: &str| {
        text.lines()
            .find(|l| l.contains(&format!("\"event\":\"{event}\"")))
            .unwrap()
    };
    assert_eq!(
        line("started"),
        r#"{"at":"2026-11-23T12:00:00.123Z","event":"started","number":1,"host":"kvm1","verb":"push image","subject":"abababababab","why":"web-1 needs it"}"#
    );
    assert_eq!(
        line("finished"),
        r#"{"at":"2026-11-23T12:00:00.123Z","event":"finished","number":1,"host":"kvm1","verb":"push image","subject":"abababababab","took":0.42}"#
    );
    assert_eq!(
        line("stage"),
        r#"{"at":"2026-11-23T12:00:00.123Z","event":"stage","number":1,"host":"kvm1","subject":"abababababab","stage":"upload"}"#
    );
    assert!(line("failed").contains(r#""kind":"no-space""#));
    assert!(line("batch").contains(r#""do":"push-image""#));
}

// ---- bars ----

fn screen() -> (InMemoryTerm, Bars) {
    let term = InMemoryTerm::new(12, 80);
    // Without a rate, every change is drawn.
    let bars = Bars::on(ProgressDrawTarget::term_like(Box::new(term.clone())));
    (term, bars)
}

fn batch(steps: &[&Step]) -> Event {
    Event::Batch {
        number: 1,
        steps: steps.iter().map(|s| (*s).clone()).collect(),
    }
}

#[test]
fn each_host_has_a_bar_with_what_is_under_way() {
    let (term, bars) = screen();
    let (a, b, c) = (volume("kvm1", "a"), volume("kvm1", "b"), volume("kvm-long", "c"));
    bars.event(&batch(&[&a, &b, &c]));
    assert_eq!(
        term.contents(),
        "kvm1     [                ]    0/2
kvm-long [                ]    0/1"
    );
    bars.event(&started(1, &a));
    bars.event(&started(2, &b));
    bars.event(&stage(1, &a, Stage::DeleteDisks));
    bars.event(&started(3, &c));
    assert_eq!(
        term.contents(),
        "kvm1     [                ]    0/2    delete volume a: deleting disks (+1)
kvm-long [                ]    0/1    delete volume c"
    );
    bars.event(&finished(1, &a));
    bars.event(&failed(3, &c, "it is\nbusy"));
    assert_eq!(
        term.contents(),
        "error: kvm-long: delete volume c failed: it is busy
kvm1     [========>       ]    1/2    delete volume b
kvm-long [================]    1/1    1 action failed"
    );
    bars.event(&finished(2, &b));
    bars.event(&Event::Note {
        text: "looking again".into(),
    });
    assert_eq!(
        term.contents(),
        "error: kvm-long: delete volume c failed: it is busy
looking again
kvm1     [================]    2/2    done
kvm-long [================]    1/1    1 action failed"
    );
}

#[test]
fn bytes_have_a_bar_of_their_own_below_their_host() {
    let (term, bars) = screen();
    let (image, other) = (push("kvm1"), volume("kvm2", "a"));
    bars.event(&batch(&[&image, &other]));
    bars.event(&started(1, &image));
    bars.event(&stage(1, &image, Stage::Upload));
    bars.event(&bytes(1, 100 << 20));
    let shown = term.contents();
    let shown: Vec<&str> = shown.lines().collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert_eq!(
        shown[0],
        "kvm1 [                ]    0/1    push image abababababab: sending"
    );
    // The rate and what is left come from indicatif's own clock.
    assert!(
        shown[1].starts_with("     [====>           ] 100.00 MiB of 400.00 MiB, "),
        "{}",
        shown[1]
    );
    assert!(
        shown[1].contains("iB/s, ") && shown[1].ends_with("s left"),
        "{}",
        shown[1]
    );
    assert_eq!(shown[2], "kvm2 [                ]    0/1");
    bars.event(&stage(1, &image, Stage::Verify));
    bars.event(&bytes(1, 300 << 20));
    assert!(
        term.contents()
            .contains("abababababab: verifying\n     [============>   ] 300.00 MiB")
    );
    bars.event(&finished(1, &image));
    assert_eq!(
        term.contents(),
        "kvm1 [================]    1/1    done\nkvm2 [                ]    0/1"
    );
    // What was given up and comes back to life draws nothing.
    bars.event(&stage(1, &image, Stage::Verify));
    bars.event(&bytes(1, 1 << 20));
    assert_eq!(term.contents().lines().count(), 2);
}

#[test]
fn the_next_batch_takes_the_place_of_the_last() {
    let (term, bars) = screen();
    let (a, b) = (volume("kvm1", "a"), volume("kvm2", "b"));
    bars.event(&batch(&[&a]));
    bars.event(&started(1, &a));
    bars.event(&failed(1, &a, "no"));
    bars.event(&batch(&[&b]));
    assert_eq!(
        term.contents(),
        "error: kvm1: delete volume a failed: no\nkvm2 [                ]    0/1"
    );
}

#[test]
fn an_end_before_the_end_leaves_what_was_written_below() {
    let (term, bars) = screen();
    let (a, b) = (volume("kvm1", "a"), volume("kvm1", "b"));
    // Several bars, since one alone would wipe only the empty line that the cursor is on.
    let (c, d) = (volume("kvm2", "c"), volume("kvm3", "d"));
    bars.event(&batch(&[&a, &b, &c, &d]));
    bars.event(&started(1, &a));
    bars.event(&Event::Interrupted { in_flight: 1 });
    bars.event(&Event::Interrupted { in_flight: 1 });
    bars.event(&finished(1, &a));
    term.write_line("").unwrap();
    term.write_line("interrupted; left to do: delete volume b")
        .unwrap();
    drop(bars);
    assert_eq!(
        term.contents(),
        "interrupted: waiting for 1 action in flight; Ctrl-C again exits at once
kvm1 [========>       ]    1/2    delete volume a: done
kvm2 [                ]    0/1
kvm3 [                ]    0/1
interrupted; left to do: delete volume b"
    );
}

#[test]
fn what_is_said_before_any_bar_is_said() {
    let (term, bars) = screen();
    bars.event(&Event::HostUnseen {
        host: Label::new("kvm3").unwrap(),
        reason: "no route".into(),
    });
    assert_eq!(term.contents(), "warning: host kvm3 was not seen: no route");
}

// ---- tables ----

#[test]
fn a_narrow_terminal_wraps_the_last_column_only() {
    let mut table = Table::new(["HOST", "INSTANCES", "WHY"]).right(1);
    table.row([
        "kvm-with-a-long-name".into(),
        "2".into(),
        "capacity is 9, 6 are there, and the rack beside it is full".into(),
    ]);
    table.row(["kvm1".into(), "11".into(), String::new()]);
    assert_eq!(
        table.render(Some(64)),
        "\
HOST                  INSTANCES  WHY
kvm-with-a-long-name          2  capacity is 9, 6 are there, and
                                 the rack beside it is full
kvm1                         11"
    );
    for width in [None, Some(200)] {
        assert_eq!(table.render(width).lines().count(), 3);
    }
}

#[test]
fn names_are_never_broken() {
    let mut table = Table::new(["NAME", "HOST", "DEFINITION"]);
    table.row(["web-".repeat(8), "kvm-".repeat(8), "/etc/vmss/web.toml".into()]);
    let shown = table.render(Some(60));
    assert!(
        shown.contains(&"web-".repeat(8)) && shown.contains(&"kvm-".repeat(8)),
        "{shown}"
    );
    assert!(shown.lines().all(|l| l == l.trim_end()));
}
