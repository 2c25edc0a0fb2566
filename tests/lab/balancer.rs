//! Clients of a set notice nothing of what is done to it: real HAProxies before real guests, under load.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load::{Failure, Load};
use super::{Lab, curl, lab_net};
use crate::support::{Runs as _, wait_for};

/// Where the frontends listen: one for HTTP, one for connections that last.
pub(super) fn frontends() -> [SocketAddr; 2] {
    [8080, 8007].map(|port| format!("{}.1:{port}", lab_net()).parse().unwrap())
}

/// A lab whose HAProxy ends with the test, however that ends.
pub(super) struct Served(Lab);

impl std::ops::Deref for Served {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let file = self.folder.path().join("state.db.lb/web/pid");
        if let Ok(pid) = fs::read_to_string(file) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

/// A set that will be behind a load balancer.
pub(super) fn served(capacity: u32, run: &str) -> Served {
    let lab = Lab::new(capacity, "", "");
    let [http, echo] = frontends();
    let net = lab_net();
    lab.edit(
        "bridge = \"br0\"",
        &format!("bridge = \"br0\"\naddresses = \"{net}.60-{net}.90/24\""),
    );
    let path = lab.folder.path().join("scaleset.toml");
    let text = fs::read_to_string(&path).unwrap();
    // Patient checks: on two processors that emulate nine booting guests an answer takes its time.
    let more = format!(
        "[health]\nprobe = \"http\"\npath = \"/healthz\"\ninterval = \"1s\"\ntimeout = \"4s\"\nunhealthy_after = 3\n\
         [upgrade]\nmax_batch = 1\nmax_unavailable = 1\n\
         [load_balancer]\n{run}\ndrain = \"5s\"\n\
         [[load_balancer.frontends]]\nname = \"http\"\nbind = \"{http}\"\nport = 80\n\
         [[load_balancer.frontends]]\nname = \"echo\"\nmode = \"tcp\"\nbind = \"{echo}\"\nport = 7\n"
    );
    fs::write(&path, format!("{text}\n{more}")).unwrap();
    Served(lab)
}

/// A connection that lasts.
struct Client(TcpStream);

impl Client {
    fn new() -> Self {
        let stream = TcpStream::connect(frontends()[1]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self(stream);
        assert!(client.goes_on());
        client
    }

    fn goes_on(&mut self) -> bool {
        let mut heard = [0];
        self.0.write_all(b"x").is_ok() && self.0.read_exact(&mut heard).is_ok()
    }
}

impl Lab {
    /// The three views are one: what runs, what is on disk, and what the instances are.
    #[track_caller]
    fn assert_level(&self, count: usize, when: &str) {
        let shown = self.expect(0, "lb show -o json").json();
        assert_eq!(shown["level"], true, "{when}: {shown:#}");
        let instances: BTreeSet<u64> = self.listed().iter().map(|i| i.id).collect();
        assert_eq!(instances.len(), count, "{when}");
        for balancer in shown["balancers"].as_array().unwrap() {
            let servers = balancer["servers"].as_array().unwrap();
            let up: BTreeSet<u64> = servers.iter().map(|s| s["instance"].as_u64().unwrap()).collect();
            assert_eq!(up, instances, "{when}: {balancer:#}");
        }
        let file = self.folder.path().join("state.db.lb/web/haproxy.cfg");
        if let Ok(on_disk) = fs::read_to_string(file) {
            assert_eq!(on_disk, self.expect(0, "lb config").stdout, "{when}");
        }
    }

    fn haproxy_pid(&self) -> u32 {
        let file = self.folder.path().join("state.db.lb/web/pid");
        fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    /// How many connections each instance has through the frontend for those that last.
    fn connected(&self) -> Vec<u64> {
        let shown = self.expect(0, "lb show -o json").json();
        let servers = shown["balancers"][0]["servers"].as_array().unwrap().clone();
        (servers.iter())
            .filter(|s| s["frontend"] == "echo" && s["connections"].as_u64() > Some(0))
            .map(|s| s["instance"].as_u64().unwrap())
            .collect()
    }
}

/// Says something that is seen although the test passes: what was counted is a result.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn kill(pid: u32) {
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// What has failed, other than requests that were in flight when something was killed on purpose at `killed`.
fn unforgivable(failures: Vec<Failure>, killed: Option<Instant>) -> Vec<String> {
    let is_forgiven = |f: &Failure| killed.is_some_and(|at| f.began <= at);
    failures
        .into_iter()
        .filter(|f| !is_forgiven(f))
        .map(|f| f.what)
        .collect()
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn clients_notice_nothing_of_scaling_upgrades_repair_and_reloads() {
    let lab = served(6, "run = \"local\"");
    lab.expect(0, "check");
    lab.expect(0, "create");
    lab.assert_level(6, "created");
    let names: BTreeSet<String> = (0..12)
        .map(|_| curl(&format!("http://{}/", frontends()[0])))
        .collect();
    assert_eq!(names.len(), 6, "each answers in turn: {names:?}");

    let load = Load::on(frontends()[0]);
    let mut before = 0;
    let mut phase = |name: &str, killed: Option<Instant>| {
        let sent = load.sent();
        let failures = unforgivable(load.failures(), killed);
        tell(&format!(
            "{name}: {} requests sent, {} failed",
            sent - before,
            failures.len()
        ));
        assert_eq!(failures, Vec::<String>::new(), "{name}");
        assert!(sent > before, "{name}: nobody has asked anything");
        before = sent;
    };
    lab.expect(0, "scale 9");
    lab.assert_level(9, "scaled out");
    phase("scale 6 -> 9", None);
    lab.expect(0, "scale 3 --yes");
    lab.assert_level(3, "scaled in");
    phase("scale 9 -> 3", None);

    lab.edit("guest-v1", "guest-v2");
    lab.expect(0, "apply");
    lab.assert_level(3, "reimaged");
    phase("rolling reimage", None);

    lab.edit("guest-v2", "guest-v1");
    lab.edit(
        "max_unavailable = 1",
        "max_unavailable = 0\nmax_surge = 1\nmethod = \"replace\"",
    );
    lab.expect(0, "apply --yes");
    lab.assert_level(3, "replaced");
    phase("rolling replace with surge", None);

    lab.edit("drain = \"5s\"", "drain = \"5s\"\nslow_start = \"1s\"");
    let said = lab.expect(0, "apply").stderr;
    assert!(said.contains("took up another configuration"), "{said}");
    lab.assert_level(3, "reloaded");
    let sent = load.sent();
    wait_for("some more requests", || load.sent() > sent + 100);
    phase("reload", None);

    // A guest dies: what was in flight on it may fail, and nothing else.
    let listed = lab.listed();
    let victim = &listed[0];
    let name = format!("web-{}", victim.id);
    lab.signal(&victim.host, &name, "KILL");
    let killed = Instant::now();
    wait_for("libvirt to see it", || {
        lab.virsh(&victim.host, &["domstate", &name]).trim() == "shut off"
    });
    lab.expect(0, "scale +0 --yes");
    lab.assert_level(3, "repaired");
    phase("guest killed and started again", Some(killed));

    // One is moved to another host while it runs.
    let from = lab.listed()[0].host.clone();
    lab.expect(0, &format!("host drain {from} --migrate --yes"));
    lab.assert_level(3, "moved");
    assert!(lab.listed().iter().all(|i| i.host != from));
    phase("moved to another host", Some(killed));

    let (sent, failures) = load.end();
    tell(&format!(
        "in all: {sent} requests sent, {} failed (in flight on the guest that was killed)",
        failures.len()
    ));
    assert_eq!(unforgivable(failures, Some(killed)), Vec::<String>::new());
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
    assert!(
        !lab.folder.path().join("state.db.lb").exists(),
        "the balancer's files are gone"
    );
    assert!(
        TcpStream::connect(frontends()[0]).is_err(),
        "nobody listens any more"
    );
}

/// A HAProxy that runs already.
struct Elsewhere {
    process: Child,
}

impl Elsewhere {
    fn start(socket: &Path, config: &str) -> Self {
        let file = socket.with_extension("cfg");
        let text = format!(
            "global\n    stats socket {} mode 600 level admin\n{config}",
            socket.display()
        );
        fs::write(&file, text).unwrap();
        let process = Command::new("/usr/sbin/haproxy")
            .args(["-db", "-f"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // One that was killed has left its socket: only an answer tells that this one listens.
        wait_for("HAProxy", || UnixStream::connect(socket).is_ok());
        Self { process }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn connections_last_until_the_deadline_and_whoever_is_killed_all_views_agree_again() {
    let lab = served(3, "run = \"local\"");
    lab.expect(0, "create");
    lab.assert_level(3, "created");

    // Each instance has a long connection. The one that goes keeps its own up to the deadline; others are untouched.
    let mut clients: Vec<Client> = (0..3).map(|_| Client::new()).collect();
    assert_eq!(lab.connected(), [1, 2, 3]);
    let mut scaling = told(&lab, "scale 2 --yes");
    wait_until_said(&mut scaling, "takes no new clients");
    assert!(
        clients.iter_mut().all(Client::goes_on),
        "all go on while one is drained"
    );
    wait_until_said(
        &mut scaling,
        "not drained after 5 s: web-3 still has 1 connection",
    );
    assert!(scaling.wait().unwrap().success());
    let left = clients
        .iter_mut()
        .filter_map(|c| c.goes_on().then_some(()))
        .count();
    assert_eq!(left, 2, "the others go on");
    lab.assert_level(2, "drained");

    // vmss is killed while one is drained.
    lab.expect(0, "scale 3");
    clients.retain_mut(Client::goes_on);
    wait_for("a connection on each", || {
        clients.push(Client::new());
        lab.connected() == [1, 2, 4]
    });
    let mut scaling = told(&lab, "scale 2 --yes");
    wait_until_said(&mut scaling, "takes no new clients");
    kill(scaling.id());
    scaling.wait().unwrap();
    let shown = lab.expect(0, "lb show").stdout;
    assert!(shown.contains("leaving"), "{shown}");
    lab.expect(0, "scale +0 --yes");
    lab.assert_level(2, "after vmss was killed");

    // HAProxy is killed, master or worker: the next command brings it back.
    for part in ["master", "worker"] {
        let master = lab.haproxy_pid();
        let worker = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        kill(if part == "master" {
            master
        } else {
            worker.trim().parse().unwrap()
        });
        wait_for("its end", || TcpStream::connect(frontends()[0]).is_err());
        lab.expect(0, "scale +0 --yes");
        lab.assert_level(2, part);
        wait_for("an answer", || {
            curl(&format!("http://{}/", frontends()[0])).starts_with("web-")
        });
    }
    // And while something is done: it comes back with what is true then.
    let mut restarting = told(&lab, "instance restart --all --yes");
    wait_until_said(&mut restarting, "restart web-");
    kill(lab.haproxy_pid());
    restarting.wait().unwrap();
    lab.expect(0, "scale +0 --yes");
    lab.assert_level(2, "killed in the middle");

    two_that_run_already_and_the_end(&lab);
    lab.assert_no_trace();
}

/// The set moves from its own HAProxy to two that run already. One is down during an upgrade, and level when it is back. In
/// the end neither knows the set any more.
fn two_that_run_already_and_the_end(lab: &Lab) {
    let sockets: Vec<PathBuf> = ["a.sock", "b.sock"]
        .iter()
        .map(|name| lab.folder.path().join(name))
        .collect();
    let run = format!(
        "sockets = [\"unix:{}\", \"unix:{}\"]",
        sockets[0].display(),
        sockets[1].display()
    );
    lab.edit("run = \"local\"", &run);
    // Two on one machine can't listen on one port: each has ports of its own, as they would have addresses.
    let config = lab.expect(0, "lb config").stdout;
    let on = |shift: u16| {
        let moved = |port: u16| config.replace(&format!(":{port}\n"), &format!(":{}\n", port + shift));
        moved(8080).replace(":8007\n", &format!(":{}\n", 8007 + shift))
    };
    let _one = Elsewhere::start(&sockets[0], &on(1));
    let two = Elsewhere::start(&sockets[1], &on(2));
    lab.expect(0, "check");
    lab.expect(0, "apply");
    assert!(
        TcpStream::connect(frontends()[0]).is_err(),
        "its own HAProxy is stopped"
    );
    lab.assert_level(2, "moved");
    let answer = |shift: u16| curl(&format!("http://{}.1:{}/", lab_net(), 8080 + shift));
    for shift in [1, 2] {
        wait_for("an answer of both", || answer(shift).starts_with("web-"));
    }

    drop(two);
    lab.edit("guest-v1", "guest-v2");
    let said = lab.expect(4, "apply").stderr;
    assert!(said.contains("b.sock was not seen"), "{said}");
    wait_for("an answer of what was upgraded with the other", || {
        answer(1).ends_with("image 2\n")
    });
    let _two = Elsewhere::start(&sockets[1], &on(2));
    lab.expect(0, "scale +0 --yes");
    lab.assert_level(2, "the other is back");
    wait_for("an answer of the one that is back", || {
        answer(2).ends_with("image 2\n")
    });
    lab.expect(0, "delete --yes");
    for shift in [1, 2] {
        assert!(
            answer(shift).contains("503 Service Unavailable"),
            "nobody is left to send clients to"
        );
    }
}

/// A command whose talk is listened to.
fn told(lab: &Lab, words: &str) -> Child {
    lab.command(words)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what a command says until it says `what`.
fn wait_until_said(child: &mut Child, what: &str) {
    let stderr = child.stderr.take().unwrap();
    let mut reader = BufReader::with_capacity(1, stderr);
    let mut all = String::new();
    loop {
        let mut line = String::new();
        assert!(
            reader.read_line(&mut line).unwrap() > 0,
            "it never said {what:?}, but {all}"
        );
        all.push_str(&line);
        if line.contains(what) {
            break;
        }
    }
    child.stderr = Some(reader.into_inner());
}
