//! The configuration file: instances, rules and subscriptions, and every mistake in it with its line.
//!
//! A file is read to its end whatever is wrong with it, so that whoever mends it needs to do so once. Each mistake says where
//! it is, what is wrong and how to mend it, and never shows a text that may be a secret.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use transship_model::{
    Credentials, Instance, InstanceName, Kind, Overlap, Rule, RuleName, RulePath, SecretRef, Subscription, SubscriptionName,
    WebhookAuth, overlap,
};
use transship_state::Catalog;
use url::Url;

use self::yaml::{Node, Notes};

pub(crate) mod client;
mod instance;
mod rule;
mod spelling;
mod subscription;
mod yaml;

/// The greatest size of a file, in bytes.
pub(crate) const MAX_SIZE: usize = 4 << 20;
/// The greatest number of instances.
pub(crate) const MAX_INSTANCES: usize = Catalog::MAX_INSTANCES;
/// The greatest number of rules.
pub(crate) const MAX_RULES: usize = Catalog::MAX_RULES;
/// The greatest number of subscriptions.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1000;
/// So many pairs of overlapping rules are warned of: whoever has more knows by then.
const MAX_OVERLAPS: usize = 20;

/// What a configuration file says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// The registries.
    pub instances: Vec<Instance>,
    /// What to sync. IDs and revisions are 0: the catalogue gives them.
    pub rules: Vec<Rule>,
    /// Who is told of what.
    pub subscriptions: Vec<Subscription>,
    /// What is allowed and hardly meant.
    pub warnings: Vec<Mistake>,
    /// What `serve` can read and functions on AWS can't: variables and files of a machine.
    pub local: Vec<Mistake>,
}

/// Something in a configuration file that has to be mended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The character in it, from 1.
    pub column: usize,
    /// Where it is in the structure (`rules[0].source.tag`), what is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Why a configuration file can't be used.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It can't be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It has mistakes.
    Mistakes {
        /// The file.
        path: PathBuf,
        /// At least one, in the order of lines.
        mistakes: Vec<Mistake>,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "{} can't be read: {error}", path.display()),
            // The form that editors and terminals make links of.
            Self::Mistakes { path, mistakes } => mistakes.iter().enumerate().try_for_each(|(at, mistake)| {
                let Mistake { line, column, message } = mistake;
                let separator = if at == 0 { "" } else { "\n" };
                write!(f, "{separator}{}:{line}:{column}: {message}", path.display())
            }),
        }
    }
}

/// Without a source: what went wrong is in the message already.
impl std::error::Error for LoadError {}

/// Reads a configuration file.
///
/// # Errors
/// [`LoadError`] names the file and prints one mistake a line, as `path:line:column: message`.
pub(crate) fn load(path: &Path) -> Result<Config, LoadError> {
    load_as(path, read)
}

/// Reads a file of some kind; `-` is standard input.
fn load_as<T>(path: &Path, read: impl FnOnce(&str) -> Result<T, Vec<Mistake>>) -> Result<T, LoadError> {
    // One byte more than is allowed shows that there are too many, also of what has no length, as /dev/stdin.
    let mut bytes = Vec::new();
    let limit = MAX_SIZE as u64 + 1;
    let read_whole = match path == Path::new("-") {
        true => io::stdin().lock().take(limit).read_to_end(&mut bytes),
        false => fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read_whole.map_err(|error| LoadError::Unreadable { path: path.into(), error })?;
    let config = if bytes.len() > MAX_SIZE {
        Err(vec![too_large()])
    } else {
        str::from_utf8(&bytes).map_err(|error| vec![not_utf8(&bytes[..error.valid_up_to()])]).and_then(read)
    };
    config.map_err(|mistakes| LoadError::Mistakes { path: path.into(), mistakes })
}

/// Reads a file with one thing, called `what`, of which the keys `needed` have to be there.
fn load_one<T>(
    path: &Path,
    what: &str,
    needed: &str,
    read: impl FnOnce(&Node<'_>, &mut Notes) -> Option<T>,
) -> Result<T, LoadError> {
    load_as(path, |text| {
        let mut notes = Notes::default();
        let document = yaml::parse(text, &mut notes);
        let one = document.and_then(|document| read(&Node::root(&document), &mut notes));
        match one {
            Some(one) if notes.mistakes.is_empty() => return Ok(one),
            None if notes.mistakes.is_empty() => {
                let message = format!("there is no {what} in it: write its keys, {needed} at least");
                notes.mistakes.push(Mistake { line: 1, column: 1, message });
            }
            _ => notes.mistakes.sort(),
        }
        Err(notes.mistakes)
    })
}

/// Reads a file that has one subscription, written as an entry of `subscriptions` is. What it may name is not known here.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_subscription(path: &Path) -> Result<Subscription, LoadError> {
    let read = |node: &Node<'_>, notes: &mut Notes| subscription::Reader::of_others().read(node, notes);
    load_one(path, "subscription", "name and webhook", read)
}

/// Reads a file with one rule, as an entry of `rules` is written; its instances are known elsewhere.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_rule(path: &Path) -> Result<Rule, LoadError> {
    load_one(path, "rule", "name, source and target", |node, notes| rule::Reader::of_one().read(node, notes))
}

/// Reads a file with one instance, as an entry of `instances` is written.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_instance(path: &Path) -> Result<Instance, LoadError> {
    load_one(path, "instance", "name and endpoint", instance::read)
}

/// Reads a file with a document of the API, which judges it: YAML, or JSON, which is YAML.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_document(path: &Path) -> Result<serde_json::Value, LoadError> {
    load_one(path, "document", "those that are to be written", |node, notes| {
        let document = node.to_json();
        if !document.is_object() && notes.mistakes.is_empty() {
            notes.mistake(node, "keys and values are needed here, like 'enabled: false'");
        }
        Some(document)
    })
}

fn too_large() -> Mistake {
    Mistake { line: 1, column: 1, message: format!("the file is larger than {} MiB", MAX_SIZE >> 20) }
}

fn not_utf8(valid: &[u8]) -> Mistake {
    let valid = String::from_utf8_lossy(valid);
    let line = valid.split('\n').count();
    let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Mistake { line, column, message: "not UTF-8 text: save the file as UTF-8".into() }
}

/// Reads the text of a configuration file. An empty text is a configuration without instances.
///
/// # Errors
/// All mistakes in it, in the order of lines.
pub(crate) fn read(text: &str) -> Result<Config, Vec<Mistake>> {
    if text.len() > MAX_SIZE {
        return Err(vec![too_large()]);
    }
    let mut notes = Notes::default();
    let mut config = Config::default();
    if let Some(document) = yaml::parse(text, &mut notes) {
        let root = Node::root(&document);
        if !root.is_null() {
            config = sections(&root, &mut notes);
        }
    }
    notes.mistakes.sort();
    if !notes.mistakes.is_empty() {
        return Err(notes.mistakes);
    }
    notes.warnings.sort();
    notes.local.sort();
    (config.warnings, config.local) = (notes.warnings, notes.local);
    Ok(config)
}

fn sections(root: &Node<'_>, notes: &mut Notes) -> Config {
    let Some(root) = root.mapping(&["instances", "rules", "subscriptions"], notes) else { return Config::default() };
    let mut section = |key: &str, max: usize| match root.get(key) {
        // What is left of a section whose entries are all commented out.
        Some(list) if !list.is_null() => list.items(max, notes).unwrap_or_default(),
        _ => Vec::new(),
    };
    let (instance_nodes, rule_nodes) = (section("instances", MAX_INSTANCES), section("rules", MAX_RULES));
    let subscription_nodes = section("subscriptions", MAX_SUBSCRIPTIONS);

    // An instance that has a mistake is still one that rules may name.
    let mut names = HashMap::new();
    for node in &instance_nodes {
        let Some(at) = node.peek("name") else { continue };
        let Some(name) = at.peek_text().and_then(|text| text.parse::<InstanceName>().ok()) else { continue };
        if let Some(first) = names.get(&name).map(Node::line) {
            notes.mistake(&at, format!("line {first} has an instance '{name}' already: names are given once"));
        } else {
            names.insert(name, at);
        }
    }

    let instances: Vec<_> = instance_nodes.iter().filter_map(|node| instance::read(node, notes)).collect();
    let kinds = instances.iter().map(|instance| (&instance.name, (instance.kind, &instance.endpoint))).collect();
    let rules = rules(&rule_nodes, &names, &kinds, notes);
    let subscriptions = subscriptions(&subscription_nodes, &names, &rule_nodes, notes);
    // ECR posts nothing: its events come by EventBridge.
    let posts = |instance: &&Instance| instance.kind != Kind::Ecr;
    for instance in instances.iter().filter(posts).filter(|instance| instance.webhook == WebhookAuth::Closed) {
        let rule = rules.iter().find(|rule| rule.source.instance == instance.name);
        if let (Some(rule), Some(at)) = (rule, names.get(&instance.name)) {
            let message = format!(
                "the rule '{}' copies from '{}', whose notifications are refused: give webhook_secret or webhook_auth",
                rule.name, instance.name
            );
            notes.warning(at, message);
        }
    }
    Config { instances, rules, subscriptions, ..Config::default() }
}

fn subscriptions(
    nodes: &[Node<'_>],
    instances: &HashMap<InstanceName, Node<'_>>,
    rules: &[Node<'_>],
    notes: &mut Notes,
) -> Vec<Subscription> {
    // A rule that has a mistake is still one that subscriptions may name.
    let path = |rule: &Node<'_>| -> Option<RulePath> {
        let instance = rule.peek("source")?.peek("instance")?.peek_text()?.parse().ok()?;
        Some(RulePath { instance, rule: rule.peek("name")?.peek_text()?.parse().ok()? })
    };
    let reader = subscription::Reader::new(instances.keys(), rules.iter().filter_map(path));
    let mut first_lines: HashMap<SubscriptionName, usize> = HashMap::new();
    let mut subscriptions = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Some(subscription) = reader.read(node, notes) else { continue };
        let at = node.peek("name").unwrap_or_else(|| node.clone());
        match first_lines.get(&subscription.name) {
            Some(first) => {
                let message = format!("line {first} has a subscription '{}' already: names are given once", subscription.name);
                notes.mistake(&at, message);
            }
            None => {
                first_lines.insert(subscription.name.clone(), at.line());
            }
        }
        subscriptions.push(subscription);
    }
    subscriptions
}

fn rules(
    nodes: &[Node<'_>],
    instances: &HashMap<InstanceName, Node<'_>>,
    kinds: &HashMap<&InstanceName, (Kind, &Url)>,
    notes: &mut Notes,
) -> Vec<Rule> {
    let mut reader = rule::Reader::new(nodes, instances.keys());
    let mut first_lines: HashMap<(InstanceName, RuleName), usize> = HashMap::new();
    let (mut rules, mut places) = (Vec::with_capacity(nodes.len()), Vec::with_capacity(nodes.len()));
    for node in nodes {
        let Some(rule) = reader.read(node, notes) else { continue };
        let target = || node.peek("target").unwrap_or_else(|| node.clone());
        if let Some((kind, to)) = kinds.get(&rule.target.instance) {
            if let Err(error) = rule.check_at(*kind) {
                notes.mistake(&target(), error);
            }
            let from = kinds.get(&rule.source.instance).filter(|_| rule.source.instance != rule.target.instance);
            if let Some(Err(error)) = from.map(|(_, from)| rule.check_between(from, to)) {
                notes.mistake(&target(), error);
            }
        }
        let at = node.peek("name").unwrap_or_else(|| node.clone());
        match first_lines.get(&(rule.source.instance.clone(), rule.name.clone())) {
            Some(first) => notes.mistake(
                &at,
                format!(
                    "line {first} has a rule '{}' from '{}' already: a name is given once for each source instance",
                    rule.name, rule.source.instance
                ),
            ),
            None => {
                first_lines.insert((rule.source.instance.clone(), rule.name.clone()), at.line());
            }
        }
        rules.push(rule);
        places.push(at);
    }
    let overlaps = overlap::pairs(&rules, MAX_OVERLAPS + 1);
    for (first, second) in overlaps.iter().take(MAX_OVERLAPS) {
        let overlap = Overlap { rule: &rules[*second], other: &rules[*first] };
        notes.warning(&places[*second], overlap.warning());
    }
    if let Some((_, second)) = overlaps.get(MAX_OVERLAPS) {
        notes.warning(
            &places[*second],
            format!("overlaps with another rule, too, as do more: the first {MAX_OVERLAPS} are listed"),
        );
    }
    rules
}

/// What a configuration needs around it and does not find: variables that are not set, files that can't be read. A file may be
/// checked where they are not, so this is asked for when the program starts.
pub(crate) fn missing(config: &Config) -> Vec<String> {
    let mut missing = Vec::new();
    for instance in &config.instances {
        let password = match &instance.credentials {
            Credentials::Password { password, .. } => Some(("credentials.password", password)),
            Credentials::RefreshToken(token) => Some(("credentials.refresh_token", token)),
            Credentials::Anonymous | Credentials::DockerConfig | Credentials::Ecr { .. } => None,
        };
        let webhook = match &instance.webhook {
            WebhookAuth::Secret(secret) => Some(("webhook_secret", secret)),
            WebhookAuth::Closed | WebhookAuth::Open | WebhookAuth::Google(_) => None,
        };
        let notify = instance.notify.as_ref().and_then(|notify| notify.secret.as_ref()).map(|secret| ("notify.secret", secret));
        let ca = instance.ca.clone().map(SecretRef::File);
        for (key, secret) in password.into_iter().chain(webhook).chain(notify).chain(ca.as_ref().map(|file| ("ca", file))) {
            if let Err(problem) = present(secret) {
                missing.push(format!("instance '{}': {key}: {problem}", instance.name));
            }
        }
    }
    for subscription in &config.subscriptions {
        if let Some(Err(problem)) = subscription.webhook.secret.as_ref().map(present) {
            missing.push(format!("subscription '{}': webhook.secret: {problem}", subscription.name));
        }
    }
    missing
}

/// Looks whether there is a secret, without reading a file: what is read from a pipe is gone.
fn present(secret: &SecretRef) -> Result<(), String> {
    match secret {
        SecretRef::Env(name) => match std::env::var(name) {
            Ok(value) if value.is_empty() => Err(format!("the environment variable {name} is empty")),
            Ok(_) => Ok(()),
            Err(std::env::VarError::NotPresent) => Err(format!("the environment variable {name} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} is not UTF-8 text")),
        },
        SecretRef::File(path) => match fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(meta) if meta.is_dir() => Err(format!("{path} is a directory")),
            Ok(meta) if meta.is_file() && meta.len() == 0 => Err(format!("the file {path} is empty")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("the file {path} can't be read: {error}")),
        },
        // Looked for when it is needed: a check would need an AWS identity.
        SecretRef::SecretsManager(_) | SecretRef::Parameter(_) | SecretRef::Stored(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
