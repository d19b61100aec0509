//! The real programs that the tests run.

use std::{fs::File, path::PathBuf, process::Command};

/// The path of `docker-registry` or `skopeo`. Where it is missing and we may, Debian's packages are installed; test
/// processes that run at the same time wait for the one that does it.
///
/// # Panics
/// With what to install, where that is not possible.
pub fn program(name: &str) -> PathBuf {
    if let Some(path) = find(name) {
        return path;
    }
    let lock = File::create(std::env::temp_dir().join("transship-tests.install.lock")).expect("the lock of the installation");
    lock.lock().expect("the lock of the installation");
    if let Some(path) = find(name) {
        return path;
    }
    if is_root() {
        for arguments in [&["update"][..], &["install", "-y", "--no-install-recommends", "docker-registry", "skopeo"]] {
            let done = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                panic!("`{name}` is missing and `apt-get {}` failed: {done:?}", arguments.join(" "));
            }
        }
    }
    find(name).unwrap_or_else(|| {
        panic!("`{name}` is missing; these tests need it: apt-get install --no-install-recommends docker-registry skopeo")
    })
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/bin".into()]).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
