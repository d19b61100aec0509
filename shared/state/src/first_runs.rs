//! First runs: a new rule that is enabled brings over what is there already.
//!
//! That one is to be started is noted in the transaction that makes the rule, and struck out once its job and its event are sent. A
//! crash in between makes it start again, as the same task.

use transship_model::{Rule, TaskHead, TaskId, Trigger};

use crate::{Catalog, Draft, Events, Jobs, Snapshot, StateError, dispatch};

/// Starts the first runs of all rules that wait for theirs, and returns how many there were.
///
/// # Errors
/// See [`StateError`]; the same call again starts what is left.
pub async fn start_all(catalog: &Catalog, jobs: &Jobs, events: &Events) -> Result<usize, StateError> {
    let snapshot = catalog.snapshot().await?;
    let waiting: Vec<_> = snapshot.rules().filter_map(|rule| Some((rule, head(&snapshot, rule)?))).collect();
    for some in waiting.chunks(Draft::MAX_STEPS) {
        let tasks: Vec<TaskHead> = some.iter().map(|(_, task)| task.clone()).collect();
        start(jobs, events, &tasks).await?;
        strike_out(catalog, some.iter().map(|(rule, _)| &***rule)).await?;
    }
    Ok(waiting.len())
}

/// Starts the first run of a rule of this snapshot, if it is enabled and waits for it, and returns its task.
///
/// # Errors
/// See [`StateError`]; the same call again starts it then.
pub async fn start_one(
    catalog: &Catalog,
    snapshot: &Snapshot,
    jobs: &Jobs,
    events: &Events,
    rule: &Rule,
) -> Result<Option<TaskId>, StateError> {
    let Some(task) = head(snapshot, rule) else { return Ok(None) };
    let id = task.id.clone();
    start(jobs, events, &[task]).await?;
    strike_out(catalog, std::iter::once(rule)).await?;
    Ok(Some(id))
}

/// The task of a rule's first run, if it waits for that. The same rule has the same each time.
fn head(snapshot: &Snapshot, rule: &Rule) -> Option<TaskHead> {
    let created = snapshot.begins(rule)?;
    let id = TaskId::derive(rule.id, created, "created");
    Some(TaskHead { id, instance: rule.source.instance.clone(), rule: rule.name.clone(), trigger: Trigger::Created, created })
}

async fn start(jobs: &Jobs, events: &Events, tasks: &[TaskHead]) -> Result<(), StateError> {
    let (scans, created): (Vec<_>, Vec<_>) = tasks.iter().cloned().map(dispatch::full_run).unzip();
    // The jobs first, as everywhere: a job without its event makes a log, an event without its job would wait for ever.
    jobs.send(&scans).await?;
    events.send(&created).await
}

/// Notes that the first runs of rules have been started.
async fn strike_out<'a>(catalog: &Catalog, rules: impl Iterator<Item = &'a Rule> + Clone) -> Result<(), StateError> {
    let has_begun = |_: &Snapshot, draft: &mut Draft<'_>| {
        rules.clone().for_each(|rule| draft.has_begun(rule));
        Ok::<_, StateError>(())
    };
    catalog.edit(has_begun).await.map(drop)
}
