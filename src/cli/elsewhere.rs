//! Trials in another process: what offers cooperative matrices is experimental, and a driver that can't compile them may end
//! the process that asks it to.

use crate::device::Strategy;
use crate::error::{Error, Result};
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Bounds a trial. The longest that was seen, of matrices of f16 on Mesa 26.1.6, took 5 s.
const LIMIT: Duration = Duration::from_secs(60);
/// Says how often it is looked whether a trial has ended.
const INTERVAL: Duration = Duration::from_millis(5);

/// Has another process try `strategy` for the products of this name, on the device that `request` names.
///
/// # Errors
/// What that process says, or how it ended.
pub fn in_child(request: Option<&str>, product: &'static str, strategy: Strategy) -> Result<()> {
    let refused = |problem: String| {
        Error::Check(format!(
            "{product} by {strategy}, tried elsewhere: {problem}"
        ))
    };
    let program = std::env::current_exe().map_err(|error| refused(error.to_string()))?;
    let json = serde_json::to_string(&strategy).expect("plain data is always JSON");
    let mut command = Command::new(program);
    command.args(["trial", "--product", product, "--strategy", &json]);
    if let Some(request) = request {
        command.arg(format!("--device={request}"));
    }
    outcome(&mut command, LIMIT).map_err(refused)
}

/// Runs `command`, but not beyond the limit. Returns what was wrong with it: the last thing that it said, or how it ended.
fn outcome(command: &mut Command, limit: Duration) -> std::result::Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it can't be run: {error}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < limit => sleep(INTERVAL),
            Ok(None) => {
                // Fails if it has ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it wasn't through after {} s", limit.as_secs_f32()));
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Whatever could be read is enough.
        let _ = stderr.read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    Err(match (status.code(), said.trim().lines().last()) {
        (Some(_), Some(last)) => last.trim_start_matches("error: ").to_owned(),
        _ => format!("it ended with {status}"),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn of_script(script: &str, limit: Duration) -> std::result::Result<(), String> {
        outcome(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn a_crash_is_told_as_one() {
        let problem = of_script("echo here it comes >&2; kill -s SEGV $$", LIMIT).unwrap_err();
        assert!(problem.contains("signal"), "{problem}");
    }

    #[test]
    fn an_error_is_repeated_and_success_is_none() {
        let problem = of_script("echo device: x >&2; echo error: wrong >&2; exit 4", LIMIT);
        assert_eq!(problem, Err("wrong".to_owned()));
        let silent = of_script("exit 4", LIMIT).unwrap_err();
        assert!(silent.contains('4'), "{silent}");
        assert_eq!(of_script("echo fine >&2", LIMIT), Ok(()));
    }

    #[test]
    fn one_without_end_is_ended() {
        let problem = of_script("exec sleep 100", Duration::from_millis(50)).unwrap_err();
        assert!(problem.contains("0.05 s"), "{problem}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let problem = outcome(&mut Command::new("/nowhere/at/all"), LIMIT).unwrap_err();
        assert!(problem.contains("can't be run"), "{problem}");
    }
}
