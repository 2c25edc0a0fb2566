//! What goes on inside a guest of the fake: its agent runs a few commands, its console echoes.

use std::time::Duration;

use super::call::{Call, Result};
use super::owned::{missing, owned};
use super::{health, measure};
use crate::hypervisor::{ConsoleLog, FaultKind, HypervisorError, MOST_OUTPUT, Ran, Viewer};
use crate::plan::action::InstanceRef;
use crate::units::Bytes;

/// See [`crate::hypervisor::Hypervisor::exec`]. The guest knows `hostname`, `echo ARGS`, `true`, `false`, `complain TEXT`
/// (on its standard error, with code 3), `write BYTES`, `sleep SECONDS`, of virtual time, and `cat` of `/proc/stat`, `/proc/meminfo` and
/// `/proc/loadavg`, which show the load that a test has set.
pub(super) fn exec(
    call: &Call<'_>,
    instance: &InstanceRef,
    command: &[String],
    patience: Duration,
) -> Result<Ran> {
    health::ping(call, instance)?;
    let doing = format!("running a command in {}", instance.name);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let ran = |code, stdout: String, stderr: String| {
        Ok(Ran {
            code,
            stdout: stdout.into_bytes(),
            stderr: stderr.into_bytes(),
            is_cut: false,
        })
    };
    match words.as_slice() {
        ["hostname"] => ran(0, format!("{}\n", instance.name), String::new()),
        ["echo", rest @ ..] => ran(0, format!("{}\n", rest.join(" ")), String::new()),
        ["true"] => ran(0, String::new(), String::new()),
        ["false"] => ran(1, String::new(), String::new()),
        ["complain", rest @ ..] => ran(3, String::new(), format!("{}\n", rest.join(" "))),
        ["cat", files @ ..] => cat(call, instance, files, &doing),
        ["sleep", seconds] => {
            let takes = Duration::from_secs(seconds.parse().unwrap_or(0));
            call.pass(takes.min(patience));
            if takes <= patience {
                return ran(0, String::new(), String::new());
            }
            let text = format!(
                "it has not ended within {} s, and goes on in the guest as process 712",
                patience.as_secs_f64()
            );
            Err(HypervisorError::new(FaultKind::GoesOn, doing, text))
        }
        // As one that writes so many bytes.
        ["write", bytes] => {
            let bytes = bytes.parse().unwrap_or(0);
            Ok(Ran {
                code: 0,
                stdout: vec![b'x'; bytes.min(MOST_OUTPUT)],
                stderr: Vec::new(),
                is_cut: bytes > MOST_OUTPUT,
            })
        }
        _ => {
            let program = words.first().copied().unwrap_or_default();
            let text = format!("env: \u{2018}{program}\u{2019}: No such file or directory\n");
            ran(127, String::new(), text)
        }
    }
}

fn cat(call: &Call<'_>, instance: &InstanceRef, files: &[&str], doing: &str) -> Result<Ran> {
    let read = |file: &&str| {
        call.look_at_fleet(doing, |state, machine| {
            let (domain, _) = owned(machine, instance, doing)?.ok_or_else(|| missing(doing))?;
            Ok(measure::proc(state, domain, file))
        })
    };
    let mut ran = Ran {
        code: 0,
        stdout: Vec::new(),
        stderr: Vec::new(),
        is_cut: false,
    };
    for file in files {
        match read(file)? {
            Some(text) => ran.stdout.extend(text.into_bytes()),
            None => {
                ran.code = 1;
                let text = format!("cat: {file}: No such file or directory\n");
                ran.stderr.extend(text.into_bytes());
            }
        }
    }
    Ok(ran)
}

/// See [`crate::hypervisor::Hypervisor::console`]. The guest asks for a login, echoes what is typed, and hangs up when
/// nothing more is.
pub(super) fn console(
    call: &Call<'_>,
    instance: &InstanceRef,
    _force: bool,
    viewer: &mut dyn Viewer,
) -> Result<()> {
    let doing = format!("opening the console of {}", instance.name);
    let is_active = call.look(&doing, |m| {
        let (domain, _) = owned(m, instance, &doing)?.ok_or_else(|| missing(&doing))?;
        Ok(domain.is_active())
    })?;
    if !is_active {
        let text = "the instance is not running";
        return Err(HypervisorError::new(FaultKind::NotRunning, doing, text));
    }
    viewer.show(format!("{} login: ", instance.name).as_bytes());
    while let Some(typed) = viewer.typed(Duration::ZERO) {
        if typed.is_empty() {
            break;
        }
        viewer.show(&typed);
    }
    viewer.show(b"\n");
    Ok(())
}

/// See [`crate::hypervisor::Hypervisor::console_log`].
pub(super) fn console_log(call: &Call<'_>, instance: &InstanceRef, last: Bytes) -> Result<ConsoleLog> {
    let doing = format!("reading the console log of {}", instance.name);
    let mut text = call.look(&doing, |m| {
        let (domain, _) = owned(m, instance, &doing)?.ok_or_else(|| missing(&doing))?;
        Ok(domain.console.clone().into_bytes())
    })?;
    let end = text.len() as u64;
    let first = usize::try_from(end.saturating_sub(last.0)).unwrap_or(usize::MAX);
    Ok(ConsoleLog {
        text: text.split_off(first.min(text.len())),
        is_cut: first > 0,
        end,
    })
}

/// See [`crate::hypervisor::Hypervisor::follow_console_log`]. Ends when there is nothing more.
pub(super) fn follow_console_log(
    call: &Call<'_>,
    instance: &InstanceRef,
    from: u64,
    show: &mut dyn FnMut(&[u8]),
) -> Result<()> {
    let log = console_log(call, instance, Bytes(u64::MAX))?;
    if let Some(more) = usize::try_from(from).ok().and_then(|from| log.text.get(from..)) {
        show(more);
    }
    Ok(())
}
