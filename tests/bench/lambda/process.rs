//! What a function's process has taken, as the kernel and the runtime interface emulator tell.

use std::{fs, time::Duration};

use transship_tests::Rie;

/// The unit of the kernel's times, which is the same on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// Its peak memory in MiB.
pub(crate) fn peak(function: &Rie) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", function.pid())).expect("the function's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// Its time on a processor so far, in user space and in the kernel.
pub(crate) fn cpu(function: &Rie) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", function.pid())).expect("the function's state");
    let (_, rest) = stat.rsplit_once(") ").expect("its name");
    // From the state on: the 12th and 13th field.
    rest.split(' ').skip(11).take(2).map(|ticks| TICK * ticks.parse::<u32>().expect("a number")).sum()
}

/// The time from its start to its first poll.
pub(crate) fn init(function: &Rie) -> Duration {
    *noted(function, "INIT REPORT(durationMs: ", ")").first().expect("a function that has been started")
}

/// The times of its invocations.
pub(crate) fn invocations(function: &Rie) -> Vec<Duration> {
    noted(function, "INVOKE RTDONE(", "ms)")
}

/// The bytes that it has logged so far, with the lines that Lambda adds for each invocation.
pub(crate) fn logged(function: &Rie) -> usize {
    // The emulator's own lines have no counterpart.
    function.log().lines().filter(|line| !line.contains("(rapid)")).map(|line| line.len() + 1).sum()
}

/// The numbers at the end of the emulator's lines of a kind.
fn noted(function: &Rie, kind: &str, end: &str) -> Vec<Duration> {
    let log = function.log();
    let number = |line: &str| {
        let (_, line) = line.split_once(kind)?;
        let line = line.trim_end().strip_suffix(end)?;
        let milliseconds: f64 = line.rsplit_once(' ').map_or(line, |(_, number)| number).parse().ok()?;
        Some(Duration::from_secs_f64(milliseconds / 1000.0))
    };
    log.lines().filter_map(number).collect()
}
