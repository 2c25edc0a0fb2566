//! The HAProxy that vmss runs itself: its folder, its process, its configuration.
//!
//! A master and a worker that carry on when vmss ends. Which configuration they have they say themselves (`show info`),
//! so that a vmss that was killed at any moment leaves nothing to be guessed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::config::Source;
use super::runtime::{Command, Runtime};
use super::stat;
use crate::balancer::{BalancerError, Change};
use crate::image_file::hex;
use crate::intake;
use crate::membership::Membership;
use crate::trust::{self, Shared};

/// How long a start or a reload may take until the new worker answers.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one that is told to end may take before it is killed.
const END: Duration = Duration::from_secs(5);
/// How often is looked whether something has come about.
const GLANCE: Duration = Duration::from_millis(20);

/// Where HAProxy is, beside the PATH: Debian has it where only root's PATH leads.
const PLACES: [&str; 3] = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"];

/// One set's HAProxy on this machine.
#[derive(Clone, Debug)]
pub struct Local {
    folder: PathBuf,
}

impl Local {
    /// With its files in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Where it takes commands.
    pub fn runtime(&self) -> Runtime {
        Runtime::at(&self.folder.join("admin.sock"))
    }

    fn master(&self) -> Runtime {
        Runtime::at(&self.folder.join("master.sock"))
    }

    fn config(&self) -> PathBuf {
        self.folder.join("haproxy.cfg")
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        !self.runtime().is_dead()
    }

    /// Workers of before the last reload, which still have connections.
    ///
    /// # Errors
    /// The master does not answer.
    pub fn old_workers(&self) -> Result<Vec<u32>, BalancerError> {
        let answer = self.master().ask(&Command::new(["show", "proc"]))?;
        Ok(stat::old_workers(&answer))
    }

    /// Asks one of its processes.
    ///
    /// # Errors
    /// See [`Runtime::ask`].
    pub fn ask_process(&self, pid: u32, command: &Command) -> Result<String, BalancerError> {
        self.master().ask_process(pid, command)
    }

    /// The configuration, whole.
    pub fn text(&self, source: &Source, wanted: &Membership) -> String {
        let id = self.identity(source);
        self.whole(source, &id, wanted)
    }

    fn whole(&self, source: &Source, id: &str, wanted: &Membership) -> String {
        source.global(&self.folder, id, user()) + &source.proxies(wanted)
    }

    /// What tells one configuration from another, servers apart: they change at run time. A certificate is part of it, so
    /// that a renewed one is taken up.
    fn identity(&self, source: &Source) -> String {
        let mut hash = Sha256::new();
        hash.update(self.whole(source, "", &Membership::default()));
        // Servers themselves are left out, but not how they are treated.
        for word in source.balancer.frontends.iter().flat_map(|f| source.words(f)) {
            hash.update(word);
        }
        let certificates = source
            .balancer
            .frontends
            .iter()
            .filter_map(|f| f.certificate.as_ref());
        for certificate in certificates {
            hash.update(intake::bytes(certificate, intake::CERTIFICATE).unwrap_or_default());
        }
        hex(&hash.finalize())[..16].to_owned()
    }

    /// Makes it run with the configuration of `source`, with `wanted` in it. The file is right before anything is started or
    /// told, so that whoever starts it next starts the same.
    ///
    /// # Errors
    /// HAProxy is missing, refuses the configuration, can't listen, or does not answer.
    pub fn bring(&self, source: &Source, wanted: &Membership) -> Result<Option<Change>, BalancerError> {
        let id = self.identity(source);
        let text = self.whole(source, &id, wanted);
        self.make_folder()?;
        if !self.is_running() {
            self.write(&text, true)?;
            self.start(&id)?;
            return Ok(Some(Change::Started));
        }
        if self.has(&id)? {
            self.write(&text, false)?;
            return Ok(None);
        }
        let before = intake::text(&self.config(), intake::OURS).ok();
        self.write(&text, true)?;
        if let Err(e) = self.reload(&id) {
            // What runs is the old one: whoever starts it next must start that.
            if let Some(before) = before {
                self.write(&before, false)?;
            }
            return Err(e);
        }
        Ok(Some(Change::Reloaded))
    }

    fn reload(&self, id: &str) -> Result<(), BalancerError> {
        let master = self.master();
        master.ask(&Command::new(["reload"]))?;
        // The master knows at once if the new worker could not be started; the old one goes on then.
        let has_failed = || {
            let answer = master.ask(&Command::new(["show", "proc"]));
            answer.is_ok_and(|answer| stat::failed_reloads(&answer) > 0)
        };
        self.await_configuration(id, "reloading HAProxy", has_failed)
    }

    fn make_folder(&self) -> Result<(), BalancerError> {
        let failed = |e: std::io::Error| {
            BalancerError::refused(format!("making the folder {}", self.folder.display()), e)
        };
        // The longest name in it must fit what a socket's address has room for, one dot and a process number behind it.
        if self.folder.as_os_str().len() > 80 {
            let why = "its path is too long for a socket in it: put the store elsewhere ([state] path)";
            return Err(failed(std::io::Error::other(why)));
        }
        // First the one for all sets: whoever may write to that could put another folder in this one's place.
        let all = self.folder.parent();
        for folder in all.into_iter().chain([&*self.folder]) {
            trust::folder(folder, Shared::No)
                .map_err(|e| BalancerError::refused("using what is beside the store", e))?;
        }
        Ok(())
    }

    /// Writes the configuration, checked by HAProxy itself if it is `new`. A file that is right already is not touched.
    fn write(&self, text: &str, new: bool) -> Result<(), BalancerError> {
        let path = self.config();
        let doing = || format!("writing {}", path.display());
        let failed = |e: &dyn std::fmt::Display| BalancerError::refused(doing(), e);
        if !new && intake::text(&path, intake::OURS).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let mut file = tempfile::Builder::new()
            .prefix(".haproxy.cfg.")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(&self.folder)
            .map_err(|e| failed(&e))?;
        file.write_all(text.as_bytes()).map_err(|e| failed(&e))?;
        file.as_file().sync_all().map_err(|e| failed(&e))?;
        if new {
            self.check(file.path())?;
        }
        file.persist(&path).map_err(|e| failed(&e.error))?;
        Ok(())
    }

    fn check(&self, file: &Path) -> Result<(), BalancerError> {
        let output = haproxy()
            .args(["-c", "-f"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| missing(&e))?;
        if output.status.success() {
            return Ok(());
        }
        Err(BalancerError::refused(
            "checking HAProxy's configuration",
            alerts(&String::from_utf8_lossy(&output.stderr), file),
        ))
    }

    fn start(&self, id: &str) -> Result<(), BalancerError> {
        let doing = "starting HAProxy";
        let said = self.folder.join("start.log");
        let failed = |e: std::io::Error| BalancerError::refused(doing, e);
        // A file and no pipe: what is started lives on with whatever it was given.
        let log = trust::create(&said).map_err(failed)?;
        let status = haproxy()
            .args(["-W", "-D", "-f"])
            .arg(self.config())
            .arg("-p")
            .arg(self.folder.join("pid"))
            .arg("-S")
            .arg(format!("{},mode,600", self.folder.join("master.sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C is meant for vmss, not for what clients go through.
            .process_group(0)
            .status()
            .map_err(|e| missing(&e))?;
        if !status.success() {
            let text = intake::text(&said, intake::OURS).unwrap_or_default();
            return Err(BalancerError::refused(doing, alerts(&text, &self.config())));
        }
        self.await_configuration(id, doing, || false)
    }

    /// Whether the running process has that configuration.
    fn has(&self, id: &str) -> Result<bool, BalancerError> {
        let info = self.runtime().ask(&Command::new(["show", "info"]))?;
        let description = stat::info(&info, "description").unwrap_or_default();
        Ok(description.rsplit(' ').next() == Some(id))
    }

    fn await_configuration(
        &self,
        id: &str,
        doing: &str,
        has_failed: impl Fn() -> bool,
    ) -> Result<(), BalancerError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let has = self.has(id);
            if matches!(has, Ok(true)) {
                return Ok(());
            }
            if has_failed() || Instant::now() >= end {
                let why = match has {
                    Err(e) => e.to_string(),
                    Ok(_) => {
                        "the new configuration was not taken up, and the old one goes on: is one of its new \
                              addresses in use (ss -ltnp)?"
                            .to_owned()
                    }
                };
                return Err(BalancerError::refused(doing, why));
            }
            thread::sleep(GLANCE);
        }
    }

    /// Stops it and removes its files. Connections that are left are closed.
    ///
    /// # Errors
    /// It does not end, or its files can't be removed.
    pub fn retire(&self) -> Result<(), BalancerError> {
        let doing = "stopping HAProxy";
        if let Some(pid) = self.pid() {
            signal(pid, libc::SIGTERM);
            let mut end = Instant::now() + END;
            let mut killed = false;
            while self.is_ours(pid) {
                if Instant::now() >= end {
                    if killed {
                        return Err(BalancerError::refused(
                            doing,
                            format!("process {pid} does not end"),
                        ));
                    }
                    signal(pid, libc::SIGKILL);
                    (killed, end) = (true, Instant::now() + END);
                }
                thread::sleep(GLANCE);
            }
        }
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(BalancerError::refused(
                format!("removing the folder {}", self.folder.display()),
                e,
            )),
            _ => {
                // The folder of all sets' balancers goes with the last of them; while others are in it, it stays.
                if let Some(all) = self.folder.parent() {
                    let _ = fs::remove_dir(all);
                }
                Ok(())
            }
        }
    }

    /// The master's process, if it runs.
    fn pid(&self) -> Option<u32> {
        let by_master = self.master().ask(&Command::new(["show", "proc"])).ok();
        let by_file = || {
            intake::text(&self.folder.join("pid"), intake::OURS)
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let pid = by_master
            .and_then(|answer| stat::master(&answer))
            .or_else(by_file)?;
        self.is_ours(pid).then_some(pid)
    }

    /// Whether a process is an HAProxy of this folder: a number alone may be somebody else's by now.
    fn is_ours(&self, pid: u32) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let config = self.config();
        line.split(|b| *b == 0)
            .any(|word| word == config.as_os_str().as_encoded_bytes())
    }
}

/// HAProxy's own user, to which it changes once it listens, if vmss is root and there is one.
fn user() -> Option<&'static str> {
    // SAFETY: geteuid has no preconditions and can't fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let has_user = users.lines().any(|line| line.starts_with("haproxy:"));
    (is_root && has_user).then_some("haproxy")
}

fn haproxy() -> Program {
    Program::new(program())
}

/// The program to run.
pub fn program() -> &'static str {
    (PLACES.iter())
        .find(|place| Path::new(place).exists())
        .unwrap_or(&"haproxy")
}

/// Its version, as it says itself.
///
/// # Errors
/// It is not there.
pub fn version() -> Result<String, BalancerError> {
    let output = haproxy()
        .arg("-v")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| missing(&e))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1);
    Ok(version.unwrap_or("unknown").to_owned())
}

fn missing(e: &std::io::Error) -> BalancerError {
    let why = match e.kind() {
        std::io::ErrorKind::NotFound => "it is not installed: apt install haproxy (2.6 or later)".to_owned(),
        _ => e.to_string(),
    };
    BalancerError::refused("running HAProxy", why)
}

/// What HAProxy says is wrong, without what it says of itself.
fn alerts(text: &str, file: &Path) -> String {
    let file = file.display().to_string();
    let alerts: Vec<String> = (text.lines())
        .filter(|line| line.starts_with("[ALERT]"))
        .filter_map(|line| Some(line.split_once(" : ")?.1.replace(&file, "haproxy.cfg")))
        .filter(|line| !line.contains("Some protocols failed") && !line.contains("Fatal errors found"))
        .map(|line| super::shown(line.trim()))
        .collect();
    if alerts.is_empty() {
        return super::shown(text.lines().last().unwrap_or("no reason given"));
    }
    alerts.join("; ")
}

fn signal(pid: u32, signal: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return;
    };
    // SAFETY: kill only takes numbers; that the process is this HAProxy was looked up right before.
    unsafe { libc::kill(pid, signal) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> (tempfile::TempDir, Local) {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(&folder.path().join("state.db.lb/web"));
        (folder, local)
    }

    #[test]
    fn a_folder_that_somebody_else_has_put_beside_the_store_is_not_used() {
        let (_keep, local) = place();
        local.make_folder().unwrap();
        local.make_folder().expect("it is there, and as it was made");
        let all = local.folder.parent().unwrap();
        for folder in [all, &local.folder] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
            let said = local.make_folder().unwrap_err().to_string();
            assert!(
                said.contains("others may write to") && said.contains("chmod go-w"),
                "{said}"
            );
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn a_link_beside_the_store_leads_nowhere() {
        let (keep, local) = place();
        let victim = keep.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        fs::create_dir(keep.path().join("elsewhere")).unwrap();
        // In the place of the folder, and then of a file in it.
        fs::create_dir(local.folder.parent().unwrap()).unwrap();
        symlink(keep.path().join("elsewhere"), &local.folder).unwrap();
        local.make_folder().unwrap_err();
        fs::remove_file(&local.folder).unwrap();
        local.make_folder().unwrap();
        symlink(&victim, local.folder.join("start.log")).unwrap();
        let error = local.start("any").unwrap_err();
        assert!(error.to_string().contains("start"), "{error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    }
}
