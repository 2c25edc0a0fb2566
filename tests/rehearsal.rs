//! The whole program on private libvirtd daemons that serve libvirt's test driver: real RPC, real processes, no guests.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use support::number::Number;
use support::{Runs, Stage, steps, wait_for};
use vmss::store::sqlite::Sqlite;
use vmss::store::{Holder, Store as _};

#[test]
fn scaling_keeps_balance_and_ids_and_does_exactly_what_was_planned() {
    let stage = Stage::new(&[1, 1, 1]);
    let mut used: BTreeSet<u64> = BTreeSet::new();
    let mut now: BTreeSet<u64> = BTreeSet::new();
    for (plan, act, capacity) in [
        ("plan", "create", 6),
        ("plan --scale 9", "scale 9", 9),
        ("plan --scale -5", "scale -5", 4),
        ("plan --scale 0", "scale 0", 0),
        ("plan --scale +3", "scale +3", 3),
    ] {
        let planned = stage.expect(0, &format!("{plan} -o json")).json();
        let done = stage.expect(0, &format!("{act} --yes -o json")).json();
        assert_eq!(
            steps(&planned["batches"]),
            steps(&done["done"]),
            "{act} did something else than was planned"
        );
        assert_eq!(stage.faults(capacity), Vec::<String>::new(), "after {act}");
        let ids: BTreeSet<u64> = stage.ids().into_iter().collect();
        for new in ids.difference(&now) {
            assert!(used.insert(*new), "id {new} was used before");
        }
        now = ids;
        let again = stage.expect(0, "plan --detailed-exitcode");
        assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    }
    stage.expect(10, "plan --scale 5 --detailed-exitcode");
    let planned = stage.expect(0, "plan --delete -o json").json();
    let done = stage.expect(0, "delete --yes -o json").json();
    assert_eq!(steps(&planned["batches"]), steps(&done["done"]));
    for daemon in &stage.daemons {
        assert_eq!(
            (daemon.domains(), daemon.volumes()),
            (vec![], vec![]),
            "a trace is left on {}",
            daemon.name
        );
    }
    stage.expect(0, "delete --yes");
    let history = stage.expect(0, "history -o json").json();
    assert_eq!(
        history.as_array().unwrap().len(),
        6,
        "a delete of what is gone is no operation"
    );
}

/// Other people's domain and volume, that must stay as they are.
fn put_foreign_things(stage: &Stage) {
    let c = stage.daemons[0].connection();
    c.define_domain_xml(
        "<domain type='test'><name>web-2</name><memory>1024</memory><os><type>hvm</type></os></domain>",
    )
    .unwrap();
    let pool = c.lookup_storage_pool_by_name("default-pool").unwrap();
    let xml = "<volume><name>web-1-00000000-os.qcow2</name><capacity>1024</capacity></volume>";
    virt::storage_vol::StorageVol::create_xml(&pool, xml, 0).unwrap();
}

fn take_foreign_things_away(stage: &Stage) {
    let c = stage.daemons[0].connection();
    c.lookup_domain_by_name("web-2")
        .expect("the foreign domain was touched")
        .undefine()
        .unwrap();
    let pool = c.lookup_storage_pool_by_name("default-pool").unwrap();
    pool.lookup_storage_vol_by_name("web-1-00000000-os.qcow2")
        .expect("the foreign volume was touched")
        .delete(0)
        .unwrap();
}

#[test]
fn a_domain_and_a_volume_that_are_not_ours_are_left_alone() {
    let stage = Stage::new(&[1, 1]);
    put_foreign_things(&stage);
    stage.expect(0, "create");
    assert!(
        !stage.daemons[1].domains().contains(&"web-2".to_owned()),
        "an id that is somebody else's name is passed over"
    );
    stage.expect(0, "scale 0 --yes");
    stage.expect(0, "delete --yes");
    take_foreign_things_away(&stage);
    for daemon in &stage.daemons {
        assert_eq!((daemon.domains(), daemon.volumes()), (vec![], vec![]));
    }
}

/// SIGKILL at many points of create, scale in and delete; the next run finds capacity met, nothing orphaned, nothing
/// double.
#[test]
fn killed_at_any_point_the_next_run_puts_everything_right() {
    let stage = Stage::new(&[1, 1, 1]);
    let mut kills = 0;
    for lines in (0..40).step_by(2) {
        let killed = stage.kill_after("create", lines);
        kills += usize::from(killed);
        stage.expect(0, "create");
        stage.expect(0, "scale 6 --yes");
        assert_eq!(
            stage.faults(6),
            Vec::<String>::new(),
            "create killed after {lines} lines"
        );
        kills += usize::from(stage.kill_after("scale 2 --yes", lines));
        stage.expect(0, "scale 2 --yes");
        assert_eq!(
            stage.faults(2),
            Vec::<String>::new(),
            "scale in killed after {lines} lines"
        );
        kills += usize::from(stage.kill_after("delete --yes", lines));
        stage.expect(0, "delete --yes");
        for daemon in &stage.daemons {
            let left = (daemon.domains(), daemon.volumes());
            assert_eq!(
                left,
                (vec![], vec![]),
                "delete killed after {lines} lines left something on {}",
                daemon.name
            );
        }
    }
    assert!(kills >= 20, "only {kills} runs were killed before their end");
}

/// SIGKILL at many points of a rollout of twelve in batches of two; `vmss upgrade` goes on from each.
#[test]
fn a_rollout_killed_at_any_point_goes_on_where_it_was() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.define(&[1, 1, 1], 12, "");
    stage.expect(0, "create");
    let (ids, places) = (stage.ids(), stage.domains());
    let mut kills = 0;
    for round in 0..20_u8 {
        let revision = u64::from(round) + 2;
        std::fs::write(stage.path("image.raw"), support::disk(round + 8)).unwrap();
        // The first event comes after the rollout was noted; a rollout has more than a hundred and thirty.
        let mut told = 0;
        let killed = stage.kill_when("apply", |line| {
            told += usize::from(line.contains("\"event\""));
            told > usize::from(round) * 6
        });
        kills += usize::from(killed);
        stage.expect(0, "upgrade");
        let when = format!("killed after {told} events");
        assert_eq!(stage.faults(12), Vec::<String>::new(), "{when}");
        assert_eq!(stage.ids(), ids, "{when} an id was not kept");
        assert_eq!(stage.domains(), places, "{when} an instance has changed its host");
        let listed = stage.expect(0, "instances -o json").json();
        let revisions: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["revision"].as_u64())
            .collect();
        assert_eq!(
            revisions,
            [Some(revision); 12],
            "{when} not every instance was upgraded"
        );
        let plan = stage.expect(0, "plan");
        assert!(plan.stdout.contains("nothing to do"), "{when}: {}", plan.stdout);
    }
    assert!(
        kills >= 15,
        "only {kills} of 20 rollouts were killed before their end"
    );
    stage.expect(0, "delete --yes");
    for daemon in &stage.daemons {
        let left = (daemon.domains(), daemon.volumes());
        assert_eq!(left, (vec![], vec![]), "something is left on {}", daemon.name);
    }
}

#[test]
fn of_two_at_once_one_works_and_the_other_waits_or_says_so() {
    let stage = Stage::new(&[1]);
    stage.expect(0, "create");
    let store = Sqlite::open(&stage.path("state.db")).unwrap();
    let mut me = Holder::me("test".into());
    me.doing = "hold the set".into();
    let lease = store
        .acquire("set/web", &me, Timestamp::UNIX_EPOCH, None)
        .unwrap();
    let refused = stage.expect(7, "scale 7");
    assert!(refused.stderr.contains("hold the set"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("capacity of 7 is recorded"),
        "{}",
        refused.stderr
    );
    assert_eq!(stage.ids().len(), 6);

    let mut waiting = stage
        .command("scale 8 --wait-lock 1m")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let first = told.next().unwrap().unwrap();
    assert!(first.contains("waiting for test"), "{first}");
    store.release(&lease).unwrap();
    let rest: Vec<String> = told.map_while(Result::ok).collect();
    assert!(waiting.wait().unwrap().success(), "{rest:?}");
    assert_eq!(stage.faults(8), Vec::<String>::new());
}

#[test]
fn a_frozen_daemon_costs_its_own_host_and_nothing_else() {
    let stage = Stage::new(&[1, 1, 1]);
    let quick = "[limits]\ncall_timeout = \"2s\"\n";
    stage.define(&[1, 1, 1], 6, quick);
    stage.expect(0, "create");
    stage.daemons[2].signal("STOP");
    for (args, exit) in [
        ("show", 0),
        ("instances", 0),
        ("plan", 0),
        ("scale 8", 4),
        ("scale 7 --yes", 4),
        ("host list", 4),
        ("check", 4),
        ("image list", 4),
        ("create", 4),
        ("apply", 4),
        ("delete --yes", 4),
    ] {
        let ran = stage.expect(exit, args);
        assert!(
            (ran.stdout + &ran.stderr).contains("kvm3"),
            "{args} does not name the host"
        );
    }
    stage.daemons[2].signal("CONT");
    stage.expect(0, "delete --yes");
    for daemon in &stage.daemons {
        assert_eq!((daemon.domains(), daemon.volumes()), (vec![], vec![]));
    }
}

/// Frozen in the middle of a command, not before it: the daemon stops once the first instance is being made.
#[test]
fn a_daemon_that_freezes_in_the_middle_is_named_and_the_others_go_on() {
    let stage = Stage::new(&[1, 1]);
    stage.define(&[1, 1], 40, "[limits]\ncall_timeout = \"2s\"\n");
    let mut child = stage
        .command("create --progress json")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let made =
        |line: &String| line.contains("\"finished\"") && line.contains("\"kvm2\"") && line.contains("create");
    told.find(made).expect("an instance is made on kvm2");
    stage.daemons[1].signal("STOP");
    let rest: Vec<String> = told.collect();
    let exit = child.wait().unwrap().code();
    stage.daemons[1].signal("CONT");
    // All that could be confirmed counts; what was lost with the host was made on the other one.
    assert!(matches!(exit, Some(0 | 4)), "{exit:?} {rest:?}");
    assert!(
        rest.iter().any(|l| l.contains("kvm2")
            && (l.contains("sign of life") || l.contains("not seen") || l.contains("host-unseen"))),
        "{rest:#?}"
    );
    stage.expect(0, "scale 40 --yes");
    assert_eq!(stage.ids().len(), 40);
    stage.expect(0, "delete --yes");
}

#[test]
fn a_host_that_is_down_is_named_and_the_others_take_its_share() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.daemons[2].signal("KILL");
    let ran = stage.expect(0, "create");
    assert!(ran.stderr.contains("host kvm3 was not seen"), "{}", ran.stderr);
    let counts: Vec<usize> = stage.daemons[..2].iter().map(|d| d.domains().len()).collect();
    assert_eq!(counts, [3, 3]);
    stage.expect(0, "scale 9");
    let counts: Vec<usize> = stage.daemons[..2].iter().map(|d| d.domains().len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 9);
}

#[test]
fn strict_spread_refuses_while_a_domain_is_down() {
    let stage = Stage::new(&[1, 1, 1]);
    stage.define(
        &[1, 1, 1],
        6,
        "[placement]\nmemory_reserve = \"16 MiB\"\nspread = \"strict\"\n",
    );
    stage.daemons[2].signal("KILL");
    let ran = stage.expect(5, "create");
    assert!(
        ran.stderr
            .contains("strict spread refuses 6 more: fault domain rack-2"),
        "{}",
        ran.stderr
    );
    assert!(stage.daemons[..2].iter().all(|d| d.domains().is_empty()));
}

#[test]
fn a_lost_store_is_made_again_from_the_instances() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    std::fs::remove_file(stage.path("state.db")).unwrap();
    let refused = stage.expect(5, "create");
    assert!(
        refused.stderr.contains("vmss state adopt") || refused.stderr.contains("state rebuild"),
        "{}",
        refused.stderr
    );
    stage.expect(0, "state rebuild --yes");
    stage.expect(0, "scale 8");
    assert_eq!(stage.ids(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(stage.faults(8), Vec::<String>::new());
    stage.expect(0, "delete --yes");
    for daemon in &stage.daemons {
        assert_eq!(
            (daemon.domains(), daemon.volumes()),
            (vec![], vec![]),
            "also what an earlier store had named is gone"
        );
    }
}

#[test]
fn the_controller_mends_what_breaks_carries_out_what_is_asked_and_stops_cleanly() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let socket = std::os::unix::net::UnixDatagram::bind(stage.path("notify")).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    let hear = |wanted: &str| {
        let mut heard = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let n = match socket.recv(&mut bytes) {
                Ok(n) => n,
                // The machine was suspended: with a deadline on the socket that shows.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => panic!("never heard {wanted} ({e}): {heard:?}"),
            };
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            if text.contains(wanted) {
                return;
            }
            heard.push(text);
        }
    };
    let child = stage
        .command("run --interval 1s")
        .env("NOTIFY_SOCKET", stage.path("notify"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    hear("READY=1");
    hear("STATUS=web: converged, 6 of 6 running");
    hear("WATCHDOG=1");
    let gone = stage.daemons[0]
        .connection()
        .lookup_domain_by_name("web-1")
        .unwrap();
    gone.destroy().unwrap();
    wait_for("the controller to start it", || {
        stage.daemons[0].running().contains(&"web-1".to_owned())
    });
    stage.expect(0, "scale 8 --wait-lock 30s");
    wait_for("eight instances", || stage.faults(8).is_empty());
    hear("STATUS=web: converged, 8 of 8 running");
    let terminated = std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(terminated.success());
    hear("STOPPING=1");
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{told}");
    assert!(told.contains("start web-1 (it is off)"), "{told}");
    assert_eq!(
        told.matches("web: converged, 6 of 6 running").count(),
        1,
        "one line for each decision, not one for each look: {told}"
    );
    let history = stage.expect(0, "history -o json").json();
    let verbs: Vec<&str> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["verb"].as_str().unwrap())
        .collect();
    assert!(verbs.contains(&"run"), "what it did is in the history: {verbs:?}");
}

#[test]
fn a_second_store_is_refused_until_it_adopts_the_set() {
    let mut stage = Stage::new(&[1]);
    stage.expect(0, "create");
    stage.store = "other.db".into();
    stage.expect(5, "create");
    stage.expect(0, "state adopt --yes");
    stage.expect(0, "scale 7");
    stage.store = "state.db".into();
    let refused = stage.expect(5, "scale 3 --yes");
    assert!(refused.stderr.contains("another store"), "{}", refused.stderr);
    assert_eq!(stage.ids().len(), 7);
}

#[test]
fn a_prune_takes_unused_images_of_its_own_store_only() {
    let mut stage = Stage::new(&[1]);
    stage.expect(0, "create");
    let images = |stage: &Stage| {
        stage.daemons[0]
            .volumes()
            .iter()
            .filter(|v| v.starts_with("vmss-base-"))
            .count()
    };
    let used = stage.expect(0, "image prune --yes");
    assert!(used.stderr.contains("no image to prune"), "{}", used.stderr);
    stage.expect(0, "scale 0 --yes");
    stage.store = "other.db".into();
    stage.expect(0, "image prune --yes");
    assert_eq!(images(&stage), 2, "another store's image and its mark stay");
    stage.store = "state.db".into();
    let pruned = stage.expect(0, "image prune --yes");
    assert!(pruned.stderr.contains("1 image deleted"), "{}", pruned.stderr);
    assert_eq!(images(&stage), 0);
}

#[test]
fn what_was_switched_off_behind_our_back_is_started_and_what_was_deleted_is_replaced() {
    let stage = Stage::new(&[1, 1]);
    stage.expect(0, "create");
    let c = stage.daemons[0].connection();
    c.lookup_domain_by_name("web-1").unwrap().destroy().unwrap();
    let gone = c.lookup_domain_by_name("web-3").unwrap();
    gone.destroy().unwrap();
    gone.undefine().unwrap();
    let ran = stage.expect(0, "scale +0 --yes");
    assert!(ran.stderr.contains("start web-1 (it is off)"), "{}", ran.stderr);
    let disk = stage.daemons[0]
        .volumes()
        .into_iter()
        .find(|v| v.starts_with("web-3-"))
        .unwrap();
    assert!(
        ran.stderr
            .contains(&format!("vmss state sweep {disk} deletes it")),
        "the disk of the deleted one is told, and nobody has asked for it to go: {}",
        ran.stderr
    );
    stage.expect(0, &format!("state sweep {disk} --yes"));
    assert_eq!(stage.faults(6), Vec::<String>::new());
    assert!(stage.ids().contains(&7) && !stage.ids().contains(&3));
}

#[test]
fn a_pool_that_is_not_active_hides_no_host_and_loses_no_disk() {
    let stage = Stage::new(&[1, 1]);
    stage.define(&[1, 1], 4, "[repair]\nenabled = true\nhost_lost_after = \"1m\"\n");
    stage.expect(0, "create");
    let pool = || {
        let connection = stage.daemons[1].connection();
        connection.lookup_storage_pool_by_name("default-pool").unwrap()
    };
    let (volumes, domains) = (stage.daemons[1].volumes(), stage.daemons[1].domains());
    pool().destroy().unwrap();
    let ran = stage.expect(0, "repair");
    assert!(ran.stderr.contains("pool default-pool on"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("given up"), "{}", ran.stderr);
    let shown = stage.expect(0, "show -o json").json();
    assert_eq!(shown["report"]["running"], 4, "{shown}");
    assert_eq!(
        (&shown["hosts"][1]["seen"], &shown["hosts"][1]["pool_seen"]),
        (&true.into(), &false.into())
    );
    stage.expect(0, "scale 5");
    assert_eq!(
        stage.daemons[0].domains().len(),
        3,
        "the new one is where there is a pool"
    );
    stage.expect(4, "delete --yes");
    assert_eq!(stage.daemons[0].domains(), Vec::<String>::new());
    assert_eq!(stage.daemons[1].running().len(), domains.len());
    pool().create(0).unwrap();
    assert_eq!(
        (stage.daemons[1].volumes(), stage.daemons[1].domains()),
        (volumes, domains)
    );
    stage.expect(0, "delete --yes");
    assert_eq!(stage.daemons[1].volumes(), Vec::<String>::new());
}

#[test]
fn bad_input_is_refused_with_its_reason_and_nothing_is_made() {
    let stage = Stage::new(&[1]);
    stage.define(&[1], 6, "");
    let text = std::fs::read_to_string(stage.path("scaleset.toml")).unwrap();
    let with =
        |from: &str, to: &str| std::fs::write(stage.path("scaleset.toml"), text.replace(from, to)).unwrap();
    with("name = \"web\"", "name = \"We_b\"");
    assert!(
        stage
            .expect(3, "create")
            .stderr
            .contains("may not stand in a name")
    );
    with("image.raw", "missing.qcow2");
    assert!(stage.expect(3, "create").stderr.contains("missing.qcow2"));
    with("default-pool", "nowhere");
    assert!(stage.expect(4, "create").stderr.contains("nowhere"));
    with("test+unix:///default?", "test+ext:///default?command=/bin/sh&");
    assert!(stage.expect(3, "create").stderr.contains("it runs a program"));
    with("32 MiB", "64 GiB");
    let ran = stage.expect(5, "create");
    assert!(ran.stderr.contains("no room for 6 more"), "{}", ran.stderr);
    stage.expect(0, "delete --yes");
    std::fs::write(stage.path("scaleset.toml"), &text).unwrap();
    assert_eq!(
        (stage.daemons[0].domains(), stage.daemons[0].volumes()),
        (vec![], vec![])
    );
    stage.expect(2, "scale nine");
    stage.expect(1, "scale 3");
    stage.expect(0, "create");
    stage.expect(2, "scale 3");
    stage.expect(2, "delete");
    stage.expect(2, "scale -7 --yes");
    assert_eq!(stage.faults(6), Vec::<String>::new());
}

#[test]
fn an_interrupt_finishes_what_is_in_flight_and_says_what_is_left() {
    let stage = Stage::new(&[1]);
    stage.define(&[1], 60, "");
    let mut child = stage
        .command("create")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    told.find(|l| l.contains("create web-1 done")).unwrap();
    let ok = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap()
        .success();
    assert!(ok);
    let rest: Vec<String> = told.collect();
    let exit = child.wait().unwrap().code();
    // On a fast machine all may be done before the signal arrives.
    if exit == Some(130) {
        assert!(
            rest.iter().any(|l| l.contains("interrupted; left to do: create")),
            "{rest:#?}"
        );
        assert!(stage.ids().len() < 60);
    } else {
        assert_eq!(exit, Some(0), "{rest:#?}");
    }
    let running = stage.daemons[0].running().len();
    assert_eq!(running, stage.ids().len(), "nothing is half-made");
    stage.expect(0, "create");
    assert_eq!(stage.ids().len(), 60);
    wait_for("the lease to be given back", || {
        stage.vmss("show").stdout.contains("stable, 60 of 60")
    });
}

/// A stage whose store is on a small disk: a tmpfs that only those see who enter where it is mounted.
struct OnSmallDisk {
    stage: Stage,
    /// Keeps the mount as long as it lives: until its standard input is closed.
    holder: Child,
}

impl OnSmallDisk {
    /// `None` where nobody may mount anything.
    fn new(mut stage: Stage) -> Option<Self> {
        std::fs::create_dir(stage.path("small")).unwrap();
        stage.store = "small/state.db".into();
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=2m tmpfs small && echo mounted && exec cat")
            .current_dir(stage.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let mut reader = BufReader::new(holder.stdout.take().unwrap());
        reader.read_line(&mut said).unwrap();
        let small = Self { stage, holder };
        (said == "mounted\n").then_some(small)
    }

    /// A command in the stage's folder that sees the disk. The folder is gone to inside: from outside it would be one
    /// without the disk.
    fn entered(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--mount", "--", "sh", "-c", "cd \"$0\" && exec \"$@\""])
            .arg(self.stage.folder.path())
            .arg(program);
        command
    }

    /// Takes all the room that is left on the disk, or gives it back.
    fn fill(&self, full: bool) {
        let script = match full {
            // Never more than it has, wherever that goes.
            true => "! head -c 2m /dev/zero >small/filler",
            false => "rm small/filler",
        };
        let status = self
            .entered("sh")
            .args(["-c", script])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{script}");
    }
}

impl Runs for OnSmallDisk {
    fn folder(&self) -> &Path {
        self.stage.folder()
    }
    fn store_name(&self) -> &str {
        self.stage.store_name()
    }
    fn command(&self, args: &str) -> Command {
        let outside = self.stage.command(args);
        let mut command = self.entered(outside.get_program());
        command.args(outside.get_args()).stdin(Stdio::null());
        for (key, value) in outside.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command
    }
}

impl Drop for OnSmallDisk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

#[test]
fn with_the_disk_of_the_store_full_the_capacity_stays_and_the_reason_is_said() {
    let stage = Stage::new(&[1, 1]);
    let demand = Number::new(10);
    let rule = |condition: &str, scale: &str| {
        format!(
            "[[autoscale.rules]]\nwhen = \"demand {condition} last 0s\"\nscale = \"{scale}\"\ncooldown = \"0s\"\n"
        )
    };
    let policy = format!(
        "[autoscale]\nmin = 2\nmax = 8\nwarm_up = \"0s\"\nstabilization = \"0s\"\n\
         [autoscale.metrics.demand]\nhttp = \"http://{}/\"\npointer = \"/demand\"\nof = \"instance\"\n{}{}",
        demand.address,
        rule("> 50", "out 1"),
        rule("< 20", "in 1")
    );
    stage.define(&[1, 1], 6, &policy);
    let Some(small) = OnSmallDisk::new(stage) else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: a mount of one's own is not allowed here"
        );
        return;
    };
    let capacity = || small.expect(0, "autoscale status -o json").json()["capacity"].clone();
    small.expect(0, "create");
    small.expect(0, "autoscale");
    assert_eq!(capacity(), 5);
    for number in [10, 90] {
        demand.set(number);
        small.fill(true);
        let said = small.expect(4, "autoscale").stderr;
        assert!(said.contains("the disk is full"), "{said}");
        assert!(said.contains("state.db"), "which disk is said: {said}");
        assert_eq!(small.stage.ids().len(), 5, "nothing is made and nothing deleted");
        small.fill(false);
        assert_eq!(
            capacity(),
            5,
            "a demand of {number} has left no trace in the record"
        );
    }
    small.expect(0, "autoscale");
    assert_eq!(capacity(), 6);
    assert_eq!(small.stage.faults(6), Vec::<String>::new());
}
