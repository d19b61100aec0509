//! The real programs that the tests run: Debian's, and tools from PyPI in environments of their own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of `docker-registry` or `skopeo`. Where it is missing and we may, Debian's packages are installed; test
/// processes that run at the same time wait for the one that does it.
///
/// # Panics
/// With what to install, where that is not possible.
pub fn program(name: &str) -> PathBuf {
    if let Some(path) = find(name) {
        return path;
    }
    let _lock = lock_packages();
    if let Some(path) = find(name) {
        return path;
    }
    install(name, &["docker-registry", "skopeo"]);
    find(name).unwrap_or_else(|| {
        panic!("`{name}` is missing; these tests need it: apt-get install --no-install-recommends docker-registry skopeo")
    })
}

/// apt waits for nobody: one of the tests' processes at a time.
fn lock_packages() -> File {
    let lock = File::create(std::env::temp_dir().join("transship-tests.install.lock")).expect("the lock of the installation");
    lock.lock().expect("the lock of the installation");
    lock
}

/// Installs packages of Debian's, where we may.
fn install(missing: &str, packages: &[&str]) {
    if !is_root() {
        return;
    }
    for arguments in [&["update"][..], &[&["install", "-y", "--no-install-recommends"], packages].concat()] {
        let done = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            panic!("`{missing}` is missing and `apt-get {}` failed: {done:?}", arguments.join(" "));
        }
    }
}

/// A program from PyPI: its name, and what is installed, with every version that matters.
const TOOLS: [(&str, &str, &[&str]); 5] = [
    ("ministack", "1.5.33", &["ministack==1.5.33", "aws-sam-translator==1.115.0", "boto3==1.43.106"]),
    ("sam", "1.170.0", &["aws-sam-cli==1.170.0"]),
    ("cargo-lambda", "1.9.2", &["cargo-lambda==1.9.2"]),
    ("openapi-spec-validator", "0.9.0", &["openapi-spec-validator==0.9.0"]),
    ("schemathesis", "4.32.5", &["schemathesis==4.32.5"]),
];

/// The path of a program from PyPI. It is installed in `target/tools/NAME-VERSION` the first time; test processes that run at the
/// same time wait for the one that does it.
///
/// # Panics
/// Where it can't be installed, with what was tried.
pub fn tool(name: &str) -> PathBuf {
    let (_, version, packages) = TOOLS.into_iter().find(|(known, ..)| *known == name).expect("a tool that is known here");
    let dir = target().join("tools").join(format!("{name}-{version}"));
    let (program, complete) = (dir.join("bin").join(name), dir.join("complete"));
    if complete.exists() {
        return program;
    }
    fs::create_dir_all(target().join("tools")).expect("the folder of the tools");
    let lock = File::create(dir.with_extension("lock")).expect("the lock of the installation");
    lock.lock().expect("the lock of the installation");
    if complete.exists() {
        return program;
    }
    let has_venv = || {
        let asked = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    let _packages = lock_packages();
    if !has_venv() {
        install("python3 with venv", &["python3", "python3-venv"]);
    }
    // What an installation that was broken off has left.
    let _ = fs::remove_dir_all(&dir);
    run(Command::new("python3").args(["-m", "venv"]).arg(&dir));
    let pip = ["install", "--quiet", "--disable-pip-version-check", "--retries", "10"];
    run(Command::new(dir.join("bin/pip")).args(pip).args(packages));
    File::create(complete).expect("the mark of a complete installation");
    program
}

fn run(command: &mut Command) {
    let done = command.output();
    assert!(done.as_ref().is_ok_and(|output| output.status.success()), "{command:?} failed: {done:?}");
}

/// The folder that everything is built in.
pub(crate) fn target() -> &'static Path {
    static TARGET: OnceLock<PathBuf> = OnceLock::new();
    TARGET.get_or_init(|| {
        let this = std::env::current_exe().expect("the path of this test");
        // target/<profile>/deps/<test>
        this.ancestors().nth(3).expect("the target folder").to_owned()
    })
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/bin".into()]).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
