//! What holds for every format, and how a text comes into its file.

use std::os::unix::fs::{chown, symlink};
use std::time::Instant;

use proptest::prelude::*;
use tempfile::TempDir;

use super::testing::{discovery, label, server, three};
use super::*;
use crate::membership::Duty;
use crate::plan::testing::cases;

const FORMATS: [(Format, &str); 5] = [
    (Format::Prometheus, "/f.json"),
    (Format::Traefik, "/f.yml"),
    (Format::Traefik, "/f.toml"),
    (Format::Envoy, "/f.json"),
    (Format::Nginx, "/f.conf"),
];

/// A deadline that no test comes to unless it means to.
const PATIENT: Duration = Duration::from_secs(20);

fn any_membership() -> impl Strategy<Value = Membership> {
    let duty = prop_oneof![Just(Duty::In), Just(Duty::Out), Just(Duty::Cut)];
    let any = (duty, any::<bool>(), 1..=100_u32, 0..3_usize);
    prop::collection::vec(any, 0..40).prop_map(|drawn| {
        let servers = (1..).zip(drawn).map(|(id, (duty, v6, weight, domain))| {
            let address = if v6 {
                format!("fd00::{id:x}")
            } else {
                format!("10.9.0.{id}")
            };
            let mut server = server(id, &address, duty);
            (server.weight, server.fault_domain) = (weight, label(["a", "b", "c"][domain]));
            server
        });
        Membership {
            servers: servers.collect(),
        }
    })
}

/// Whether a text has the server's address, as its format writes it.
fn names(text: &str, format: Format, server: &Server) -> bool {
    let socket = SocketAddr::new(server.address, 80);
    text.contains(&match format {
        Format::Prometheus => format!("\"{socket}\""),
        Format::Traefik => format!("\"http://{socket}\""),
        Format::Envoy => format!("\"{}\"", server.address),
        Format::Nginx => format!(" {socket} "),
    })
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn clients_are_led_to_those_that_take_them_and_to_nobody_else(membership in any_membership()) {
        for (format, file) in FORMATS {
            let text = render(&discovery(format, file), &label("web"), &membership);
            for server in &membership.servers {
                let wanted = !format.leads_traffic() || server.duty.is_in();
                prop_assert_eq!(names(&text, format, server), wanted, "{:?} in {}", server, text);
            }
        }
    }

    #[test]
    fn the_order_of_the_servers_does_not_matter(membership in any_membership()) {
        let reversed = Membership { servers: membership.servers.iter().rev().cloned().collect() };
        for (format, file) in FORMATS {
            let discovery = discovery(format, file);
            let text = |m: &Membership| render(&discovery, &label("web"), m);
            prop_assert_eq!(text(&membership), text(&reversed));
        }
    }

    /// Traefik sends its files through Go's templates.
    #[test]
    fn traefik_finds_no_template_in_its_file(membership in any_membership()) {
        for file in ["/f.yml", "/f.toml"] {
            let text = render(&discovery(Format::Traefik, file), &label("web"), &membership);
            prop_assert!(!text.contains("{{"), "{}", text);
        }
    }
}

/// A folder of its own with a discovery file that may be in it, and a reload command that writes a line into `told`.
struct Place {
    folder: TempDir,
    discovery: Discovery,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.conf");
        let discovery = discovery(Format::Nginx, file.to_str().unwrap());
        Self { folder, discovery }
    }

    fn with_reload(script: &str) -> Self {
        let mut place = Self::new();
        place.reload(script);
        place
    }

    /// The reload command is a shell script from now on; `$0` is the folder.
    fn reload(&mut self, script: &str) {
        let folder = self.folder.path().to_str().unwrap();
        self.discovery.reload = ["/bin/sh", "-c", script, folder].map(str::to_owned).to_vec();
    }

    fn publish(&self, membership: &Membership) -> Result<bool, DiscoveryError> {
        publish(&self.discovery, &label("web"), membership)
    }

    fn publish_within(&self, deadline: Duration) -> Result<bool, DiscoveryError> {
        bring(&self.discovery, "text\n", deadline)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.discovery.file).unwrap()
    }

    fn metadata(&self) -> Metadata {
        fs::metadata(&self.discovery.file).unwrap()
    }

    /// How often the reload command was run, if it is `echo >> $0/told`.
    fn told(&self) -> usize {
        let told = fs::read_to_string(self.folder.path().join("told"));
        told.map_or(0, |told| told.lines().count())
    }

    /// The names in the folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_file_that_is_right_is_not_touched() {
    let place = Place::new();
    assert_eq!(place.publish(&three()), Ok(true));
    let before = place.metadata();
    assert_eq!(before.mode() & 0o7777, 0o644);
    assert_eq!(place.publish(&three()), Ok(false));
    assert_eq!(
        (place.metadata().ino(), place.metadata().mtime_nsec()),
        (before.ino(), before.mtime_nsec())
    );
    assert_eq!(place.publish(&Membership::default()), Ok(true));
    assert_ne!(place.metadata().ino(), before.ino());
    assert_eq!(place.names(), ["web.conf"]);
}

#[test]
fn the_mode_and_the_owner_of_a_file_are_kept() {
    let place = Place::new();
    fs::write(&place.discovery.file, "old").unwrap();
    fs::set_permissions(&place.discovery.file, Permissions::from_mode(0o640)).unwrap();
    // Who is not root can't give a file away, and keeps its own.
    let given = chown(&place.discovery.file, Some(12345), Some(23456)).is_ok();
    let before = place.metadata();
    assert_eq!(before.uid() == 12345, given);
    assert_eq!(place.publish(&three()), Ok(true));
    let after = place.metadata();
    assert_eq!(
        (after.mode(), after.uid(), after.gid()),
        (before.mode(), before.uid(), before.gid())
    );
}

#[test]
fn a_link_of_the_operators_stays_and_what_it_leads_to_is_replaced() {
    let place = Place::new();
    let kept = place.folder.path().join("kept");
    fs::create_dir(&kept).unwrap();
    let elsewhere = kept.join("elsewhere");
    // Relative, and to a file that is not there yet.
    symlink("kept/elsewhere", &place.discovery.file).unwrap();
    assert_eq!(place.publish(&three()), Ok(true));
    assert_eq!(place.publish(&three()), Ok(false));
    assert!(fs::symlink_metadata(&place.discovery.file).unwrap().is_symlink());
    let text = fs::read_to_string(&elsewhere).unwrap();
    assert_eq!(text, place.text());
    assert!(fs::symlink_metadata(&elsewhere).unwrap().is_file());
    withdraw(&place.discovery, &label("web")).unwrap();
    assert!(fs::symlink_metadata(&place.discovery.file).unwrap().is_symlink());
    assert_ne!(fs::read_to_string(&elsewhere).unwrap(), text);
}

#[test]
fn a_link_of_somebody_elses_is_replaced_and_what_it_led_to_is_left_alone() {
    let place = Place::new();
    let elsewhere = place.folder.path().join("elsewhere");
    fs::write(&elsewhere, "old").unwrap();
    symlink(&elsewhere, &place.discovery.file).unwrap();
    if std::os::unix::fs::lchown(&place.discovery.file, Some(4711), None).is_err() {
        let _ = std::io::stderr().write_all(b"skipped: only root may give a link away\n");
        return;
    }
    assert_eq!(place.publish(&three()), Ok(true));
    assert!(fs::symlink_metadata(&place.discovery.file).unwrap().is_file());
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "old");
}

#[test]
fn links_that_lead_in_a_circle_are_told() {
    let place = Place::new();
    symlink(&place.discovery.file, &place.discovery.file).unwrap();
    let error = place.publish(&three()).unwrap_err();
    assert_eq!(error.doing, Doing::Reading);
}

#[test]
fn readers_never_see_half_a_text() {
    let place = Place::new();
    let (short, long) = ("short\n".to_owned(), "a long line\n".repeat(5000));
    bring(&place.discovery, &short, PATIENT).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for _ in 0..2000 {
                let seen = place.text();
                assert!(seen == short || seen == long, "{} bytes", seen.len());
            }
        });
        while !reader.is_finished() {
            bring(&place.discovery, &long, PATIENT).unwrap();
            bring(&place.discovery, &short, PATIENT).unwrap();
        }
    });
}

#[test]
fn nothing_is_left_behind_by_a_failure() {
    let place = Place::new();
    // A file can't be renamed to a folder.
    fs::create_dir(&place.discovery.file).unwrap();
    assert!(write(&place.discovery.file, "text", None).is_err());
    assert_eq!(place.names(), ["web.conf"]);
    let error = place.publish(&three()).unwrap_err();
    assert_eq!(error.doing, Doing::Reading);
    assert_eq!(
        error.to_string(),
        format!(
            "reading {}: it is not a regular file",
            place.discovery.file.display()
        )
    );
}

#[test]
fn a_folder_that_is_missing_is_not_made() {
    let mut place = Place::new();
    place.discovery.file = place.folder.path().join("missing/web.conf");
    let error = place.publish(&three()).unwrap_err();
    assert_eq!(
        (error.doing, &error.file),
        (Doing::Writing, &place.discovery.file)
    );
    assert!(error.why.contains("No such file"), "{error}");
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn readers_are_told_once_of_each_change() {
    let place = Place::with_reload("echo >> $0/told");
    assert_eq!(place.publish(&three()), Ok(true));
    assert_eq!(place.publish(&three()), Ok(false));
    assert_eq!(place.told(), 1);
    assert_eq!(place.publish(&Membership::default()), Ok(true));
    assert_eq!(place.told(), 2);
    assert_eq!(place.names(), ["told", "web.conf"]);
}

#[test]
fn the_new_text_is_there_when_readers_are_told() {
    let place = Place::with_reload("cp $0/web.conf $0/told");
    place.publish(&three()).unwrap();
    assert_eq!(
        fs::read_to_string(place.folder.path().join("told")).unwrap(),
        place.text()
    );
}

#[test]
fn a_command_that_failed_is_run_again() {
    let mut place = Place::with_reload("echo >> $0/told; echo not now >&2; exit 3");
    for times in 1..=2 {
        let error = place.publish(&three()).unwrap_err();
        assert_eq!(error.doing, Doing::Reloading);
        assert!(error.why.ends_with("failed, exit status: 3: not now"), "{error}");
        assert_eq!(place.told(), times);
    }
    let inode = place.metadata().ino();
    place.reload("echo >> $0/told");
    assert_eq!(place.publish(&three()), Ok(true));
    assert_eq!((place.told(), place.metadata().ino()), (3, inode));
    assert_eq!(place.publish(&three()), Ok(false));
    assert_eq!(place.names(), ["told", "web.conf"]);
}

#[test]
fn a_command_that_was_never_begun_is_run_by_the_next_process() {
    let place = Place::with_reload("echo >> $0/told");
    let text = render(&place.discovery, &label("web"), &three());
    // What a kill between the rename and the command leaves.
    remember(&marker(&place.discovery.file)).unwrap();
    write(&place.discovery.file, &text, None).unwrap();
    assert_eq!(place.publish(&three()), Ok(true));
    assert_eq!((place.told(), place.publish(&three())), (1, Ok(false)));
}

#[test]
fn nobody_is_waited_for_once_there_is_no_command_any_more() {
    let mut place = Place::with_reload("exit 1");
    assert!(place.publish(&three()).is_err());
    place.discovery.reload.clear();
    assert_eq!(place.publish(&three()), Ok(false));
    assert_eq!(place.names(), ["web.conf"]);
}

#[test]
fn a_command_that_is_not_there_is_an_error() {
    let mut place = Place::new();
    place.discovery.reload = vec!["/nowhere/tell".to_owned(), "now".to_owned()];
    let error = place.publish(&three()).unwrap_err();
    assert!(
        error
            .why
            .starts_with("/nowhere/tell now can't be run: No such file"),
        "{error}"
    );
}

#[test]
fn of_what_a_command_said_the_last_lines_are_told() {
    let script =
        "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i >&2; done; printf '\\033[1mred' >&2; exit 1";
    let error = Place::with_reload(script).publish(&three()).unwrap_err();
    let end = "exit status: 1: line 1998; line 1999; line 2000;  [1mred";
    assert!(error.why.ends_with(end), "{error}");
}

#[test]
fn a_command_has_no_input_and_its_output_goes_nowhere() {
    let place = Place::with_reload("echo said; cat >> $0/told; exit 1");
    let error = place.publish(&three()).unwrap_err();
    assert!(error.why.ends_with("failed, exit status: 1"), "{error}");
    assert_eq!(place.told(), 0);
}

#[test]
fn a_process_that_a_command_leaves_behind_is_not_waited_for() {
    let begin = Instant::now();
    let place = Place::with_reload("sleep 30 & echo $! > $0/pid");
    assert_eq!(place.publish_within(PATIENT), Ok(true));
    assert!(begin.elapsed() < PATIENT);
    let pid = fs::read_to_string(place.folder.path().join("pid")).unwrap();
    assert!(lives(&pid), "it is the command's own");
    std::process::Command::new("kill")
        .arg(pid.trim())
        .status()
        .unwrap();
}

#[test]
fn a_command_that_hangs_is_killed_with_what_it_started() {
    let begin = Instant::now();
    let place = Place::with_reload("sleep 60 & echo $! > $0/pid; echo waiting >&2; wait");
    let error = place.publish_within(Duration::from_secs(3)).unwrap_err();
    assert!(
        error
            .why
            .ends_with("did not end within 3 s and was killed: waiting"),
        "{error}"
    );
    assert!(begin.elapsed() < PATIENT);
    let pid = fs::read_to_string(place.folder.path().join("pid")).unwrap();
    while lives(&pid) {
        assert!(begin.elapsed() < PATIENT, "its child lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    // And again next time.
    assert!(place.publish_within(Duration::from_millis(50)).is_err());
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_set_that_is_gone_leads_nobody_anywhere() {
    for (format, file) in FORMATS {
        let mut place = Place::with_reload("echo >> $0/told");
        place.discovery.format = format;
        place.discovery.file = place.folder.path().join(&file[1..]);
        place.publish(&three()).unwrap();
        for _ in 0..2 {
            withdraw(&place.discovery, &label("web")).unwrap();
        }
        let text = place.text();
        assert_eq!(
            text,
            render(&place.discovery, &label("web"), &Membership::default())
        );
        for server in &three().servers {
            assert!(!names(&text, format, server), "{text}");
        }
        assert_eq!(place.told(), 2);
    }
}

#[test]
fn a_file_that_is_not_there_is_not_withdrawn() {
    let place = Place::with_reload("echo >> $0/told");
    remember(&marker(&place.discovery.file)).unwrap();
    withdraw(&place.discovery, &label("web")).unwrap();
    assert_eq!(place.names(), [""; 0]);
}
