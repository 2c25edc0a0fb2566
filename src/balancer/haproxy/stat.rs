//! HAProxy's statistics, as far as they tell of a set's servers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::balancer::BalancerError;
use crate::load_balancer::{Frontend, Mode};
use crate::membership::ServerSeen;
use crate::names::{InstanceId, Label, parse_instance_name};

/// One line of `show stat`: column names to values.
pub type Line = BTreeMap<String, String>;

/// The lines of an answer to `show stat`, which is CSV with a first line `# pxname,svname,...`.
///
/// # Errors
/// It is anything else.
pub fn lines(answer: &str) -> Result<Vec<Line>, BalancerError> {
    let wrong = |why: &dyn std::fmt::Display| {
        BalancerError::refused("reading HAProxy's statistics", format!("they are no CSV: {why}"))
    };
    let Some(text) = answer.strip_prefix("# ") else {
        return Err(wrong(&super::shown(answer.lines().next().unwrap_or_default())));
    };
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|e| wrong(&e))?.clone();
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| wrong(&e))?;
        let pairs = headers.iter().zip(&record);
        lines.push(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    }
    Ok(lines)
}

/// The set's servers of one frontend among `lines`, by id: those whose name is an instance's. Others are somebody else's.
pub fn servers(set: &Label, frontend: &Frontend, lines: &[Line]) -> BTreeMap<InstanceId, ServerSeen> {
    let backend = frontend.backend(set);
    let of = |line: &Line| {
        let id = parse_instance_name(set, line.get("svname")?)?;
        Some((id, server(id, frontend, line)))
    };
    (lines.iter().filter(|line| is_of(line, &backend)))
        .filter_map(of)
        .collect()
}

/// The line of a backend itself.
pub fn backend<'l>(backend: &str, lines: &'l [Line]) -> Option<&'l Line> {
    lines
        .iter()
        .find(|line| is_of(line, backend) && line.get("svname").is_some_and(|name| name == "BACKEND"))
}

/// Requests that wait in a backend for any of its servers. HAProxy counts those that wait for one server at that server alone.
pub fn queue(name: &str, lines: &[Line]) -> u64 {
    backend(name, lines).map_or(0, |line| number(line, "qcur"))
}

/// A field that is a number; 0 where it is empty.
fn number(line: &Line, key: &str) -> u64 {
    line.get(key).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_of(line: &Line, backend: &str) -> bool {
    line.get("pxname").is_some_and(|name| name == backend)
}

fn server(id: InstanceId, frontend: &Frontend, line: &Line) -> ServerSeen {
    let text = |key: &str| line.get(key).map_or("", String::as_str);
    let number = |key: &str| number(line, key);
    let status = text("status");
    let word = status.split(' ').next().unwrap_or_default();
    let (check, code) = (text("check_status"), text("check_code"));
    let is_checked = !matches!(check.trim_start_matches("* "), "" | "UNK" | "INI");
    let requests = match frontend.mode {
        Mode::Http => number("req_tot").max(
            number("hrsp_1xx")
                + number("hrsp_2xx")
                + number("hrsp_3xx")
                + number("hrsp_4xx")
                + number("hrsp_5xx")
                + number("hrsp_other"),
        ),
        Mode::Tcp => number("stot"),
    };
    let last_check = match (is_checked, code, text("check_duration")) {
        (false, ..) => String::new(),
        (true, "", took) => format!("{check} in {took} ms"),
        (true, code, took) => format!("{check}/{code} in {took} ms"),
    };
    ServerSeen {
        frontend: frontend.name.clone(),
        id,
        address: text("addr").parse().ok(),
        is_in: word != "MAINT",
        up: match word {
            "UP" if is_checked => Some(true),
            "DOWN" | "NOLB" => Some(false),
            _ => None,
        },
        weight: u32::try_from(number("uweight")).unwrap_or(0),
        connections: number("scur") + number("qcur"),
        limit: u32::try_from(number("slim")).unwrap_or(u32::MAX),
        queue: number("qcur"),
        requests,
        errors: number("econ") + number("eresp"),
        latency: (requests > 0 && frontend.mode == Mode::Http)
            .then(|| Duration::from_millis(number("qtime") + number("ctime") + number("rtime"))),
        last_check,
    }
}

/// The value of a field of `show info`.
pub fn info<'a>(answer: &'a str, field: &str) -> Option<&'a str> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
}

/// The old workers of a master that has reloaded, by `show proc`: they serve the connections they had.
pub fn old_workers(answer: &str) -> Vec<u32> {
    let old = answer
        .lines()
        .skip_while(|line| !line.starts_with("# old workers"))
        .skip(1);
    old.take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

/// The process of a master, by `show proc`.
pub fn master(answer: &str) -> Option<u32> {
    answer.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let pid = words.next()?.parse().ok()?;
        (words.next()? == "master").then_some(pid)
    })
}

/// How many reloads in a row have failed, by `show proc`.
pub fn failed_reloads(answer: &str) -> u32 {
    let count = |line: &str| {
        let (_, rest) = line.split_once("[failed: ")?;
        rest.split(']').next()?.trim().parse().ok()
    };
    answer.lines().find_map(count).unwrap_or(0)
}

/// The sessions of a server, by `show sess`: their handles.
pub fn sessions<'a>(answer: &'a str, backend: &str, server: &str) -> Vec<&'a str> {
    let (be, srv) = (format!("be={backend}"), format!("srv={server}"));
    (answer.lines())
        .filter_map(|line| {
            let (handle, rest) = line.split_once(": ")?;
            let has = |word: &str| rest.split_whitespace().any(|w| w == word);
            let digits = handle.strip_prefix("0x")?;
            let is_handle = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
            (is_handle && has(&be) && has(&srv)).then_some(handle)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::load_balancer;

    const ANSWER: &str = "# pxname,svname,qcur,scur,stot,econ,eresp,status,weight,check_status,check_code,check_duration,addr,uweight,req_tot,rtime,last_chk,\n\
        vmss-web-http,web-1,0,2,9,0,1,UP,40,L7OK,200,2,10.0.0.1:80,100,7,125,\"OK, \"\"fine\"\"\",\n\
        vmss-web-http,web-2,1,0,0,0,0,MAINT,100,INI,,,[fd00::2]:80,100,0,0,,\n\
        vmss-web-http,web-3,0,0,4,3,0,DOWN 1/2,100,L4CON,,0,10.0.0.3:80,50,3,9,,\n\
        vmss-web-http,web-4,0,0,0,0,0,UP 1/2,100,INI,,,10.0.0.4:80,50,0,0,,\n\
        other,web-5,0,0,0,0,0,UP,1,,,,10.0.0.9:80,1,0,0,,\n\
        vmss-web-http,BACKEND,6,0,0,0,0,UP,1,,,,,1,0,0,,\n\
        vmss-web-http,spare,0,0,0,0,0,no check,1,,,,10.0.0.9:80,1,0,0,,\n";

    #[test]
    fn statistics_tell_of_the_sets_servers_and_of_no_others() {
        let set = Label::new("web").unwrap();
        let http = load_balancer(Duration::ZERO).frontends.remove(0);
        let lines = lines(ANSWER).unwrap();
        let rows = servers(&set, &http, &lines);
        assert_eq!(rows.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(backend("vmss-web-http", &lines).is_some());
        assert!(backend("other", &lines).is_none());
        let of = |id| &rows[&InstanceId(id)];
        assert_eq!(
            *of(1),
            ServerSeen {
                frontend: Label::new("http").unwrap(),
                id: InstanceId(1),
                address: "10.0.0.1:80".parse().ok(),
                is_in: true,
                up: Some(true),
                weight: 100,
                connections: 2,
                limit: 0,
                queue: 0,
                requests: 7,
                errors: 1,
                latency: Some(Duration::from_millis(125)),
                last_check: "L7OK/200 in 2 ms".into(),
            }
        );
        assert_eq!((of(2).is_in, of(2).up, of(2).connections), (false, None, 1));
        assert_eq!((of(2).queue, of(2).latency), (1, None), "it had no request yet");
        assert_eq!((queue("vmss-web-http", &lines), queue("other", &lines)), (6, 0));
        assert_eq!(of(2).address, "[fd00::2]:80".parse().ok());
        assert_eq!(
            (of(3).up, of(3).errors, of(3).last_check.as_str()),
            (Some(false), 3, "L4CON in 0 ms")
        );
        // It counts as up until its first check: that is nothing it was seen to be.
        assert_eq!((of(4).up, of(4).last_check.as_str()), (None, ""));
        let tcp = Frontend {
            mode: Mode::Tcp,
            ..http
        };
        let of_tcp = servers(&set, &tcp, &lines).remove(&InstanceId(1)).unwrap();
        assert_eq!((of_tcp.requests, of_tcp.latency), (9, None));
    }

    #[test]
    fn what_is_no_statistics_is_refused() {
        assert!(
            lines("No such proxy.")
                .unwrap_err()
                .why
                .contains("No such proxy.")
        );
    }

    #[test]
    fn processes_are_found() {
        let answer = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
            20128           master          2 [failed: 0]   0d00h00m19s     2.6.12\n\
            # workers\n20318           worker          0               0d00h00m01s     2.6.12\n\
            # old workers\n20190           worker          1               0d00h00m01s     2.6.12\n\
            20130           worker          2               0d00h00m01s     2.6.12\n# programs\n";
        assert_eq!(
            (master(answer), old_workers(answer)),
            (Some(20128), vec![20190, 20130])
        );
        assert_eq!(failed_reloads(answer), 0);
        assert_eq!(failed_reloads("20128  master  2 [failed: 3]   0d00h00m19s"), 3);
        assert_eq!(
            old_workers("# workers\n1 worker 0\n# programs\n"),
            Vec::<u32>::new()
        );
    }

    #[test]
    fn sessions_of_one_server_are_no_others() {
        let answer = "0x1: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00\n\
            0x2: proto=tcpv4 src=127.0.0.1:42976 fe=t be=vmss-web-t srv=web-1 ts=00\n\
            0x2; show env: be=vmss-web-t srv=web-1\n\
            0x3: proto=tcpv4 src=127.0.0.1:42977 fe=t be=vmss-web-t srv=web-11 ts=00\n\
            0x4: proto=tcpv4 src=127.0.0.1:42978 fe=t be=vmss-web-u srv=web-1 ts=00\n";
        assert_eq!(sessions(answer, "vmss-web-t", "web-1"), ["0x2"]);
    }
}
