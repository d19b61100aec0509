//! The programs that copy.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use transship_tests::{binary, program};

use crate::{process, work::REPOSITORY};

/// A program that copies, and what it copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `transship copy` of one tag.
    Transship(&'static str),
    /// `transship copy --all-tags`.
    TransshipAllTags,
    /// `skopeo copy --all` of one tag.
    Skopeo(&'static str),
    /// `skopeo sync` of a repository.
    SkopeoSync,
}

impl Tool {
    /// What copies from one registry to another; a program that keeps something keeps it in a folder.
    pub(crate) fn command(self, source: &str, target: &str, home: &Path) -> Command {
        let mut command = match self {
            Self::Transship(_) | Self::TransshipAllTags => Command::new(binary()),
            Self::Skopeo(_) | Self::SkopeoSync => skopeo(home),
        };
        match self {
            Self::Transship(tag) => command
                .args(["copy", "--output", "json"])
                .args([format!("{source}/{REPOSITORY}:{tag}"), format!("{target}/{REPOSITORY}:{tag}")]),
            Self::TransshipAllTags => command
                .args(["copy", "--all-tags", "--output", "json"])
                .args([format!("{source}/{REPOSITORY}"), format!("{target}/{REPOSITORY}")]),
            Self::Skopeo(tag) => command.args(["copy", "--all", "--quiet"]).args(INSECURE).args([
                format!("docker://{}/{REPOSITORY}:{tag}", host(source)),
                format!("docker://{}/{REPOSITORY}:{tag}", host(target)),
            ]),
            Self::SkopeoSync => {
                let (namespace, _) = REPOSITORY.rsplit_once('/').expect("a namespace");
                command.args(["sync", "--all", "--src", "docker", "--dest", "docker"]);
                command.args(INSECURE).args([format!("{}/{REPOSITORY}", host(source)), format!("{}/{namespace}", host(target))])
            }
        };
        command
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Transship(_) | Self::TransshipAllTags => "transship",
            Self::Skopeo(_) => "skopeo copy",
            Self::SkopeoSync => "skopeo sync",
        }
    }
}

const INSECURE: [&str; 5] =
    ["--preserve-digests", "--src-tls-verify=false", "--src-no-creds", "--dest-tls-verify=false", "--dest-no-creds"];

fn skopeo(home: &Path) -> Command {
    let mut command = Command::new(program("skopeo"));
    process::at_home(&mut command, home);
    command.arg("--insecure-policy").arg("--tmpdir").arg(home);
    command
}

fn host(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// curl, that fails where the registry says no.
pub(crate) fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]).args(arguments);
    command
}

/// A folder in memory, if there is one.
pub(crate) fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("transship-bench-").tempdir_in(root).expect("a folder")
}
