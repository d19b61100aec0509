//! `transship copy`: one artifact by hand, without rules and without a server.

use anyhow::{Context as _, bail};
use serde::Serialize;
use transship_model::{Digest, Kind, Reference};
use transship_registry::{
    Attached, Copier, Endpoint, Http, Login, Moved, Options, Outcome, Registry, RegistryConfig, parse_reference,
};

use crate::{
    NotDone,
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
    /// Replace what the target has under that tag
    #[arg(long)]
    overwrite: bool,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let http = Http::new()?;
    let (source, source_reference) =
        endpoint(&http, &arguments.source).with_context(|| format!("the source {}", arguments.source))?;
    let (target, target_reference) =
        endpoint(&http, &arguments.target).with_context(|| format!("the target {}", arguments.target))?;
    let named = |text: &str| text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let target_reference = if named(&arguments.target) { target_reference } else { source_reference.clone() };

    let meter = Meter::new(format!("{}:{source_reference}", source.repository), Unit::Bytes);
    let options = Options { overwrite: arguments.overwrite, referrers: true };
    let started = std::time::Instant::now();
    let outcome = Copier::default().copy(&source, &source_reference, &target, &target_reference, options, &meter).await;
    meter.finish();
    let result = Report::new(outcome?, started.elapsed().as_secs_f64());
    match arguments.output {
        Format::Json => output::print_json(&result)?,
        Format::Table if result.outcome == "exists" => {
            bail!("the target has {} there, which is left as it is: --overwrite replaces it", result.digest)
        }
        Format::Table => output::print(&result.sentence())?,
    }
    if result.outcome == "exists" { Err(NotDone.into()) } else { Ok(()) }
}

/// What a copy did.
#[derive(Debug, Serialize)]
struct Report {
    /// `copied`, `unchanged`, or `exists` where the target was not to be overwritten.
    outcome: &'static str,
    digest: Digest,
    bytes_moved: u64,
    bytes_saved: u64,
    attachments: u32,
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
        let bytes_saved = moved.bytes_saved + attached.moved.bytes_saved;
        Self { outcome, digest, bytes_moved, bytes_saved, attachments: attached.manifests, seconds }
    }

    fn sentence(&self) -> String {
        let Self { outcome, digest, .. } = self;
        let (moved, saved) = (output::bytes(self.bytes_moved), output::bytes(self.bytes_saved));
        let time = output::seconds(self.seconds);
        let attachments = output::count(self.attachments.into(), "attachment");
        format!("{outcome} {digest} in {time}: {moved} moved, {saved} saved, {attachments}")
    }
}

/// The registry, repository and reference that a text names. Credentials are those of `docker login`.
fn endpoint(http: &Http, text: &str) -> anyhow::Result<(Endpoint, Reference)> {
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
        ca: None,
        plain_http,
    };
    Ok((Endpoint::new(&Registry::new(http, config)?, repository), reference))
}
