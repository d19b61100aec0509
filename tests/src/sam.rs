//! The SAM CLI: template.yaml checked and built, as its users do it.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use crate::install::{target, tool};

/// The root of the workspace, where template.yaml is.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// A command of the SAM CLI that asks nobody and tells nobody; it is run in the root of the workspace.
pub fn sam(arguments: &[&str]) -> Command {
    let mut command = Command::new(tool("sam"));
    command.args(arguments).current_dir(root());
    command.env("SAM_CLI_TELEMETRY", "0").env("AWS_DEFAULT_REGION", "us-east-1");
    command
}

/// The architecture of this machine, as template.yaml's parameter has it: functions of any other could not run here.
pub(crate) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "aarch64" => "arm64",
        same => same,
    }
}

/// The folder with the built template and functions: `sam build`, once a process. The build is the light one, without
/// optimisation of our own code: how long it takes counts here, and not how large the functions are.
///
/// # Panics
/// With what was said, if they do not build.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // The SAM CLI notes beside the folder what it has built.
        let folder = target().join("sam/build");
        fs::create_dir_all(&folder).expect("the folder of the build");
        // Another test process may be building there.
        let lock = File::create(target().join("sam/lock")).expect("the lock of the build");
        lock.lock().expect("the lock of the build");
        let cargo_lambda = tool("cargo-lambda");
        let path = env::var_os("PATH").unwrap_or_default();
        let bin = cargo_lambda.parent().expect("the folder of the program").to_owned();
        let path = env::join_paths([bin].into_iter().chain(env::split_paths(&path))).expect("a search path");
        let architecture = format!("Architecture={}", architecture());
        let mut build = sam(&["build", "--parameter-overrides", &architecture, "--build-dir"]);
        build.arg(&folder).env("PATH", path).env("CARGO_TARGET_DIR", target());
        // This machine's compiler, linker and C library, since the functions run here.
        build.env("SAM_BUILD_MODE", "debug").env("CARGO_LAMBDA_COMPILER", "cargo");
        // Half of what is packed and unpacked again otherwise.
        build.env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_PROFILE_DEV_STRIP", "symbols");
        said(&build.output().expect("sam starts"), "sam build");
        folder
    })
}

/// What a command wrote to standard output.
///
/// # Panics
/// With all that it said, if it failed.
pub(crate) fn said(output: &Output, what: &str) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what} failed with {}:\n{out}\n{err}", output.status);
    out.into_owned()
}
