//! What is accepted of `[load_balancer]` and `[[discovery]]`, what is refused, and in which words.

use std::path::Path;
use std::time::Duration;

use crate::definition::parse;
use crate::load_balancer::{Balance, Mode, Run};
use crate::scaleset::ScaleSet;

/// A definition with a network card and `more`, and everything that is wrong with it.
fn served(more: &str) -> Result<ScaleSet, Vec<(String, String)>> {
    let text = format!(
        "name = \"web\"\n[image]\nsource = \"i.qcow2\"\n[instance]\nmemory = \"1 GiB\"\n[[instance.networks]]\nbridge = \"br0\"\n\
         [[fault_domains]]\nname = \"a\"\nhosts = [{{ name = \"k\", uri = \"qemu:///system\" }}]\n{more}"
    );
    parse(&text, Path::new("/etc/vmss/web.toml"))
        .map_err(|e| e.errors.into_iter().map(|p| (p.key, p.message)).collect())
}

fn with_frontend(balancer: &str, frontend: &str) -> Result<ScaleSet, Vec<(String, String)>> {
    served(&format!(
        "[load_balancer]\n{balancer}\n[[load_balancer.frontends]]\n{frontend}\n"
    ))
}

const FRONTEND: &str = "name = \"http\"\nbind = \"0.0.0.0:8080\"\nport = 80";

#[test]
fn a_load_balancer_is_read_with_its_defaults() {
    let set = with_frontend("run = \"local\"", FRONTEND).unwrap();
    let balancer = set.load_balancer.unwrap();
    assert_eq!(
        (balancer.run, balancer.drain, balancer.slow_start, balancer.stats),
        (Run::Local, Duration::from_secs(300), Duration::ZERO, None)
    );
    let frontend = &balancer.frontends[0];
    assert_eq!(frontend.backend(&set.name), "vmss-web-http");
    assert_eq!(frontend.urls(), ["http://127.0.0.1:8080"]);
    assert_eq!(
        (frontend.mode, frontend.balance),
        (Mode::Http, Balance::Roundrobin)
    );

    let sockets = "sockets = [\"unix:/run/a.sock\", \"tcp:[fd00::2]:9999\"]";
    let frontend =
        "name = \"db\"\nmode = \"tcp\"\nport = 5432\nbackend = \"db\"\ncertificate = \"tls/db.pem\"";
    let balancer = with_frontend(sockets, frontend).unwrap().load_balancer.unwrap();
    let Run::Sockets(found) = &balancer.run else {
        panic!()
    };
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["unix:/run/a.sock", "tcp:[fd00::2]:9999"]);
    let certificate = balancer.frontends[0].certificate.as_deref();
    assert_eq!(certificate, Some(Path::new("/etc/vmss/tls/db.pem")));
    assert!(balancer.frontends[0].bind.is_empty());

    let both = "name = \"http\"\nbind = [\"10.0.0.1:80\", \"[fd00::1]:80\"]\nport = 80";
    let urls = with_frontend("run = \"local\"", both)
        .unwrap()
        .load_balancer
        .unwrap()
        .frontends[0]
        .urls();
    assert_eq!(urls, ["http://10.0.0.1:80", "http://[fd00::1]:80"]);
    assert_eq!(served("").unwrap().load_balancer, None);
}

#[test]
fn what_is_wrong_with_a_load_balancer_is_told_by_key() {
    let wrong = |balancer: &str, frontend: &str, key: &str, part: &str| {
        let errors = with_frontend(balancer, frontend).unwrap_err();
        let is_told = errors
            .iter()
            .any(|(k, message)| k == key && message.contains(part));
        assert!(is_told, "{balancer} / {frontend}: {errors:?}");
    };
    let local = "run = \"local\"";
    wrong("", FRONTEND, "load_balancer.run", "missing");
    wrong(
        "run = \"local\"\nsockets = [\"unix:/a\"]",
        FRONTEND,
        "load_balancer.sockets",
        "exclude",
    );
    wrong("sockets = []", FRONTEND, "load_balancer.sockets", "missing");
    wrong(
        "sockets = [\"/run/a.sock\"]",
        FRONTEND,
        "load_balancer.sockets[0]",
        "unix:",
    );
    wrong(
        "sockets = [\"unix:a.sock\"]",
        FRONTEND,
        "load_balancer.sockets[0]",
        "absolute",
    );
    wrong(
        "sockets = [\"tcp:lb1:9999\"]",
        FRONTEND,
        "load_balancer.sockets[0]",
        "no address",
    );
    wrong(
        "sockets = [\"unix:/a\", \"unix:/a\"]",
        FRONTEND,
        "load_balancer.sockets",
        "twice",
    );
    wrong(
        "run = \"local\"\nstats = \"0.0.0.0:1\"",
        FRONTEND,
        "load_balancer.stats",
        "loopback",
    );
    wrong(
        "run = \"local\"\nstats = \"127.0.0.1:8080\"",
        FRONTEND,
        "load_balancer.stats",
        "listens there",
    );
    wrong(
        "sockets = [\"unix:/a\"]\nstats = \"127.0.0.1:1\"",
        FRONTEND,
        "load_balancer.stats",
        "runs",
    );
    wrong(
        "run = \"local\"\ndrain = \"2h\"",
        FRONTEND,
        "load_balancer.drain",
        "out of range",
    );
    let key = |name: &str| format!("load_balancer.frontends[0].{name}");
    wrong(local, "name = \"a\"\nport = 80", &key("bind"), "missing");
    wrong(
        local,
        "name = \"a\"\nport = 80\nbind = \"8080\"",
        &key("bind"),
        "no address",
    );
    wrong(
        local,
        "name = \"a\"\nport = 80\nbind = \"*:0\"",
        &key("bind"),
        "no port",
    );
    wrong(
        local,
        "name = \"a\"\nport = 80\nbind = [\"*:1\", \"10.0.0.1:1\"]",
        &key("bind"),
        "each other",
    );
    wrong(local, "name = \"a\"\nbind = \"*:1\"", &key("port"), "missing");
    wrong(
        local,
        "name = \"a b\"\nbind = \"*:1\"\nport = 1",
        &key("name"),
        "may not stand",
    );
    let sticky = "name = \"a\"\nbind = \"*:1\"\nport = 1\nmode = \"tcp\"\nstickiness = \"cookie\"";
    wrong(local, sticky, &key("stickiness"), "mode");
    wrong(
        local,
        "name = \"a\"\nbind = \"*:1\"\nport = 1\nbackend = \"b\"",
        &key("backend"),
        "runs already",
    );
    wrong(
        "sockets = [\"unix:/a\"]",
        "name = \"a\"\nport = 1\nbackend = \"b\\nglobal\"",
        &key("backend"),
        "can't be",
    );
    let two = format!(
        "{FRONTEND}\n[[load_balancer.frontends]]\nname = \"http\"\nbind = \"10.0.0.1:8080\"\nport = 81"
    );
    wrong(local, &two, "load_balancer.frontends[1].name", "two frontends");
    wrong(local, &two, "load_balancer.frontends[1].bind", "in the way");
}

#[test]
fn discovery_files_are_read_and_what_is_wrong_is_told() {
    let set = served("[[discovery]]\nformat = \"nginx\"\nfile = \"up.conf\"\nport = 80\nreload = [\"nginx\", \"-s\", \"reload\"]\n\
        [[discovery]]\nformat = \"prometheus\"\nfile = \"/etc/p/web.json\"\nport = 9100\nname = \"shop\"")
    .unwrap();
    let [nginx, prometheus] = &set.discovery[..] else {
        panic!()
    };
    assert_eq!(
        (nginx.file.as_path(), nginx.name.as_str()),
        (Path::new("/etc/vmss/up.conf"), "web")
    );
    assert_eq!((nginx.drain, nginx.reload.len()), (Duration::from_secs(30), 3));
    assert_eq!(
        (prometheus.drain, prometheus.name.as_str()),
        (Duration::ZERO, "shop")
    );
    for (more, key, part) in [
        ("format = \"nginx\"\nfile = \"a\"", "discovery[0].port", "missing"),
        ("format = \"nginx\"\nport = 1", "discovery[0].file", "missing"),
        ("file = \"a\"\nport = 1", "discovery[0].format", "missing"),
        (
            "format = \"traefik\"\nfile = \"a.json\"\nport = 1",
            "discovery[0].file",
            "does not read",
        ),
        (
            "format = \"prometheus\"\nfile = \"a.json\"\nport = 1\ndrain = \"1s\"",
            "discovery[0].drain",
            "leads none",
        ),
        (
            "format = \"nginx\"\nfile = \"a\"\nport = 1\n[[discovery]]\nformat = \"nginx\"\nfile = \"a\"\nport = 2",
            "discovery[1].file",
            "two discovery files",
        ),
    ] {
        let errors = served(&format!("[[discovery]]\n{more}")).unwrap_err();
        let is_told = errors
            .iter()
            .any(|(k, message)| k == key && message.contains(part));
        assert!(is_told, "{more}: {errors:?}");
    }
    // Nothing can be sent to instances without a network card.
    let text = "name = \"web\"\n[image]\nsource = \"i.qcow2\"\n[instance]\nmemory = \"1 GiB\"\n\
        [[fault_domains]]\nname = \"a\"\nhosts = [{ name = \"k\", uri = \"qemu:///system\" }]\n\
        [[discovery]]\nformat = \"nginx\"\nfile = \"a\"\nport = 1\n";
    assert!(parse(text, Path::new("x.toml")).is_err());
}
