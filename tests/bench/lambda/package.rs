//! The functions as they are deployed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use transship_tests::{root, tool};

use crate::figures::Figures;

/// All functions.
pub(crate) const FUNCTIONS: [&str; 5] = ["webhook", "worker", "logger", "notifier", "api"];
const MIB: f64 = 1_048_576.0;

/// Where they are built.
pub(crate) struct Package {
    binaries: PathBuf,
    zips: PathBuf,
}

/// Builds them.
pub(crate) fn build() -> Package {
    let this = env::current_exe().expect("the path of this bench");
    // target/<profile>/deps/<bench>
    let target = this.ancestors().nth(3).expect("the target folder");
    let zips = target.join("lambda");
    let architecture = if cfg!(target_arch = "aarch64") { "--arm64" } else { "--x86-64" };
    let mut command = Command::new(tool("cargo-lambda"));
    command.args([
        "lambda",
        "build",
        "--release",
        architecture,
        "--compiler",
        "cargo",
        "--output-format",
        "zip",
        "--lambda-dir",
    ]);
    command.arg(&zips).args(FUNCTIONS.map(|name| format!("--bin=transship-{name}")));
    let status = command.current_dir(root()).env("CARGO_TARGET_DIR", target).status().expect("cargo-lambda starts");
    assert!(status.success(), "the functions do not build");
    Package { binaries: target.join(format!("{}-unknown-linux-gnu/release", env::consts::ARCH)), zips }
}

impl Package {
    /// A function's program.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(format!("transship-{name}"))
    }

    pub(crate) fn measure(&self, figures: &mut Figures) {
        for name in FUNCTIONS {
            let mib = |file: &Path| fs::metadata(file).expect("what was built").len() as f64 / MIB;
            let zip = mib(&self.zips.join(format!("transship-{name}/bootstrap.zip")));
            let figure = format!("{zip:.2} MiB ({:.2} MiB unpacked)", mib(&self.binary(name)));
            figures.compare(&format!("zip of {name}"), figure, "≤ 8 MB", zip * MIB <= 8e6);
        }
    }
}
