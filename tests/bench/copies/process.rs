//! What a program took: time, CPU, memory.

use std::{
    fs,
    io::{Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How often a program's peak memory is looked at: what it adds in its last moment is not seen.
const LOOK: Duration = Duration::from_millis(4);
/// The unit of the kernel's times, which is the same on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);

/// What one program or a pipe of two took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) wall: Duration,
    /// In user space and in the kernel.
    pub(crate) cpu: Duration,
    pub(crate) peak_kib: u64,
}

/// Runs a program to its end.
///
/// # Panics
/// If it fails, with what it said.
pub(crate) fn run(command: Command) -> Used {
    pipe([command])
}

/// Runs programs of which each reads what the one before it writes.
pub(crate) fn pipe<const N: usize>(commands: [Command; N]) -> Used {
    let began = Instant::now();
    let mut children: Vec<(String, Child)> = Vec::new();
    let mut errors = tempfile::tempfile().expect("a file");
    for mut command in commands {
        if let Some(before) = children.last_mut().and_then(|(_, child)| child.stdout.take()) {
            command.stdin(before);
        } else {
            command.stdin(Stdio::null());
        }
        let child = command.stdout(Stdio::piped()).stderr(errors.try_clone().expect("a handle")).spawn();
        children.push((format!("{command:?}"), child.expect("the program starts")));
    }
    let ended = AtomicBool::new(false);
    let peaks: Vec<AtomicU64> = children.iter().map(|_| AtomicU64::new(0)).collect();
    let pids: Vec<u32> = children.iter().map(|(_, child)| child.id()).collect();
    let mut used = Used::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for (pid, peak) in pids.iter().zip(&peaks) {
                    peak.fetch_max(peak_of(*pid).unwrap_or(0), Ordering::Relaxed);
                }
                thread::sleep(LOOK);
            }
        });
        // Its output ends when it does.
        let output = children.last_mut().and_then(|(_, child)| child.stdout.take());
        output.expect("its output").read_to_end(&mut Vec::new()).expect("its output");
        used.wall = began.elapsed();
        for (what, child) in &mut children {
            // Its times can be read as long as nobody has waited for it.
            while !is_over(child.id()) {
                thread::sleep(Duration::from_millis(1));
            }
            used.cpu += cpu_of(child.id());
            if !child.wait().expect("its status").success() {
                let mut said = String::new();
                errors.rewind().and_then(|()| errors.read_to_string(&mut said)).expect("what it said");
                panic!("{what}: {said}");
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    used.peak_kib = peaks.iter().map(|peak| peak.load(Ordering::Relaxed)).sum();
    used
}

/// Runs as somebody who is not root, where we are: skopeo then keeps its cache in this folder, and not on the machine's disk.
pub(crate) fn at_home(command: &mut Command, home: &Path) {
    const NOBODY: u32 = 65534;
    command.env("HOME", home).env_remove("XDG_DATA_HOME").env_remove("XDG_RUNTIME_DIR").current_dir("/");
    if std::os::unix::fs::chown(home, Some(NOBODY), Some(NOBODY)).is_ok() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

fn peak_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// `/proc/PID/stat` from the state on, which is after the name in brackets.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process's state");
    let (_, rest) = stat.rsplit_once(") ").expect("its name");
    rest.split(' ').map(str::to_owned).collect()
}

fn is_over(pid: u32) -> bool {
    stat(pid)[0] == "Z"
}

fn cpu_of(pid: u32) -> Duration {
    let ticks: u32 = stat(pid)[11..=12].iter().map(|ticks| ticks.parse::<u32>().expect("a number")).sum();
    TICK * ticks
}
