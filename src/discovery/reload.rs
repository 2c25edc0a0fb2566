//! Reload commands: a reader that does not watch its file is told of it by a command of the operator's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest pause between two looks whether the command has ended.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How long a killed command may take to be gone. One that hangs in the kernel is left behind.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Bytes of what the command said that are looked at, from its end.
const MOST_SAID: u64 = 2 << 10;

/// Lines of that which are shown.
const MOST_LINES: usize = 4;

/// Runs a command, a program and its arguments, without a shell and without input. It is killed, with whatever it has
/// started, if it has not ended after `deadline`. What it says meanwhile is kept in an unnamed file in `folder`.
///
/// # Errors
/// Why it did not succeed, with the last lines of its standard error.
pub(super) fn run(command: &[String], folder: &Path, deadline: Duration) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let shown = command.join(" ");
    let unfit = |e: io::Error| format!("{shown} can't be run: {e}");
    // A file and not a pipe: a command that leaves a process behind would hold the pipe open for as long as that lives.
    let said = tempfile::tempfile_in(folder).map_err(unfit)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(unfit)?)
        // A group of its own: it can be killed whole, and a Ctrl-C that is meant for vmss does not stop it halfway.
        .process_group(0)
        .spawn()
        .map_err(unfit)?;
    match wait(&mut child, deadline).map_err(unfit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{shown} failed, {status}{}", last_lines(&said))),
        None => {
            kill(&mut child);
            let within = deadline.as_secs_f64();
            let last = last_lines(&said);
            Err(format!(
                "{shown} did not end within {within} s and was killed{last}"
            ))
        }
    }
}

/// Waits for the end of `child`; `None` if it has not come after `within`.
fn wait(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + within;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Kills `child`, which leads a group of its own, and the rest of the group.
fn kill(child: &mut Child) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: killpg takes two numbers and touches no memory. The group is the child's own, and its number can't have
        // become another's: the child has not been waited for.
        unsafe { libc::killpg(group, libc::SIGKILL) };
    }
    // There is nothing more to be done with one that does not go.
    let _ = wait(child, LAST_MOMENT);
}

/// The last lines of what a command said, as the end of a sentence; nothing if it said nothing. Fit for a terminal.
fn last_lines(said: &File) -> String {
    let lines = tail(said).unwrap_or_default();
    let lines: Vec<String> = (lines.lines().map(str::trim).filter(|line| !line.is_empty()))
        .map(|line| line.replace(char::is_control, " "))
        .collect();
    match lines.get(lines.len().saturating_sub(MOST_LINES)..) {
        Some([]) | None => String::new(),
        Some(last) => format!(": {}", last.join("; ")),
    }
}

fn tail(said: &File) -> io::Result<String> {
    let from = said.metadata()?.len().saturating_sub(MOST_SAID);
    let mut end = [0; MOST_SAID as usize];
    let read = said.read_at(&mut end, from)?;
    Ok(String::from_utf8_lossy(&end[..read]).into_owned())
}
