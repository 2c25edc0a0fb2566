//! What only a real HAProxy can show.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use vmss::balancer::{Change, Trouble};
use vmss::load_balancer::{Balance, Bind, Run, Stickiness};
use vmss::membership::{Duty, Membership};
use vmss::scaleset::ScaleSet;

use super::guests::{Client, Guest, answers, free_port, home};
use super::subject::{Elsewhere, Local, Subject as _, kill, members, server, wait_for};

const ALL: [(u64, Duty); 3] = [(1, Duty::In), (2, Duty::In), (3, Duty::In)];

/// The local one's set, changed.
fn changed(local: &Local, change: impl FnOnce(&mut vmss::load_balancer::LoadBalancer)) -> ScaleSet {
    let mut set = local.set();
    change(set.load_balancer.as_mut().unwrap());
    set
}

fn curl(args: &[&str]) -> (String, i32) {
    let output = Command::new("curl")
        .args(["-s", "-m", "10"])
        .args(args)
        .output()
        .unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.code().unwrap(),
    )
}

fn config(local: &Local) -> String {
    std::fs::read_to_string(local.home().join("haproxy.cfg")).unwrap()
}

/// Who takes clients on the first frontend.
fn taking(local: &Local) -> Vec<u64> {
    let seen = local.open().observe().unwrap();
    let servers = seen
        .servers
        .iter()
        .filter(|s| s.is_in && s.frontend.as_str() == "http");
    servers.map(|s| s.id.0).collect()
}

#[test]
fn a_reload_closes_no_connection_and_what_is_connected_before_it_is_drained_after_it() {
    let local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    let mut of_old = local.connect("");
    let mut kept_alive = Client::to(local.binds[0]).unwrap();
    let (_, first, _) = kept_alive.get("").unwrap();
    let slower = changed(&local, |balancer| {
        balancer.slow_start = std::time::Duration::from_secs(1)
    });
    let changes = local.of(&slower).bring(&members(&ALL)).unwrap();
    assert_eq!(changes, [Change::Reloaded]);
    assert!(of_old.is_open());
    assert!(!first.is_empty());
    // HTTP ends after the next answer, which is whole.
    assert_eq!(kept_alive.get("").unwrap().0, 200);
    let balancer = local.of(&slower);
    let connected = || -> Vec<u64> {
        let seen = balancer.observe().unwrap();
        seen.servers
            .iter()
            .filter(|s| s.connections > 0 && s.frontend.as_str() == "raw")
            .map(|s| s.id.0)
            .collect()
    };
    let [id] = connected()[..] else {
        panic!("{:?}", connected())
    };
    let duties = |duty| -> Vec<(u64, Duty)> {
        ALL.iter()
            .map(|(i, d)| (*i, if *i == id { duty } else { *d }))
            .collect()
    };
    balancer.bring(&members(&duties(Duty::Out))).unwrap();
    assert!(of_old.is_open());
    assert_eq!(connected(), [id]);
    let changes = balancer.bring(&members(&duties(Duty::Cut))).unwrap();
    assert_eq!(changes, [Change::Closed(format!("web-{id}"))]);
    wait_for("the closing", || !of_old.is_open());
}

#[test]
fn the_file_has_what_runs_so_a_start_or_reload_by_others_changes_nothing() {
    let local = Local::new();
    let balancer = local.open();
    balancer.bring(&members(&[(1, Duty::In)])).unwrap();
    balancer
        .bring(&members(&[(1, Duty::Out), (2, Duty::In), (3, Duty::In)]))
        .unwrap();
    let lines: Vec<String> = (config(&local).lines())
        .filter_map(|line| line.trim().strip_prefix("server "))
        .map(|line| {
            format!(
                "{} {}",
                &line[..5],
                if line.ends_with(" disabled") { "out" } else { "in" }
            )
        })
        .collect();
    let wanted = ["web-1 out", "web-2 in", "web-3 in"];
    assert_eq!(lines, [wanted, wanted].concat());
    let reload = Command::new("kill")
        .args(["-USR2", &local.pid().unwrap().to_string()])
        .status()
        .unwrap();
    assert!(reload.success());
    wait_for("the reload", || {
        let seen = local.open().observe();
        seen.is_ok_and(|seen| seen.servers.iter().map(|s| s.requests).sum::<u64>() == 0)
    });
    assert_eq!(taking(&local), [2, 3]);
    assert_eq!(
        local
            .open()
            .bring(&members(&[(1, Duty::Out), (2, Duty::In), (3, Duty::In)]))
            .unwrap(),
        []
    );
}

#[test]
fn a_worker_that_is_killed_takes_all_with_it_and_is_brought_level() {
    let local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    let master = local.pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    kill(children.trim().parse().unwrap());
    wait_for("the end", || {
        local.open().observe().is_ok_and(|seen| seen.version.is_none())
    });
    assert_eq!(local.open().bring(&members(&ALL)).unwrap(), [Change::Started]);
    assert_eq!(taking(&local), [1, 2, 3]);
}

#[test]
fn a_port_that_is_taken_is_named_and_nobody_shares_it() {
    let (one, mut two) = (Local::new(), Local::new());
    one.open().bring(&members(&ALL)).unwrap();
    two.binds[0] = one.binds[0];
    let error = two.open().bring(&members(&ALL)).unwrap_err();
    assert_eq!(error.kind, Trouble::Refused);
    assert!(error.why.contains("Address already in use"), "{error}");
    assert!(error.why.contains(&one.binds[0].to_string()), "{error}");
    assert!(two.open().observe().unwrap().version.is_none());
    assert_eq!(taking(&one), [1, 2, 3]);
}

#[test]
fn a_configuration_that_haproxy_refuses_leaves_the_old_one_running() {
    let local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    let before = config(&local);
    let file = local.folder.path().join("empty.pem");
    std::fs::write(&file, "").unwrap();
    let broken = changed(&local, |balancer| balancer.frontends[0].certificate = Some(file));
    let error = local.of(&broken).bring(&members(&ALL)).unwrap_err();
    assert!(error.to_string().contains("empty.pem"), "{error}");
    assert_eq!((config(&local), taking(&local)), (before, vec![1, 2, 3]));
    let left = std::fs::read_dir(local.home()).unwrap().filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".haproxy.cfg")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn a_reload_that_can_not_listen_leaves_what_runs_and_its_file() {
    let local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    let before = config(&local);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = changed(&local, |balancer| {
        balancer.frontends[0]
            .bind
            .push(Bind::At(taken.local_addr().unwrap()));
    });
    let error = local.of(&more).bring(&members(&ALL)).unwrap_err();
    assert!(error.why.contains("in use"), "{error}");
    assert_eq!((config(&local), taking(&local)), (before, vec![1, 2, 3]));
    assert_eq!(answers(local.binds[0], 3).len(), 3);
    // Free again, it is taken up.
    drop(taken);
    assert_eq!(local.of(&more).bring(&members(&ALL)).unwrap(), [Change::Reloaded]);
}

fn certificate(name: &str) -> String {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    made.cert.pem() + &made.signing_key.serialize_pem()
}

#[test]
fn tls_ends_at_the_balancer_and_a_renewed_certificate_is_taken_up() {
    let local = Local::new();
    // A name that would be several words, or a variable, or a comment, if it were not quoted.
    let folder = local.folder.path().join("it's a $HOME \"place\" #1");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("site.pem");
    std::fs::write(&file, certificate("first.example")).unwrap();
    let secure = changed(&local, |balancer| {
        balancer.frontends[0].certificate = Some(file.clone())
    });
    let balancer = local.of(&secure);
    balancer.bring(&members(&ALL)).unwrap();
    let url = format!("https://127.0.0.1:{}/", local.binds[0]);
    assert_eq!(curl(&["-k", &url]).1, 0);
    let subject = || {
        let said = Command::new("curl")
            .args(["-skv", "--http1.1", &url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("TLSv1.3"), "{said}");
        said
    };
    subject();
    assert_eq!(balancer.bring(&members(&ALL)).unwrap(), []);
    std::fs::write(&file, certificate("second.example")).unwrap();
    assert_eq!(balancer.bring(&members(&ALL)).unwrap(), [Change::Reloaded]);
    subject();
}

#[test]
fn a_cookie_leads_back_until_its_instance_is_out() {
    let local = Local::new();
    let sticky = changed(&local, |balancer| {
        balancer.frontends[0].stickiness = Stickiness::Cookie
    });
    let balancer = local.of(&sticky);
    balancer.bring(&members(&[(1, Duty::In)])).unwrap();
    // Added while it runs: its cookie takes more than the adding.
    balancer.bring(&members(&ALL)).unwrap();
    for _ in 0..3 {
        let (_, mine, head) = Client::to(local.binds[0]).unwrap().get("").unwrap();
        let cookie = head.lines().find_map(|l| {
            l.to_ascii_lowercase()
                .strip_prefix("set-cookie: ")
                .map(str::to_owned)
        });
        let cookie = cookie.unwrap_or_else(|| panic!("{head}"));
        let cookie = cookie.split(';').next().unwrap().replace("vmss=", "VMSS=");
        let again = |times| -> BTreeSet<String> {
            let ask = |_| {
                Client::to(local.binds[0])
                    .unwrap()
                    .get(&format!("Cookie: {cookie}\r\n"))
                    .unwrap()
                    .1
            };
            (0..times).map(ask).collect()
        };
        assert_eq!(again(6), [mine.clone()].into());
        let id: u64 = mine.rsplit('.').next().unwrap().parse::<u64>().unwrap() - 100;
        let out: Vec<(u64, Duty)> = ALL
            .iter()
            .map(|(i, d)| (*i, if *i == id { Duty::Out } else { *d }))
            .collect();
        balancer.bring(&members(&out)).unwrap();
        assert!(!again(6).contains(&mine));
        balancer.bring(&members(&ALL)).unwrap();
    }
}

#[test]
fn by_their_address_clients_stay_with_an_instance() {
    for stick in [true, false] {
        let local = Local::new();
        let sticky = changed(&local, |balancer| match stick {
            true => balancer.frontends[0].stickiness = Stickiness::Source,
            false => balancer.frontends[0].balance = Balance::Source,
        });
        let balancer = local.of(&sticky);
        balancer.bring(&members(&ALL)).unwrap();
        let mine: BTreeSet<String> = answers(local.binds[0], 6).into_iter().collect();
        assert_eq!(mine.len(), 1, "{mine:?}");
        let id: u64 = mine
            .first()
            .unwrap()
            .rsplit('.')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            - 100;
        balancer
            .bring(&Membership {
                servers: ALL
                    .iter()
                    .filter(|(i, _)| *i != id)
                    .map(|(i, d)| server(*i, *d))
                    .collect(),
            })
            .unwrap();
        let others: BTreeSet<String> = answers(local.binds[0], 6).into_iter().collect();
        assert!(others.len() == 1 && others != mine, "{others:?}");
    }
}

#[test]
fn its_own_check_takes_out_who_is_not_well_and_nobody_waits_for_the_dead() {
    let mut local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    local.settle();
    let up = |local: &Local, id: u64| -> Vec<Option<bool>> {
        let seen = local.open().observe().unwrap();
        seen.servers
            .iter()
            .filter(|s| s.id.0 == id)
            .map(|s| s.up)
            .collect()
    };
    local.guests[0].well.store(false, Ordering::SeqCst);
    wait_for("the check to find it", || {
        up(&local, 1) == [Some(false), Some(false)]
    });
    let said: BTreeSet<String> = answers(local.binds[0], 10).into_iter().collect();
    assert_eq!(said, [home(2).to_string(), home(3).to_string()].into());
    local.guests[0].well.store(true, Ordering::SeqCst);
    wait_for("the check to find it well", || {
        up(&local, 1) == [Some(true), Some(true)]
    });
    // One dies: whoever comes next is sent to another, before any check has found it.
    local.guests.remove(1);
    let said: BTreeSet<String> = answers(local.binds[0], 12).into_iter().collect();
    assert_eq!(said, [home(1).to_string(), home(3).to_string()].into());
    let errors: u64 = local
        .open()
        .observe()
        .unwrap()
        .servers
        .iter()
        .map(|s| s.errors)
        .sum();
    println!("failed connections, all of them made good: {errors}");
}

#[test]
fn both_families_are_served() {
    let mut local = Local::new();
    local.binds[0] = free_port();
    let port = local.port;
    let _six = Guest::at(format!("[::1]:{port}").parse().unwrap());
    let (bind, any) = (local.binds[0], free_port());
    let set = changed(&local, |balancer| {
        balancer.frontends[0].bind = vec![Bind::At(format!("[::1]:{bind}").parse().unwrap()), Bind::Any(any)];
    });
    let mut six = server(1, Duty::In);
    six.address = "::1".parse().unwrap();
    let balancer = local.of(&set);
    balancer.bring(&members(&[])).unwrap();
    balancer
        .bring(&Membership {
            servers: vec![six.clone()],
        })
        .unwrap();
    for url in [
        format!("http://[::1]:{bind}/"),
        format!("http://127.0.0.1:{any}/"),
        format!("http://[::1]:{any}/"),
    ] {
        assert_eq!(curl(&["-g", &url]), ("::1".to_owned(), 0), "{url}");
    }
    let seen = balancer.observe().unwrap();
    assert_eq!(
        seen.servers[0].address,
        Some(format!("[::1]:{port}").parse().unwrap())
    );
    assert_eq!(balancer.bring(&Membership { servers: vec![six] }).unwrap(), []);
}

#[test]
fn statistics_are_shown_on_the_loopback_address() {
    let local = Local::new();
    let port = free_port();
    let set = changed(&local, |balancer| {
        balancer.stats = Some(format!("127.0.0.1:{port}").parse().unwrap())
    });
    local.of(&set).bring(&members(&ALL)).unwrap();
    let (page, code) = curl(&[&format!("http://127.0.0.1:{port}/")]);
    assert_eq!(code, 0);
    assert!(page.contains("vmss-web-http") && page.contains("web-3"));
}

#[test]
fn its_files_are_for_their_owner_alone() {
    let local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&local.home()), 0o700);
    for file in ["haproxy.cfg", "admin.sock", "master.sock"] {
        assert_eq!(mode(&local.home().join(file)), 0o600, "{file}");
    }
    local.open().retire().unwrap();
    assert!(!local.folder.path().join("state.db.lb").exists());
}

#[test]
fn a_socket_that_anybody_may_write_to_is_not_used() {
    let elsewhere = Elsewhere::new();
    let open = |mode| {
        std::fs::set_permissions(elsewhere.socket(), std::fs::Permissions::from_mode(mode)).unwrap();
        elsewhere.open().bring(&members(&ALL))
    };
    let error = open(0o666).unwrap_err();
    assert_eq!(error.kind, Trouble::Refused);
    assert!(error.why.contains("anybody on this machine"), "{error}");
    assert!(open(0o660).is_ok());
}

#[test]
fn one_that_is_stopped_is_not_seen() {
    let local = Local::new();
    local.open().bring(&members(&ALL)).unwrap();
    let master = local.pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    let worker = children.trim();
    let signal = |signal| {
        assert!(
            Command::new("kill")
                .args([signal, worker])
                .status()
                .unwrap()
                .success()
        )
    };
    signal("-STOP");
    let error = local.open().observe().unwrap_err();
    signal("-CONT");
    assert_eq!(error.kind, Trouble::Unreachable, "{error}");
    assert!(error.to_string().contains("no answer within 5 s"), "{error}");
    assert_eq!(taking(&local), [1, 2, 3]);
}

#[test]
fn a_backend_that_is_missing_and_a_socket_over_tcp_are_told_apart() {
    let elsewhere = Elsewhere::new();
    let mut set = elsewhere.set();
    set.load_balancer.as_mut().unwrap().frontends[0].backend = Some("nowhere".to_owned());
    let open = |set: &ScaleSet| {
        vmss::balancer::Balancers::of(&vmss::balancer::haproxy::Haproxies, set, Path::new("/")).remove(0)
    };
    let error = open(&set).observe().unwrap_err();
    assert_eq!(error.kind, Trouble::Refused);
    assert!(
        error.to_string().contains("backend nowhere") && error.why.contains("vmss lb config"),
        "{error}"
    );
    let failures: Vec<String> = (open(&set).check().into_iter())
        .filter_map(|f| Some(f.what).filter(|_| f.result.is_err()))
        .collect();
    assert_eq!(failures, ["backend of http"]);
    // With it, whatever was in it is gone: there is nothing left to leave.
    open(&set).retire().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    set.load_balancer.as_mut().unwrap().run =
        Run::Sockets(vec![vmss::load_balancer::AdminSocket::Tcp(nobody)]);
    let error = open(&set).observe().unwrap_err();
    assert_eq!(error.kind, Trouble::Unreachable, "{error}");
}

/// Both instances serve one connection at a time, as the definition has it from some moment on; then as many as come again.
fn clients_wait_and_are_counted_once(
    open: impl Fn(Option<u32>) -> std::sync::Arc<dyn vmss::balancer::Balancer>,
    connect: impl Fn() -> Client,
) {
    let wanted = members(&[(1, Duty::In), (2, Duty::In)]);
    open(None).bring(&wanted).unwrap();
    let balancer = open(Some(1));
    balancer.bring(&wanted).unwrap();
    let limits = |balancer: &dyn vmss::balancer::Balancer| -> Vec<u32> {
        let seen = balancer.observe().unwrap();
        let raw = seen.servers.iter().filter(|s| s.frontend.as_str() == "raw");
        raw.map(|s| s.limit).collect()
    };
    assert_eq!(limits(&*balancer), [1, 1]);
    let clients: Vec<_> = (0..5).map(|_| connect()).collect();
    wait_for("the queue", || balancer.observe().unwrap().queue == 3);
    let seen = balancer.observe().unwrap();
    assert!(seen.servers.iter().all(|s| s.queue == 0), "{seen:?}");
    drop(clients);
    wait_for("the end of the queue", || balancer.observe().unwrap().queue == 0);
    let balancer = open(None);
    balancer.bring(&wanted).unwrap();
    assert_eq!(limits(&*balancer), [0, 0]);
}

#[test]
fn clients_wait_for_a_free_server_of_one_that_runs_already() {
    let elsewhere = Elsewhere::new();
    let open = |limit| {
        let mut set = elsewhere.set();
        set.load_balancer.as_mut().unwrap().frontends[1].max_connections = limit;
        vmss::balancer::Balancers::of(&vmss::balancer::haproxy::Haproxies, &set, Path::new("/")).remove(0)
    };
    clients_wait_and_are_counted_once(open, || Client::to(elsewhere.binds[1]).unwrap());
}

#[test]
fn clients_wait_for_a_free_server_of_one_that_vmss_runs() {
    let local = Local::new();
    let open = |limit| {
        let mut set = local.set();
        set.load_balancer.as_mut().unwrap().frontends[1].max_connections = limit;
        local.of(&set)
    };
    clients_wait_and_are_counted_once(open, || Client::to(local.binds[1]).unwrap());
}
