//! A command in a guest, through its agent: begun, then asked for until it has ended.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::agent;
use super::connection::Session;
use crate::hypervisor::{FaultKind, HypervisorError, Ran};
use crate::plan::action::InstanceRef;

/// How soon a command is asked for the first time, and how seldom later: most end at once, others take long.
const SOONEST: Duration = Duration::from_millis(50);
/// See [`SOONEST`].
const SELDOM: Duration = Duration::from_secs(1);

/// See [`crate::hypervisor::Hypervisor::exec`].
pub fn exec(
    session: &Session<'_>,
    instance: &InstanceRef,
    command: &[String],
    patience: Duration,
) -> Result<Ran, HypervisorError> {
    let doing = format!("running a command in {}", instance.name);
    let Some((program, arguments)) = command.split_first() else {
        return Err(HypervisorError::new(
            FaultKind::Other,
            doing,
            "there is no command",
        ));
    };
    let domain = agent::listening(session, instance, &doing)?;
    let begin = json!({
        "execute": "guest-exec",
        "arguments": { "path": program, "arg": arguments, "capture-output": true },
    });
    let answer = agent::command(session, &doing, &domain, &begin.to_string())
        .map_err(|fault| agent::failure(fault, &doing))?;
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
            Err(fault) if agent::is_silence(&fault) => {}
            Err(fault) => return Err(agent::failure(fault, &doing)),
        }
        session.safe_point(&doing)?;
        let left = patience.saturating_sub(began.elapsed());
        if left.is_zero() {
            let text = format!(
                "it has not ended within {} s, and goes on in the guest as process {pid}",
                patience.as_secs_f64()
            );
            return Err(HypervisorError::new(FaultKind::TimedOut, &doing, text));
        }
        std::thread::sleep(wait.min(left));
        session.pulse().beat();
        wait = (wait * 2).min(SELDOM);
    }
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
    let output = |key: &str| match status.get(key).and_then(Value::as_str) {
        Some(text) => BASE64_STANDARD.decode(text).map_err(|e| format!("{key}: {e}")),
        None => Ok(Vec::new()),
    };
    let number = |key: &str| status.get(key).and_then(Value::as_i64);
    // Codes beyond a byte are Windows guests'.
    let code = match (number("exitcode"), number("signal")) {
        (_, Some(signal)) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        (Some(code), None) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, None) => return Err(status.to_string()),
    };
    Ok(Some(Ran {
        code,
        stdout: output("out-data")?,
        stderr: output("err-data")?,
        is_cut: is("out-truncated") || is("err-truncated"),
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
