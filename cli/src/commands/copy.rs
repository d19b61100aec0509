//! `transship copy`: one artifact by hand, or all that a repository has, without rules and without a server.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::Serialize;
use transship_model::{Digest, EcrSettings, Kind, Reference, Tag};
use transship_registry::{
    Attached, Authorities, Copier, Endpoint, Http, Login, Moved, Options, Outcome, Registry, RegistryConfig, Tagged,
    parse_reference,
};

use crate::{
    commands::Waiting,
    output::{self, Format},
    progress::{Meter, Unit},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to copy: HOST[:PORT]/REPOSITORY[:TAG|@DIGEST], with http:// before it for a registry without TLS. Logins are those
    /// of `docker login`
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to: HOST[:PORT]/REPOSITORY[:TAG]; without a tag, the source's
    #[arg(value_name = "DST")]
    target: String,
    /// Copy every tag; SRC and DST are repositories
    #[arg(long)]
    all_tags: bool,
    /// Replace what the target has under that tag
    #[arg(long)]
    overwrite: bool,
    /// Leave signatures, SBOMs and whatever else refers to the artifact behind
    #[arg(long)]
    no_referrers: bool,
    /// Trust the authorities whose certificates are in this PEM file, besides the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    waiting: Waiting,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl Arguments {
    fn options(&self) -> Options {
        Options { overwrite: self.overwrite, referrers: !self.no_referrers }
    }
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let http = Http::with_patience(arguments.waiting.patience().with_trouble())?;
    for text in [&arguments.source, &arguments.target] {
        if let Some(rest) = text.strip_prefix("docker://") {
            bail!("{text}: write {rest}, without docker://");
        }
    }
    let ca = arguments.ca.as_deref().map(Authorities::read).transpose()?;
    let (source, from) =
        endpoint(&http, ca.as_ref(), &arguments.source).with_context(|| format!("the source {}", arguments.source))?;
    let (target, to) =
        endpoint(&http, ca.as_ref(), &arguments.target).with_context(|| format!("the target {}", arguments.target))?;
    if arguments.all_tags {
        if let Some(text) = [&arguments.source, &arguments.target].into_iter().find(|text| names_one(text)) {
            bail!("--all-tags copies repositories, and {text} is one tag or digest: leave that out");
        }
        return all(&source, &target, &arguments).await;
    }
    if !names_one(&arguments.target) && names_tag_and_digest(&arguments.source) {
        bail!("{} has a tag and a digest: say in the target under which tag it is to be found there", arguments.source);
    }
    let to = if names_one(&arguments.target) { to } else { from.clone() };
    one(&source, &from, &target, &to, &arguments).await
}

/// Whether a text names a tag or a digest, and not a repository only.
fn names_one(text: &str) -> bool {
    text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))
}

fn names_tag_and_digest(text: &str) -> bool {
    text.rsplit('/').next().and_then(|last| last.split_once('@')).is_some_and(|(name, _)| name.contains(':'))
}

async fn one(
    source: &Endpoint,
    from: &Reference,
    target: &Endpoint,
    to: &Reference,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let meter = Meter::new(format!("{}:{from}", source.repository), Unit::Bytes);
    let started = std::time::Instant::now();
    let outcome = Copier::default().copy(source, from, target, to, arguments.options(), &meter).await;
    meter.finish();
    let result = Report::new(outcome?, started.elapsed().as_secs_f64());
    match arguments.output {
        Format::Json => output::print_json(&result)?,
        Format::Table if result.outcome == "exists" => {}
        Format::Table => output::print(&result.sentence())?,
    }
    if result.outcome == "exists" {
        bail!("the target has {} there, which is left as it is: --overwrite replaces it", result.digest);
    }
    Ok(())
}

async fn all(source: &Endpoint, target: &Endpoint, arguments: &Arguments) -> anyhow::Result<()> {
    let meter = Meter::new(source.repository.to_string(), Unit::Bytes);
    let started = std::time::Instant::now();
    let mut tags = Vec::new();
    let tell = |(tag, outcome): Tagged| {
        tags.push(TagReport::new(tag, outcome));
        meter.say(&format!("{} done", output::count(tags.len() as u64, "tag")));
    };
    let copied = Copier::default().copy_all(source, target, arguments.options(), &meter, tell).await;
    meter.finish();
    copied?;
    tags.sort_by(|one, other| one.tag.cmp(&other.tag));
    let result = AllReport::new(tags, started.elapsed().as_secs_f64());
    match arguments.output {
        Format::Json => output::print_json(&result)?,
        Format::Table => {
            for tag in &result.tags {
                if let Some(line) = tag.trouble() {
                    eprintln!("{line}");
                }
            }
            output::print(&result.sentence())?;
        }
    }
    match (result.failed, result.exists) {
        (0, 0) => Ok(()),
        (0, exists) => bail!("left as they are: {}; --overwrite replaces them", output::count(exists as u64, "tag")),
        (failed, _) => bail!("{} failed", output::count(failed as u64, "tag")),
    }
}

/// What a copy did.
#[derive(Debug, Serialize)]
struct Report {
    /// `copied`, `unchanged`, or `exists` where the target was not to be overwritten.
    outcome: &'static str,
    digest: Digest,
    bytes_moved: u64,
    bytes_mounted: u64,
    bytes_present: u64,
    attachments: u32,
    /// Signatures of the target that differ from the source's and were not to be replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left: Vec<Tag>,
    seconds: f64,
}

impl Report {
    fn new(outcome: Outcome, seconds: f64) -> Self {
        let (outcome, digest, moved, attached) = match outcome {
            Outcome::Copied { digest, moved, attached } => ("copied", digest, moved, attached),
            Outcome::Unchanged { digest, attached } => ("unchanged", digest, Moved::default(), attached),
            Outcome::Exists { digest } => ("exists", digest, Moved::default(), Attached::default()),
        };
        let bytes_moved = moved.bytes_moved + attached.moved.bytes_moved;
        let bytes_mounted = moved.bytes_mounted + attached.moved.bytes_mounted;
        let bytes_present = moved.bytes_present + attached.moved.bytes_present;
        Self {
            outcome,
            digest,
            bytes_moved,
            bytes_mounted,
            bytes_present,
            attachments: attached.manifests,
            left: attached.left,
            seconds,
        }
    }

    fn sentence(&self) -> String {
        let Self { outcome, digest, .. } = self;
        let bytes = output::bytes_of(self.bytes_moved, self.bytes_mounted, self.bytes_present);
        let time = output::seconds(self.seconds);
        let attachments = output::count(self.attachments.into(), "attachment");
        let left = match self.left.len() {
            0 => String::new(),
            n => format!(
                "; {} of the target's left as they are: --overwrite replaces them",
                output::count(n as u64, "signature")
            ),
        };
        format!("{outcome} {digest} in {time}: {bytes}, {attachments}{left}")
    }
}

/// What became of one tag of many.
#[derive(Debug, Serialize)]
struct TagReport {
    tag: Tag,
    /// As [`Report::outcome`], or `failed`, or `skipped` for what no current registry takes.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    bytes_moved: u64,
    bytes_mounted: u64,
    bytes_present: u64,
    attachments: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl TagReport {
    fn new(tag: Tag, outcome: Result<Outcome, transship_registry::Error>) -> Self {
        match outcome {
            Ok(outcome) => {
                let Report { outcome, digest, bytes_moved, bytes_mounted, bytes_present, attachments, .. } =
                    Report::new(outcome, 0.0);
                Self { tag, outcome, digest: Some(digest), bytes_moved, bytes_mounted, bytes_present, attachments, error: None }
            }
            Err(error) => Self {
                tag,
                // Nothing is wrong with it, and no current registry takes it.
                outcome: if matches!(error, transship_registry::Error::Schema1(_)) { "skipped" } else { "failed" },
                digest: None,
                bytes_moved: 0,
                bytes_mounted: 0,
                bytes_present: 0,
                attachments: 0,
                error: Some(error.to_string()),
            },
        }
    }

    /// What is to be said of a tag that was not copied.
    fn trouble(&self) -> Option<String> {
        match (&self.error, self.outcome, &self.digest) {
            (Some(error), ..) => Some(format!("{}: {error}", self.tag)),
            (None, "exists", Some(digest)) => {
                Some(format!("{}: the target has {digest} there, which is left as it is: --overwrite replaces it", self.tag))
            }
            _ => None,
        }
    }
}

/// What became of all tags of a repository.
#[derive(Debug, Serialize)]
struct AllReport {
    copied: usize,
    unchanged: usize,
    exists: usize,
    skipped: usize,
    failed: usize,
    bytes_moved: u64,
    bytes_mounted: u64,
    bytes_present: u64,
    attachments: u32,
    seconds: f64,
    tags: Vec<TagReport>,
}

impl AllReport {
    fn new(tags: Vec<TagReport>, seconds: f64) -> Self {
        let count = |outcome: &str| tags.iter().filter(|tag| tag.outcome == outcome).count();
        Self {
            copied: count("copied"),
            unchanged: count("unchanged"),
            exists: count("exists"),
            skipped: count("skipped"),
            failed: count("failed"),
            bytes_moved: tags.iter().map(|tag| tag.bytes_moved).sum(),
            bytes_mounted: tags.iter().map(|tag| tag.bytes_mounted).sum(),
            bytes_present: tags.iter().map(|tag| tag.bytes_present).sum(),
            attachments: tags.iter().map(|tag| tag.attachments).sum(),
            seconds,
            tags,
        }
    }

    fn sentence(&self) -> String {
        let Self { copied, unchanged, exists, skipped, failed, .. } = self;
        let bytes = output::bytes_of(self.bytes_moved, self.bytes_mounted, self.bytes_present);
        let time = output::seconds(self.seconds);
        let tags = output::count(self.tags.len() as u64, "tag");
        let attachments = output::count(self.attachments.into(), "attachment");
        let besides = [(exists, "left as they are"), (skipped, "skipped"), (failed, "failed")];
        let besides: String = besides.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
        format!("{tags} in {time}: {copied} copied, {unchanged} unchanged{besides}; {bytes}, {attachments}")
    }
}

/// The registry, repository and reference that a text names. Credentials are those of `docker login`.
fn endpoint(http: &Http, ca: Option<&Authorities>, text: &str) -> anyhow::Result<(Endpoint, Reference)> {
    let (url, repository, reference) = parse_reference(text)?;
    let name = url.host_str().map_or_else(
        || url.to_string(),
        |host| match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        },
    );
    let plain_http = text.starts_with("http://");
    let config = RegistryConfig {
        name,
        endpoint: url,
        kind: Kind::Oci,
        credentials: Login::DockerConfig,
        token_realm: None,
        api: None,
        ecr: EcrSettings::default(),
        tcr: None,
        ca: ca.cloned(),
        plain_http,
    };
    Ok((Endpoint::new(&Registry::new(http, config)?, repository), reference))
}
