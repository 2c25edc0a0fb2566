//! A command in a guest, through its agent: begun, then asked for until it has ended.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::agent::{self, Failure};
use super::connection::Session;
use crate::hypervisor::{FaultKind, HypervisorError, MOST_OUTPUT, Ran};
use crate::plan::action::InstanceRef;

/// How soon a command is asked for the first time, and how seldom later: most end at once, others take long.
const SOONEST: Duration = Duration::from_millis(50);
/// See [`SOONEST`].
const SELDOM: Duration = Duration::from_secs(1);

/// Runs the words behind it in the guest, and passes on no more than the first bytes of each of the two streams; the rest
/// goes nowhere, so that the command ends as it would have. What it has kept comes in one answer of the agent's, coded to
/// base64: one beyond 4 MiB libvirt does not hand on, and at 10 MiB it gives the agent up for good. The words reach `env` as
/// they are: nothing of them is read by this shell. The program is looked for as the agent would, by PATH: left to a busybox, its
/// own program of that name may be run instead.
const CAPPED: &str = r#"
command -v head >/dev/null || exec env -- "$@"
cap() { head -c "$most"; cat >/dev/null; }
most=$1; shift
case $1 in
*/*) ;;
*)
    name=$1; IFS=:
    for folder in $PATH; do
        if [ -f "$folder/$name" ] && [ -x "$folder/$name" ]; then
            shift; set -- "$folder/$name" "$@"; break
        fi
    done
    unset IFS ;;
esac
exec 3>&1
code=$({ { { env -- "$@" 3>&- 4>&- 5>&-; echo $? >&5; } 2>&4 | cap >&3; } 4>&1 | cap >&2; } 5>&1)
exit "$code"
"#;

/// What runs `command` with its output capped.
fn capped(command: &[String]) -> Vec<String> {
    // One more than is kept shows that there was more.
    let most = (MOST_OUTPUT + 1).to_string();
    let shell = ["/bin/sh", "-c", CAPPED, "vmss", &most].map(str::to_owned);
    shell.into_iter().chain(command.iter().cloned()).collect()
}

/// See [`crate::hypervisor::Hypervisor::exec`].
pub fn exec(
    session: &Session<'_>,
    instance: &InstanceRef,
    command: &[String],
    patience: Duration,
) -> Result<Ran, HypervisorError> {
    let doing = format!("running a command in {}", instance.name);
    if command.is_empty() {
        return Err(HypervisorError::new(
            FaultKind::Other,
            doing,
            "there is no command",
        ));
    }
    let domain = agent::listening(session, instance, &doing)?;
    let failed = |failure| agent::looked_at_again(failure, session, &instance.name, &domain, &doing);
    let begin = |command: &[String]| agent::command(session, &doing, &domain, &beginning(command));
    let answer = match begin(&capped(command)) {
        // A guest without that shell, such as Windows: what it writes is kept as the agent keeps it.
        Err(Failure::Other(_)) => begin(command),
        begun => begun,
    }
    .map_err(failed)?;
    let pid = pid(&answer).ok_or_else(|| agent::nonsense(&answer, &doing))?;

    let ask = json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } }).to_string();
    let began = Instant::now();
    let mut wait = SOONEST;
    loop {
        match agent::command(session, &doing, &domain, &ask) {
            Ok(answer) => match ended(&answer) {
                Ok(Some(ran)) => return Ok(ran),
                Ok(None) => {}
                Err(why) => return Err(agent::nonsense(&why, &doing)),
            },
            // The command may keep the guest so busy that its agent is late.
            Err(Failure::Silent | Failure::Deaf) => {}
            Err(failure) => return Err(failed(failure)),
        }
        session.safe_point(&doing)?;
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            let text = format!(
                "it has not ended within {} s, and goes on in the guest as process {pid}",
                patience.as_secs_f64()
            );
            return Err(HypervisorError::new(FaultKind::GoesOn, &doing, text));
        }
        std::thread::sleep(wait.min(left));
        session.pulse().beat();
        wait = (wait * 2).min(SELDOM);
    }
}

/// What has the agent begin a command.
fn beginning(command: &[String]) -> String {
    let (program, arguments) = command
        .split_first()
        .map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    json!({
        "execute": "guest-exec",
        "arguments": { "path": program, "arg": arguments, "capture-output": true },
    })
    .to_string()
}

fn pid(answer: &str) -> Option<i64> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    answer.get("return")?.get("pid")?.as_i64()
}

/// How the command ended; `None` if it has not.
fn ended(answer: &str) -> Result<Option<Ran>, String> {
    let answer: Value = serde_json::from_str(answer).map_err(|e| e.to_string())?;
    let status = answer.get("return").ok_or_else(|| answer.to_string())?;
    let is = |key: &str| status.get(key).and_then(Value::as_bool).unwrap_or(false);
    if !is("exited") {
        return Ok(None);
    }
    let mut is_cut = is("out-truncated") || is("err-truncated");
    let mut output = |key: &str| {
        let Some(text) = status.get(key).and_then(Value::as_str) else {
            return Ok(Vec::new());
        };
        let mut bytes = BASE64_STANDARD.decode(text).map_err(|e| format!("{key}: {e}"))?;
        is_cut |= bytes.len() > MOST_OUTPUT;
        bytes.truncate(MOST_OUTPUT);
        Ok::<_, String>(bytes)
    };
    let number = |key: &str| status.get(key).and_then(Value::as_i64);
    // Codes beyond a byte are Windows guests'.
    let code = match (number("exitcode"), number("signal")) {
        (_, Some(signal)) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        (Some(code), None) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, None) => return Err(status.to_string()),
    };
    let (stdout, stderr) = (output("out-data")?, output("err-data")?);
    Ok(Some(Ran {
        code,
        stdout,
        stderr,
        is_cut,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_command_tells_its_code_and_output() {
        assert_eq!(pid(r#"{"return":{"pid":712}}"#), Some(712));
        assert_eq!(ended(r#"{"return":{"exited":false}}"#), Ok(None));
        let answer = r#"{"return":{"exited":true,"exitcode":3,"out-data":"aGkK","err-truncated":true}}"#;
        let ran = Ran {
            code: 3,
            stdout: b"hi\n".to_vec(),
            stderr: Vec::new(),
            is_cut: true,
        };
        assert_eq!(ended(answer), Ok(Some(ran)));
    }

    /// Runs a command as a guest would.
    fn run(command: &[&str]) -> std::process::Output {
        let words = capped(&command.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let run = std::process::Command::new(&words[0]).args(&words[1..]).output();
        run.expect("this machine has a shell")
    }

    #[test]
    fn the_words_of_a_command_reach_it_as_they_are_and_its_code_comes_back() {
        let ran = run(&["printf", "%s|", "a b", "$HOME `id`", "", "\"'", "ü"]);
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "a b|$HOME `id`||\"'|ü|");
        assert!(ran.status.success() && ran.stderr.is_empty());
        let ran = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(ran.status.code(), Some(7));
        assert_eq!((ran.stdout, ran.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
        assert_eq!(run(&["there-is-no-such-program"]).status.code(), Some(127));
        assert_eq!(
            run(&["exit", "3"]).status.code(),
            Some(127),
            "no word of a shell's"
        );
    }

    #[test]
    fn a_command_that_writes_much_ends_as_it_would_and_is_kept_in_part() {
        let much = "head -c 8000000 /dev/zero; head -c 8000000 /dev/zero >&2; echo end >&2; exit 5";
        let ran = run(&["sh", "-c", much]);
        assert_eq!(ran.status.code(), Some(5), "it is not broken off");
        let kept = (ran.stdout.len(), ran.stderr.len());
        assert_eq!(kept, (MOST_OUTPUT + 1, MOST_OUTPUT + 1));
        let answer = json!({ "return": {
            "exited": true, "exitcode": 5,
            "out-data": BASE64_STANDARD.encode(&ran.stdout), "err-data": BASE64_STANDARD.encode(&ran.stderr),
        }})
        .to_string();
        assert!(
            answer.len() < 4 << 20,
            "libvirt hands on no longer one than 4 MiB: {}",
            answer.len()
        );
        let ran = ended(&answer).unwrap().expect("it has ended");
        assert!(ran.is_cut && ran.stdout.len() == MOST_OUTPUT);
    }

    #[test]
    fn what_a_command_leaves_behind_keeps_nobody_waiting() {
        let ran = run(&["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]);
        let pid = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        let ended = std::process::Command::new("kill").arg(pid).status().unwrap();
        assert!(ended.success(), "it is still there");
    }

    #[test]
    fn a_signal_and_a_windows_code_are_exit_codes_too() {
        let code = |status: &str| {
            let answer = format!(r#"{{"return":{{"exited":true,{status}}}}}"#);
            ended(&answer).map(|ran| ran.map(|ran| ran.code))
        };
        assert_eq!(code(r#""signal":9"#), Ok(Some(137)));
        assert_eq!(code(r#""exitcode":3221225477"#), Ok(Some(255)));
    }

    #[test]
    fn nonsense_is_no_end() {
        for answer in ["", "{}", r#"{"return":{"exited":true}}"#] {
            assert!(ended(answer).is_err(), "{answer:?}");
        }
        let bad = r#"{"return":{"exited":true,"exitcode":0,"out-data":"*"}}"#;
        assert!(ended(bad).is_err());
    }
}
