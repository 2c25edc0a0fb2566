//! A private libvirtd that serves libvirt's simulation, alone in a temporary folder.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use virt::connect::Connect;

/// Ended, with everything it simulated, when dropped.
pub struct Simulation {
    daemon: Child,
    folder: tempfile::TempDir,
    /// The simulation vanishes with its last connection.
    pub holder: Connect,
}

impl Simulation {
    /// Starts a daemon. As root it runs as `nobody`: root's libvirtd would serve this machine's own drivers.
    pub fn start() -> Self {
        // Short, because a socket's path has 107 characters at most.
        let folder = tempfile::Builder::new()
            .prefix("vmss-")
            .tempdir_in("/tmp")
            .unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0777\"\n",
            folder.path().display()
        );
        fs::write(at("libvirtd.conf"), config).unwrap();
        let mut command = Command::new("libvirtd");
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            chown(folder.path(), Some(65534), Some(65534)).unwrap();
            command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "libvirtd"]);
        }
        command
            .arg("-f")
            .arg(at("libvirtd.conf"))
            .arg("-p")
            .arg(at("pid"));
        for variable in ["HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(variable, folder.path());
        }
        let mut daemon = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("libvirtd (Debian: libvirt-daemon-system) must be installed");
        virt::error::clear_error_callback();
        let uri = uri_of(&at("libvirt-sock"));
        let began = Instant::now();
        let holder = loop {
            match Connect::open(Some(&uri)) {
                Ok(holder) => break holder,
                Err(error) => {
                    assert_eq!(daemon.try_wait().unwrap(), None, "libvirtd ended: {error}");
                    assert!(began.elapsed() < Duration::from_secs(20), "libvirtd: {error}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        Self {
            daemon,
            folder,
            holder,
        }
    }

    /// Where it listens.
    pub fn uri(&self) -> String {
        uri_of(&self.folder.path().join("libvirt-sock"))
    }

    /// The daemon's process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.daemon.id()).unwrap()
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no preconditions; the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn uri_of(socket: &Path) -> String {
    format!("test+unix:///default?socket={}", socket.display())
}
