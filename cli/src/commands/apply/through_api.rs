//! `apply` through the API: what is there is read and compared, the plan is printed, and each change is sent by itself, on condition that
//! what it replaces is still what was read.
//!
//! A secret that the file names as `env:` or `file:` is read here and sent. The API never tells what it has, nor anything that a weak
//! password could be guessed from, so whether a value is another than last time can't be found out: values are sent with an instance
//! that is new or changed, and for all with `--rotate`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, bail};
use secrecy::ExposeSecret as _;
use transship_api::view::{InstanceInput, InstanceView, RuleInput, RuleView, SecretInput, SecretKind, SubscriptionView};
use transship_model::{
    Credentials, Instance, InstanceName, Rule, RuleName, RulePath, SecretRef, Subscription, SubscriptionName, WebhookAuth,
};
use transship_state::{Change, Entry, LocalSecrets, Secrets as _};

use super::{Options, Outcome, sign, told};
use crate::{
    client::{Client, Known},
    commands::{instances, rules},
    config::{self, Config},
    output::{self, Format},
};

/// What is to become of one entry.
enum Step {
    Instance { change: Change, name: InstanceName, wanted: Option<Box<Instance>>, known: Known },
    Rule { change: Change, path: RulePath, wanted: Option<Box<RuleInput>>, known: Known },
    Subscription { change: Change, name: SubscriptionName, wanted: Option<Box<Subscription>>, known: Known },
}

impl Step {
    fn change(&self) -> Change {
        match self {
            Self::Instance { change, .. } | Self::Rule { change, .. } | Self::Subscription { change, .. } => *change,
        }
    }

    fn entry(&self) -> Entry {
        match self {
            Self::Instance { name, .. } => Entry::Instance(name.clone()),
            Self::Rule { path, .. } => Entry::Rule(path.instance.clone(), path.rule.clone()),
            Self::Subscription { name, .. } => Entry::Subscription(name.clone()),
        }
    }

    fn line(&self) -> String {
        format!("{} {}", sign(self.change()), self.entry())
    }
}

/// What is to be done.
struct Plan {
    steps: Vec<Step>,
    unchanged: usize,
    /// Instances and subscriptions that stay as they are and have secrets whose values are here.
    not_sent: usize,
    /// What is in the API's catalogue and not in the file.
    left: usize,
}

/// What the API has.
struct There {
    instances: BTreeMap<InstanceName, InstanceView>,
    rules: BTreeMap<(InstanceName, RuleName), RuleView>,
    /// Without those that instances have by themselves.
    subscriptions: BTreeMap<SubscriptionName, SubscriptionView>,
}

pub(super) async fn run(file: &Path, config: &Config, client: &Client, options: &Options) -> anyhow::Result<()> {
    let missing = config::missing(config);
    if !missing.is_empty() {
        bail!("{}: {}", file.display(), missing.join("; "));
    }
    let there = read(client).await?;
    let plan = plan(file, config, &there, options)?;
    let is_for_people = options.output == Format::Table;
    if is_for_people {
        for step in &plan.steps {
            output::print(&step.line())?;
        }
        eprintln!("{} unchanged", plan.unchanged);
    }
    let count = |wanted: Change| plan.steps.iter().filter(|step| step.change() == wanted).count();
    let (created, changed, deleted) = (count(Change::Created), count(Change::Changed), count(Change::Deleted));
    let to_be = if options.dry_run { "to be " } else { "" };
    let mut summary =
        format!("{created} {to_be}created, {changed} {to_be}changed, {deleted} {to_be}deleted, {} unchanged", plan.unchanged);
    if options.dry_run {
        summary += "; nothing was changed";
    }
    if plan.left > 0 {
        summary += &format!("; {} that the file does not name stay: --prune deletes them", plan.left);
    }
    if plan.not_sent > 0 {
        summary +=
            &format!("; the secrets of {} that stay as they are were not sent again: --rotate sends them", plan.not_sent);
    }
    let mut outcome = Outcome {
        dry_run: options.dry_run,
        changes: plan.steps.iter().map(|step| told(step.change(), &step.entry(), false)).collect(),
        unchanged: plan.unchanged,
        left: plan.left,
    };
    let mut done = Ok(());
    if !options.dry_run {
        for (step, told) in plan.steps.into_iter().zip(&mut outcome.changes) {
            let line = step.line();
            done = carry_out(client, step, options).await.with_context(|| {
                format!("{line}: this and what comes after it was not done; the same command goes on from there")
            });
            told.done = done.is_ok();
            if done.is_err() {
                break;
            }
        }
    }
    match done {
        Ok(()) if is_for_people => output::print(&summary),
        // What has been done a script is told in either case.
        done if !is_for_people => output::print_json(&outcome).and(done),
        done => done,
    }
}

async fn read(client: &Client) -> anyhow::Result<There> {
    let mut there = There { instances: BTreeMap::new(), rules: BTreeMap::new(), subscriptions: BTreeMap::new() };
    let subscriptions = client.subscriptions().await?.into_iter().filter(|view| view.name.instance().is_none());
    there.subscriptions = subscriptions.map(|view| (view.name.clone(), view)).collect();
    for view in client.instances().await? {
        let Some(name) = view.written.name.clone() else { continue };
        for rule in client.rules(&name).await? {
            if let Some(rule_name) = rule.written.name.clone() {
                there.rules.insert((name.clone(), rule_name), rule);
            }
        }
        there.instances.insert(name, view);
    }
    Ok(there)
}

fn plan(file: &Path, config: &Config, there: &There, options: &Options) -> anyhow::Result<Plan> {
    let mut plan = Plan { steps: Vec::new(), unchanged: 0, not_sent: 0, left: 0 };
    let mut taken: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut is_theirs = |what: String, theirs: Option<&String>| {
        if let Some(theirs) = theirs {
            taken.entry(theirs.clone()).or_default().push(what);
        }
        theirs.is_some()
    };
    for instance in &config.instances {
        let name = instance.name.clone();
        takes(instance)?;
        let known = there.instances.get(&name);
        if is_theirs(format!("instance {name}"), known.and_then(|view| view.file.as_ref())) {
            continue;
        }
        let is_same = known.is_some_and(|view| view.written == shape(instance));
        let has_values = secrets(instance).any(is_here);
        if is_same && !(options.rotate && has_values) {
            plan.unchanged += 1;
            plan.not_sent += usize::from(has_values);
            continue;
        }
        let change = if known.is_some() { Change::Changed } else { Change::Created };
        let known = Known::of(known.map(|view| view.revision));
        plan.steps.push(Step::Instance { change, name, wanted: Some(Box::new(instance.clone())), known });
    }
    for rule in &config.rules {
        let key = key(rule);
        let known = there.rules.get(&key);
        let path = RulePath { instance: key.0, rule: key.1 };
        if is_theirs(format!("rule {path}"), known.and_then(|view| view.file.as_ref())) {
            continue;
        }
        let wanted = RuleInput::of(rule);
        if known.is_some_and(|view| view.written == wanted) {
            plan.unchanged += 1;
            continue;
        }
        let change = if known.is_some() { Change::Changed } else { Change::Created };
        let known = Known::of(known.map(|view| view.revision));
        plan.steps.push(Step::Rule { change, path, wanted: Some(Box::new(wanted)), known });
    }
    for subscription in &config.subscriptions {
        let name = subscription.name.clone();
        let known = there.subscriptions.get(&name);
        if is_theirs(format!("subscription {name}"), known.and_then(|view| view.file.as_ref())) {
            continue;
        }
        let has_values = subscription.webhook.secret.as_ref().is_some_and(is_here);
        if known.is_some_and(|view| is_as(view, subscription)) && !(options.rotate && has_values) {
            plan.unchanged += 1;
            plan.not_sent += usize::from(has_values);
            continue;
        }
        let change = if known.is_some() { Change::Changed } else { Change::Created };
        let known = Known::of(known.map(|view| view.revision));
        plan.steps.push(Step::Subscription { change, name, wanted: Some(Box::new(subscription.clone())), known });
    }
    let taken: Vec<String> = taken.iter().map(|(theirs, what)| format!("{} ({})", theirs, what.join(", "))).collect();
    if !taken.is_empty() {
        bail!(
            "what {} names belongs to a file that the API's own machine reads, {}: change it there, or give it to the API by \
             starting `transship serve` once with --adopt and without --config",
            file.display(),
            taken.join("; ")
        );
    }
    deletions(&mut plan, config, there, options);
    Ok(plan)
}

/// What the file does not name, rules before the instances that they name.
fn deletions(plan: &mut Plan, config: &Config, there: &There, options: &Options) {
    let rules: BTreeSet<_> = config.rules.iter().map(key).collect();
    let instances: BTreeSet<_> = config.instances.iter().map(|instance| &instance.name).collect();
    let gone_rules = there.rules.iter().filter(|(key, view)| !rules.contains(*key) && view.file.is_none());
    let gone_instances = there.instances.iter().filter(|(name, view)| !instances.contains(name) && view.file.is_none());
    let subscriptions: BTreeSet<_> = config.subscriptions.iter().map(|subscription| &subscription.name).collect();
    let mut steps = Vec::new();
    // They may name rules and instances.
    let gone = there.subscriptions.iter().filter(|(name, view)| !subscriptions.contains(name) && view.file.is_none());
    for (name, view) in gone {
        let known = Known::Revision(view.revision);
        steps.push(Step::Subscription { change: Change::Deleted, name: name.clone(), wanted: None, known });
    }
    for ((instance, rule), view) in gone_rules {
        let path = RulePath { instance: instance.clone(), rule: rule.clone() };
        steps.push(Step::Rule { change: Change::Deleted, path, wanted: None, known: Known::Revision(view.revision) });
    }
    for (name, view) in gone_instances {
        steps.push(Step::Instance {
            change: Change::Deleted,
            name: name.clone(),
            wanted: None,
            known: Known::Revision(view.revision),
        });
    }
    if options.prune {
        plan.steps.extend(steps);
    } else {
        plan.left = steps.len();
    }
}

fn key(rule: &Rule) -> (InstanceName, RuleName) {
    (rule.source.instance.clone(), rule.name.clone())
}

/// Refuses an instance that the API can't be given whole.
pub(crate) fn takes(instance: &Instance) -> anyhow::Result<()> {
    if instance.tcr.is_some() {
        let name = &instance.name;
        bail!("instance {name}: 'tcr' is for `serve --config` and `apply --table`: the API does not take its key");
    }
    Ok(())
}

async fn carry_out(client: &Client, step: Step, options: &Options) -> anyhow::Result<()> {
    match step {
        Step::Instance { wanted: Some(instance), name, known, .. } => {
            let document = with_values(&instance).await?;
            let made = client.put_instance(&name, &document, known).await?;
            if !made.dropped.is_empty() {
                eprintln!("{}", instances::said(&made, "is changed"));
            }
        }
        Step::Instance { name, known, .. } => client.delete_instance(&name, known).await?,
        Step::Rule { wanted: Some(rule), path, known, .. } => {
            let made = client.put_rule(&path, &rule, known, !options.no_first_run).await?;
            rules::warn(&path, &made);
            if let Some(task) = made.first_run {
                eprintln!("rule {path} begins with task {task}");
            }
        }
        Step::Rule { path, known, .. } => client.delete_rule(&path, known).await?,
        Step::Subscription { wanted: Some(subscription), known, .. } => {
            client.put_subscription(&subscription, known).await?;
        }
        Step::Subscription { name, known, .. } => client.delete_subscription(&name, known).await?,
    }
    Ok(())
}

/// Whether a subscription is as the file says, as far as the API shows it.
fn is_as(view: &SubscriptionView, wanted: &Subscription) -> bool {
    let Subscription { name: _, description, instances, rules, events, webhook, enabled } = wanted;
    let secret = webhook.secret.as_ref().map(|secret| match is_here(secret) {
        true => (Some(SecretKind::Stored), None),
        false => (Some(kind(secret)), Some(secret.to_string())),
    });
    view.description == *description
        && view.instances == *instances
        && view.rules == *rules
        && view.events == *events
        && view.enabled == *enabled
        && view.webhook.url == webhook.url.as_str()
        && view.webhook.private_network == webhook.private_network
        && view.webhook.secret.as_ref().map(|secret| (secret.from, secret.reference.clone())) == secret
}

/// Where AWS keeps a secret.
fn kind(secret: &SecretRef) -> SecretKind {
    match secret {
        SecretRef::Parameter(_) => SecretKind::Ssm,
        _ => SecretKind::Secretsmanager,
    }
}

/// Whether a secret's value is on this machine.
fn is_here(secret: &SecretRef) -> bool {
    matches!(secret, SecretRef::Env(_) | SecretRef::File(_))
}

fn secrets(instance: &Instance) -> impl Iterator<Item = &SecretRef> {
    let webhook = match &instance.webhook {
        WebhookAuth::Secret(secret) => Some(secret),
        WebhookAuth::Closed | WebhookAuth::Open | WebhookAuth::Google(_) => None,
    };
    let notify = instance.notify.as_ref().and_then(|notify| notify.secret.as_ref());
    instance.credentials.secret().into_iter().chain(webhook).chain(notify)
}

/// What the API shows of an instance once it is as the file says.
fn shape(instance: &Instance) -> InstanceInput {
    let mut shape = InstanceInput::of(instance);
    for secret in places(&mut shape).into_iter().flatten() {
        if matches!(secret.from, Some(SecretKind::Env | SecretKind::File)) {
            secret.from = Some(SecretKind::Stored);
        }
    }
    shape.ca = certificates(instance).unwrap_or_default();
    shape
}

/// The certificates that an instance names by the path of their file.
fn certificates(instance: &Instance) -> anyhow::Result<Option<String>> {
    let read = |path: &String| std::fs::read_to_string(path).with_context(|| format!("the file {path} can't be read"));
    instance.ca.as_ref().map(read).transpose()
}

/// Where there are secrets.
fn places(input: &mut InstanceInput) -> [Option<&mut SecretInput>; 4] {
    let InstanceInput { credentials, webhook_secret, notify, .. } = input;
    let (password, token) =
        credentials.as_mut().map(|given| (given.password.as_mut(), given.refresh_token.as_mut())).unwrap_or_default();
    [password, token, webhook_secret.as_mut(), notify.as_mut().and_then(|notify| notify.secret.as_mut())]
}

/// The document that makes an instance what the file says, with the values of secrets that are on this machine.
pub(crate) async fn with_values(instance: &Instance) -> anyhow::Result<InstanceInput> {
    if instance.credentials == Credentials::DockerConfig {
        bail!(
            "credentials: 'docker-config' is for `serve --config`: through the API give username and password, or refresh_token"
        );
    }
    let mut input = InstanceInput::of(instance);
    input.ca = certificates(instance)?;
    if let (Some(written), Some(notify)) = (&mut input.notify, &instance.notify) {
        written.url = Some(notify.url.clone());
    }
    // In the order of `places`, of which an instance has at most one of the first two.
    let mut given = secrets(instance);
    for place in places(&mut input).into_iter().flatten() {
        let Some(reference) = given.next() else { break };
        if is_here(reference) {
            let secret = LocalSecrets.read(reference).await?;
            *place = SecretInput { value: Some(secret.expose_secret().to_owned()), ..SecretInput::default() };
        } else {
            *place = SecretInput { reference: Some(reference.to_string()), ..SecretInput::default() };
        }
    }
    Ok(input)
}
