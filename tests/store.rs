//! The stores: the contract on each, and what only a file shared by processes can get wrong.

#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

mod store_contract;

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rusqlite::Connection;
use store_contract::{at, holder, increment, label, liveness, record};
use tempfile::TempDir;
use vmss::autoscale::{Counter, Readings};
use vmss::names::InstanceId;
use vmss::store::memory::Memory;
use vmss::store::sqlite::Sqlite;
use vmss::store::{Holder, Store, StoreError, Version};

#[test]
fn memory_keeps_the_contract() {
    store_contract::check(&Memory::default().judging(liveness()));
}

#[test]
fn sqlite_keeps_the_contract() {
    let (_folder, path) = fresh();
    store_contract::check(&Sqlite::open(&path).unwrap().judging(liveness()));
}

fn fresh() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/vmss/state.db");
    (folder, path)
}

/// What opening says went wrong.
fn refusal(path: &Path) -> String {
    match Sqlite::open(path) {
        Ok(_) => panic!("it must be refused"),
        Err(e @ StoreError::Broken { .. }) => {
            assert!(e.to_string().contains(path.to_str().unwrap()), "{e}");
            e.to_string()
        }
        Err(e) => panic!("{e}"),
    }
}

// ---- the file ----

#[test]
fn what_is_stored_is_there_at_the_next_opening() {
    let (_folder, path) = fresh();
    let first = Sqlite::open(&path).unwrap();
    let version = first.put(&label("web"), &record("web", 3), None).unwrap();
    let id = first.id().unwrap();
    drop(first);
    let second = Sqlite::open(&path).unwrap();
    assert_eq!(second.id().unwrap(), id);
    assert_eq!(
        second.get(&label("web")).unwrap(),
        Some((record("web", 3), version))
    );
}

#[test]
fn nobody_else_may_read_it() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    store.put(&label("web"), &record("web", 3), None).unwrap();
    let folder = path.parent().unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o700);
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert!(
        files.len() >= 2,
        "the log written ahead lies beside it: {files:?}"
    );
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_store_that_others_may_write_is_refused_with_what_to_do() {
    let (_folder, path) = fresh();
    drop(Sqlite::open(&path).unwrap());
    let mode = |bits| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
    for bits in [0o666, 0o660] {
        mode(bits);
        let said = refusal(&path);
        assert!(
            said.contains("others may write to it") || said.contains("chmod go-w"),
            "{said}"
        );
    }
    mode(0o640);
    drop(Sqlite::open(&path).unwrap());
    // A log that somebody has put beside it would be taken for its newest part.
    let log = path.with_file_name("state.db-wal");
    std::os::unix::fs::symlink("/etc/passwd", &log).unwrap();
    let said = refusal(&path);
    assert!(said.contains("symbolic link"), "{said}");
    std::fs::remove_file(&log).unwrap();
    // Where an operator keeps it elsewhere, a link of his own leads to it.
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    drop(Sqlite::open(&link).unwrap());
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let (_folder, path) = fresh();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(
        &path,
        "not a database, but long enough to be looked at as one. ".repeat(20),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(refusal(&path).contains("vmss state rebuild"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::remove_file(&path).unwrap();

    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    assert!(refusal(&path).contains("another program's"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_of_a_later_vmss_is_refused() {
    let (_folder, path) = fresh();
    drop(Sqlite::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let said = refusal(&path);
    assert!(said.contains("a later vmss") && said.contains("99"), "{said}");
}

#[test]
fn a_file_of_the_first_layout_is_brought_up() {
    let (_folder, path) = fresh();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("store_contract/layout-1.sql"))
        .unwrap();
    old.execute(
        "INSERT INTO records VALUES ('web', 7, ?1)",
        [serde_json::to_string(&record("web", 3)).unwrap()],
    )
    .unwrap();
    drop(old);
    let store = Sqlite::open(&path).unwrap();
    assert_eq!(
        store.id().unwrap().to_string(),
        "5eed0000-0000-4000-8000-000000000001"
    );
    let (read, version) = store.get(&label("web")).unwrap().unwrap();
    assert_eq!((read.capacity, version.0), (3, 7));
    let new = store
        .put(&label("web"), &record("web", 4), Some(version))
        .unwrap();
    assert!(new > version);
    let lease = store
        .acquire("set/web", &Holder::me("ann".into()), at(0), None)
        .unwrap();
    assert!(lease.token > new.0, "one counter for all");
}

/// A store as today's predecessor left it: see the file.
fn of_the_third_layout(path: &Path) -> Connection {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let old = Connection::open(path).unwrap();
    old.execute_batch(include_str!("store_contract/layout-3.sql"))
        .unwrap();
    old
}

fn assert_it_is_the_set_of_the_third_layout(store: &Sqlite) -> (vmss::record::Record, Version) {
    assert_eq!(store.sets().unwrap(), [label("web")]);
    let (record, version) = store.get(&label("web")).unwrap().unwrap();
    assert_eq!(version, Version(27));
    assert_eq!((record.capacity, record.next_id), (6, InstanceId(7)));
    assert_eq!((record.known.len(), record.models.len()), (6, 2));
    assert_eq!(record.current().number, 2);
    assert_eq!(record.timed[0].by, "ann@ops1");
    assert!(record.cordons.contains_key(&label("k1")));
    assert_eq!(store.history(None, 10).unwrap().len(), 3);
    assert_eq!(store.decisions(&label("web"), 10).unwrap().len(), 1);
    (record, version)
}

#[test]
fn a_file_of_the_third_layout_is_brought_up_with_its_record() {
    let (_folder, path) = fresh();
    drop(of_the_third_layout(&path));
    let store = Sqlite::open(&path).unwrap();
    let (record, version) = assert_it_is_the_set_of_the_third_layout(&store);
    let written = store.put(&label("web"), &record, Some(version)).unwrap();
    assert_eq!(store.get(&label("web")).unwrap(), Some((record, written)));
    let sql = "SELECT record FROM set_records WHERE name = 'web'";
    let json: String = (Connection::open(&path).unwrap())
        .query_row(sql, [], |r| r.get(0))
        .unwrap();
    assert!(
        json.contains("\"format\":4"),
        "from now on it says its format: {json}"
    );
}

/// The fourth layout has records under their present name, and remembers nothing of sets that are over.
#[test]
fn a_file_of_the_fourth_layout_is_brought_up_and_remembers_from_then_on() {
    let (_folder, path) = fresh();
    let old = of_the_third_layout(&path);
    old.execute_batch("ALTER TABLE records RENAME TO set_records; PRAGMA user_version = 4;")
        .unwrap();
    drop(old);
    let store = Sqlite::open(&path).unwrap();
    let (record, version) = assert_it_is_the_set_of_the_third_layout(&store);
    assert_eq!(store.abandoned(&label("web")).unwrap(), None);
    store.abandon(&label("web"), &record, version).unwrap();
    drop(store);
    let store = Sqlite::open(&path).unwrap();
    assert_eq!(store.get(&label("web")).unwrap(), None);
    assert_eq!(store.abandoned(&label("web")).unwrap(), Some(record));
    assert_eq!(store.ended().unwrap(), [label("web")]);
}

#[test]
fn an_earlier_vmss_that_runs_while_the_file_is_brought_up_can_neither_read_nor_write_records() {
    let (_folder, path) = fresh();
    // Open with the statements that it knows prepared, as those of a controller are.
    let old = of_the_third_layout(&path);
    old.pragma_update(None, "journal_mode", "wal").unwrap();
    let count = |c: &Connection| c.query_row("SELECT count(*) FROM records", [], |r| r.get::<_, u32>(0));
    assert_eq!(count(&old).unwrap(), 1);
    let store = Sqlite::open(&path).unwrap();
    let (record, _) = assert_it_is_the_set_of_the_third_layout(&store);
    let said = [
        old.query_row(
            "SELECT version, record FROM records WHERE name = 'web'",
            [],
            |_| Ok(()),
        )
        .unwrap_err(),
        old.execute("INSERT OR IGNORE INTO records VALUES ('db', 28, '{}')", [])
            .unwrap_err(),
        old.execute(
            "UPDATE records SET version = 28, record = '{}' WHERE name = 'web' AND version = 27",
            [],
        )
        .unwrap_err(),
        old.execute("DELETE FROM records WHERE name = 'web' AND version = 27", [])
            .unwrap_err(),
    ];
    for e in said {
        assert!(e.to_string().contains("no such table: records"), "{e}");
    }
    assert_eq!(store.get(&label("web")).unwrap().unwrap().0, record);
}

#[test]
fn a_store_of_the_third_layout_that_may_only_be_read_can_be_looked_at() {
    let (_folder, path) = fresh();
    drop(of_the_third_layout(&path));
    let before = std::fs::read(&path).unwrap();
    // Root may write whatever the mode says, so the reader is a mount that nobody may write to, in a child of its own.
    let mut child = Command::new("unshare");
    child.args(["-m", "sh", "-c"]);
    child.arg("mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"");
    child.arg("sh").arg(path.parent().unwrap());
    child.arg(std::env::current_exe().unwrap());
    let Ok(output) = as_child(&mut child, "look-at-old", &path).output() else {
        return eprintln_skip("unshare is not there");
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !said.contains("BEGAN") {
        return eprintln_skip("a mount of one's own is not allowed here");
    }
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_record_of_a_newer_vmss_is_neither_read_nor_written_and_the_others_are() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    let (web, db) = (label("web"), label("db"));
    let version = store.put(&web, &record("web", 3), None).unwrap();
    store.put(&db, &record("db", 3), None).unwrap();
    let connection = Connection::open(&path).unwrap();
    let newer =
        "UPDATE set_records SET version = 99, record = replace(record, '\"format\":4', '\"format\":5')
                 WHERE name = 'web'";
    assert_eq!(connection.execute(newer, []).unwrap(), 1);
    let text = || -> String {
        let sql = "SELECT version || record FROM set_records WHERE name = 'web'";
        connection.query_row(sql, [], |r| r.get(0)).unwrap()
    };
    let before = text();
    let said = store.get(&web).unwrap_err();
    assert!(
        matches!(
            said,
            StoreError::Newer {
                format: 5,
                known: 4,
                ..
            }
        ),
        "{said:?}"
    );
    assert_eq!(
        said.to_string(),
        "the record of web was made by a newer vmss (its format is 5, this vmss knows 4 at most)"
    );
    // Nobody has its version who has not read it.
    for expected in [None, Some(version)] {
        let refused = store.put(&web, &record("web", 9), expected);
        assert!(matches!(refused, Err(StoreError::Changed(_))), "{refused:?}");
        if let Some(expected) = expected {
            store.remove(&web, expected).unwrap_err();
        }
    }
    assert_eq!(text(), before);
    store.get(&db).unwrap().unwrap();
}

#[test]
fn decisions_of_a_newer_vmss_are_left_out_and_kept() {
    let (_folder, path) = fresh();
    drop(of_the_third_layout(&path));
    let (store, web) = (Sqlite::open(&path).unwrap(), label("web"));
    let known = store.decisions(&web, 10).unwrap();
    let connection = Connection::open(&path).unwrap();
    let newer = "INSERT INTO decisions (name, decision) SELECT name, replace(decision, '\"moved\":\"none\"',
                 '\"moved\":\"sideways\"') FROM decisions";
    assert_eq!(connection.execute(newer, []).unwrap(), 1);
    assert!(
        store.decisions(&web, 1).unwrap().is_empty(),
        "the newest is none that can be told, and none is put in its place"
    );
    assert_eq!(store.decisions(&web, 10).unwrap(), known);
    store.decided(&web, &known[0], true).unwrap();
    assert_eq!(store.decisions(&web, 1).unwrap(), known);
}

#[test]
fn damage_is_told_with_the_way_out() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    for i in 0..50 {
        let name = format!("set-{i}");
        store.put(&label(&name), &record(&name, 3), None).unwrap();
    }
    drop(store);
    // Every page but the first, which holds the header and the schema.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();
    let said = match Sqlite::open(&path) {
        Err(e) => e.to_string(),
        Ok(store) => store.get(&label("set-7")).unwrap_err().to_string(),
    };
    assert!(
        said.contains("damaged") && said.contains("vmss state rebuild"),
        "{said}"
    );

    // Cut off in the middle, as a copy that did not end would be.
    std::fs::write(&path, &bytes[..5000]).unwrap();
    let said = match Sqlite::open(&path) {
        Err(e) => e.to_string(),
        Ok(store) => store.get(&label("set-7")).unwrap_err().to_string(),
    };
    assert!(
        said.contains("damaged") && said.contains("vmss state rebuild"),
        "{said}"
    );
}

#[test]
fn counters_that_make_no_sense_are_none_and_no_reason_to_measure_no_more() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    let web = label("web");
    let mut readings = Readings::default();
    let counter = Counter {
        at: at(0),
        value: 1.0,
        of: None,
    };
    readings.note("host.cpu", InstanceId(1), counter);
    store.measured(&web, &[], &readings, at(0)).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute(
            "UPDATE readings SET readings = replace(readings, '1.0', 'null')",
            [],
        )
        .unwrap();
    assert_eq!(store.readings(&web).unwrap(), Readings::default());
    store.measured(&web, &[], &readings, at(1)).unwrap();
    assert_eq!(store.readings(&web).unwrap(), readings);
}

#[test]
fn a_record_that_makes_no_sense_is_told_and_the_others_can_be_read() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    store.put(&label("web"), &record("web", 3), None).unwrap();
    store.put(&label("db"), &record("db", 3), None).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection
        .execute("UPDATE set_records SET record = '{}' WHERE name = 'web'", [])
        .unwrap();
    let said = store.get(&label("web")).unwrap_err().to_string();
    assert!(
        said.contains("damaged") && said.contains("record of web"),
        "{said}"
    );
    store.get(&label("db")).unwrap().unwrap();
}

#[test]
fn a_full_disk_is_told_and_costs_nothing_that_was_written() {
    // A disk of 256 KiB: a tmpfs in a mount namespace of the child's own.
    let (_folder, path) = fresh();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let folder = path.parent().unwrap().to_owned();
    let mut child = Command::new("unshare");
    child.args([
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs -o size=256k tmpfs \"$1\" && shift && exec \"$@\"",
        "sh",
    ]);
    child.arg(&folder).arg(std::env::current_exe().unwrap());
    let output = as_child(&mut child, "fill", &path).output();
    let Ok(output) = output else {
        return eprintln_skip("unshare is not there");
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !said.contains("BEGAN") {
        return eprintln_skip("a mount of one's own is not allowed here");
    }
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn one_who_may_only_read_can_look() {
    let (folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    store.put(&label("web"), &record("web", 3), None).unwrap();
    drop(store);
    // Root may write everywhere, so the reader is somebody else.
    let exe = folder.path().join("reader");
    // By another process: one that a test beside this one forks would have it open for writing, and it could not be run.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&exe)
        .status();
    assert!(copied.unwrap().success());
    let open = |p: &Path, mode| std::fs::set_permissions(p, std::fs::Permissions::from_mode(mode)).unwrap();
    open(&exe, 0o755);
    open(&path, 0o444);
    for above in path
        .ancestors()
        .skip(1)
        .take_while(|p| p.starts_with(folder.path()))
    {
        open(above, 0o555);
    }
    let mut child = Command::new(&exe);
    if std::fs::metadata(folder.path()).unwrap().uid() == 0 {
        child.uid(65534).gid(65534).current_dir("/");
    }
    let output = as_child(&mut child, "look", &path).output().unwrap();
    for above in path
        .ancestors()
        .skip(1)
        .take_while(|p| p.starts_with(folder.path()))
    {
        open(above, 0o755);
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("LOOKED 3"), "{said}");
}

fn eprintln_skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

// ---- several processes ----

#[test]
fn a_killed_holder_is_followed_at_once() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    let (mut child, mut said) = spawn("hold", &path);
    assert_eq!(line(&mut said), "HELD");
    let me = Holder::me("ann".into());
    let now = at(1000);
    match store.acquire("set/web", &me, at(1_000_000), None) {
        Err(StoreError::Held(other)) => assert_eq!((other.holder.pid, other.lives), (child.id(), true)),
        other => panic!("{other:?}"),
    }
    // Killed and not waited for: a zombie holds nothing.
    child.kill().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while store.holder("set/web", now).unwrap().is_some() {
        assert!(
            std::time::Instant::now() < deadline,
            "a zombie still holds the lease"
        );
        std::thread::yield_now();
    }
    let lease = store.acquire("set/web", &me, now, None).unwrap();
    child.wait().unwrap();
    store.renew(&lease, now).unwrap();
}

#[test]
fn a_stopped_holder_is_not_robbed() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    let (mut child, mut said) = spawn("hold", &path);
    assert_eq!(line(&mut said), "HELD");
    let pid = i32::try_from(child.id()).unwrap();
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    let held = store.acquire("set/web", &Holder::me("ann".into()), at(1_000_000), None);
    assert!(matches!(held, Err(StoreError::Held(_))));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Two containers on one machine, or a container and the machine itself: a number of a process there says nothing here.
#[test]
fn who_holds_a_lease_in_another_pid_namespace_is_not_looked_up_in_this_one() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    let mine = store
        .acquire("set/db", &Holder::me("ann".into()), at(1000), None)
        .unwrap();
    let mut child = Command::new("unshare");
    child.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    child.arg(std::env::current_exe().unwrap());
    let Ok(mut child) = as_child(&mut child, "hold-in-a-container", &path).spawn() else {
        return eprintln_skip("unshare is not there");
    };
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while text.trim_end() != "BEGAN" {
        text.clear();
        if said.read_line(&mut text).unwrap() == 0 {
            child.wait().unwrap();
            return eprintln_skip("a PID namespace of one's own is not allowed here");
        }
    }
    // In there nobody has the number of this process, which lives all the same.
    assert_eq!(line(&mut said), "REFUSED ann false");
    assert_eq!(line(&mut said), "HELD");
    store.renew(&mine, at(1000)).unwrap();
    // Its number there is small, and some other's here or nobody's. The clock is far ahead.
    let me = Holder::me("ann".into());
    let stamp = match store.acquire("set/web", &me, at(1_000_000), None) {
        Err(StoreError::Held(other)) => {
            assert_eq!(
                (other.holder.boot.as_str(), other.lives),
                (me.boot.as_str(), false)
            );
            assert_ne!(other.holder.namespace, me.namespace);
            other.stamp
        }
        other => panic!("taken from one who lives: {other:?}"),
    };
    child.kill().unwrap();
    child.wait().unwrap();
    store.acquire("set/web", &me, at(1_000_000), Some(stamp)).unwrap();
}

#[test]
fn processes_that_open_a_new_store_at_once_see_one_identity() {
    for _ in 0..5 {
        let (_folder, path) = fresh();
        let children: Vec<_> = (0..4).map(|_| spawn("open", &path)).collect();
        let ids: Vec<String> = children
            .into_iter()
            .map(|(mut child, mut said)| {
                let id = line(&mut said);
                assert!(child.wait().unwrap().success());
                id
            })
            .collect();
        assert!(
            ids.iter().all(|id| id.starts_with("ID ") && *id == ids[0]),
            "{ids:?}"
        );
    }
}

#[test]
fn processes_lose_none_of_each_others_writes() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    store.put(&label("web"), &record("web", 0), None).unwrap();
    let children: Vec<_> = (0..3).map(|_| spawn("count", &path)).collect();
    for (mut child, _said) in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.get(&label("web")).unwrap().unwrap().0.capacity, 3 * 50);
}

#[test]
fn a_kill_in_the_middle_of_writing_loses_nothing_that_was_committed() {
    let (_folder, path) = fresh();
    let store = Sqlite::open(&path).unwrap();
    store.put(&label("web"), &record("web", 0), None).unwrap();
    drop(store);
    for round in 0..15_u64 {
        let (mut child, said) = spawn("write", &path);
        let mut said = said.lines();
        // A different moment each round.
        let mut told: u32 = 0;
        for _ in 0..=round {
            told = number(&said.next().unwrap().unwrap());
        }
        std::thread::sleep(std::time::Duration::from_micros(round * 311));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in said.map_while(Result::ok) {
            told = number(&line);
        }
        let store = Sqlite::open(&path).unwrap();
        let kept = store.get(&label("web")).unwrap().unwrap().0.capacity;
        assert!(kept == told || kept == told + 1, "told {told}, kept {kept}");
        let health: String = Connection::open(&path)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .unwrap();
        assert_eq!(health, "ok");
    }
}

fn number(line: &str) -> u32 {
    line.strip_prefix("WROTE ").unwrap().parse().unwrap()
}

/// What names a child's part and its store; without it, `child` is no test.
const PART: &str = "VMSS_TEST_PART";
const STORE: &str = "VMSS_TEST_STORE";

fn as_child<'a>(command: &'a mut Command, part: &str, path: &Path) -> &'a mut Command {
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env(STORE, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
}

fn spawn(part: &str, path: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = as_child(&mut Command::new(std::env::current_exe().unwrap()), part, path)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    // The test harness talks first.
    while line(&mut said) != "BEGAN" {}
    (child, said)
}

fn line(said: &mut impl BufRead) -> String {
    let mut text = String::new();
    assert_ne!(said.read_line(&mut text).unwrap(), 0, "the child has ended");
    text.trim_end().to_owned()
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

/// Not a test but the other process of some: does the part that the environment names.
#[test]
fn child() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how a test tells its other process what to do"
    )]
    let (Ok(part), Ok(path)) = (std::env::var(PART), std::env::var(STORE)) else {
        return;
    };
    say("\nBEGAN");
    let store = Sqlite::open(Path::new(&path)).unwrap();
    let web = label("web");
    match part.as_str() {
        "open" => say(&format!("ID {}", store.id().unwrap())),
        "look" => {
            say(&format!(
                "LOOKED {}",
                store.get(&web).unwrap().unwrap().0.capacity
            ));
            assert_eq!(store.sets().unwrap(), std::slice::from_ref(&web));
            assert!(store.history(None, 10).unwrap().is_empty());
            assert!(store.holder("set/web", at(0)).unwrap().is_none());
            let refused = store.put(&web, &record("web", 4), None).unwrap_err().to_string();
            assert!(refused.contains("only be read"), "{refused}");
        }
        "look-at-old" => {
            let (record, version) = assert_it_is_the_set_of_the_third_layout(&store);
            assert_eq!(store.abandoned(&web).unwrap(), None);
            let refused = store.put(&web, &record, Some(version)).unwrap_err().to_string();
            assert!(refused.contains("only be read"), "{refused}");
        }
        "hold" => {
            store
                .acquire("set/web", &Holder::me("bob".into()), at(1000), None)
                .unwrap();
            say("HELD");
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
        "hold-in-a-container" => {
            let me = Holder::me("bob".into());
            match store.acquire("set/db", &me, at(1_000_000), None) {
                Err(StoreError::Held(other)) => {
                    say(&format!("REFUSED {} {}", other.holder.user, other.lives))
                }
                other => panic!("taken from one who lives: {other:?}"),
            }
            store.acquire("set/web", &me, at(1000), None).unwrap();
            say("HELD");
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
        "count" => (0..50).for_each(|_| increment(&store, &web)),
        "write" => loop {
            increment(&store, &web);
            say(&format!("WROTE {}", store.get(&web).unwrap().unwrap().0.capacity));
        },
        "fill" => fill(&store, Path::new(&path)),
        other => panic!("no such part: {other}"),
    }
}

fn fill(store: &Sqlite, path: &Path) {
    let mut written = 0;
    let said = loop {
        let name = format!("set-{written}");
        match store.put(&label(&name), &record(&name, written), None) {
            Ok(_) => written += 1,
            Err(e) => break e.to_string(),
        }
        assert!(written < 10_000, "the disk has no end");
    };
    assert!(said.contains("the disk is full"), "{said}");
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    assert!(written > 3);
    for i in 0..written {
        let (read, _) = store.get(&label(&format!("set-{i}"))).unwrap().unwrap();
        assert_eq!(read.capacity, i);
    }
    // A lease is small: a few may find room where a record did not.
    let refused = |n: u32| {
        store
            .acquire(&format!("set/{n}"), &holder("ann"), at(0), None)
            .err()
    };
    let said = (0..10_000).find_map(refused).unwrap().to_string();
    assert!(said.contains("the disk is full"), "{said}");
    // A new store on a full disk.
    let said = refusal(&path.with_file_name("another.db"));
    assert!(said.contains("full") || said.contains("No space"), "{said}");
}
