//! Short bursts of real-time scheduling (`SCHED_RR`) for the broker and the generator, where the
//! system allows it: on a machine that others use too, figures then repeat far better. Done by
//! util-linux's `chrt`; where that is missing or not allowed, nothing changes.

use super::process::Process;
use std::process::{Command, Stdio};

/// The lowest real-time priority: below it is only ordinary scheduling.
const PRIORITY: &str = "1";

/// Real-time scheduling until it is dropped.
#[derive(Debug)]
pub struct Burst(Vec<u32>);

impl Burst {
    /// Begins, if wanted and the broker's process is known.
    pub fn begin(wanted: bool, broker: Option<Process>) -> Self {
        let mut processes = Vec::new();
        if let (true, Some(Process(broker))) = (wanted, broker) {
            processes = vec![broker, std::process::id()];
            processes.retain(|pid| chrt(&["--rr", PRIORITY], *pid));
        }
        Self(processes)
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        for pid in &self.0 {
            chrt(&["--other", "0"], *pid);
        }
    }
}

fn chrt(policy: &[&str; 2], pid: u32) -> bool {
    Command::new("chrt")
        .args([
            "--all-tasks",
            policy[0],
            "--pid",
            policy[1],
            &pid.to_string(),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
