//! The program and what it reads of outside: whatever that does, an operator's Ctrl-C ends it.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should panic where it stands"
)]

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const REST: &str = "[instance]\nmemory = \"1 GiB\"\n[[fault_domains]]\nname = \"a\"\n\
                    hosts = [{ name = \"kvm1\", uri = \"test:///default\" }]\n";

/// Starts vmss in a folder of its own.
fn vmss(folder: &Path, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vmss"))
        .args(args)
        .current_dir(folder)
        .env("VMSS_STATE", folder.join("state.db"))
        .env("VMSS_CACHE", folder.join("cache"))
        .env_remove("VMSS_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its exit code, and what it said.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn one_signal_ends_a_download_whose_server_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let definition = format!(
        "name = \"web\"\n[image]\nsource = \"http://{}/image\"\nsha256 = \"{}\"\n{REST}",
        listener.local_addr().unwrap(),
        "0".repeat(64)
    );
    std::fs::write(folder.path().join("scaleset.toml"), definition).unwrap();
    for (command, signal) in [
        ("plan", libc::SIGINT),
        ("create", libc::SIGTERM),
        ("check", libc::SIGINT),
    ] {
        let child = vmss(folder.path(), &[command]);
        let (mut silent, _) = listener.accept().unwrap();
        assert!(silent.read(&mut [0; 64]).unwrap() > 0, "it has asked");
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        // SAFETY: it only takes numbers; the process is this test's and has not been waited for.
        unsafe { libc::kill(pid, signal) };
        let (code, said) = ended(child);
        assert_eq!(code, Some(130), "{command}: {said}");
        assert!(said.contains("stopped while http://"), "{command}: {said}");
    }
}

#[test]
fn a_definition_may_come_from_a_pipe_of_the_shell_and_from_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let (code, said) = ended(vmss(folder.path(), &["-f", "pipe", "validate"]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("it is a named pipe"), "{said}");
    let shell = format!(
        "printf '%s' 'name = \"web\"\n[image]\nsource = \"i\"\n{REST}' | {} -f /dev/stdin validate",
        env!("CARGO_BIN_EXE_vmss")
    );
    let run = Command::new("sh").arg("-c").arg(shell).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
