use transship_model::{Job, Outcome, Place, Progress, Reference, Route};

use super::*;

/// Would break: a retry that leaves out what was never listed, or that copies all again for one that failed.
#[tokio::test]
async fn a_retry_is_a_full_run_where_the_source_was_not_listed_whole() {
    let deployment = Deployment::filled().await;
    let place = |instance: &str, repository: &str| Place {
        instance: instance.parse().unwrap(),
        repository: repository.parse().unwrap(),
        reference: Reference::Tag("v1".parse().unwrap()),
    };
    let route = Route { source: place("build", "team/app"), target: place("prod", "mirror/app") };
    let found = Happening::Found { resources: vec![route.clone()] };
    let outcome = Outcome::Failed { reason: "no answer".into() };
    let failed = Happening::Ended { route, progress: Progress::default(), outcome };
    let scanned =
        |error: Option<&str>| Happening::ScanEnded { total: 1, compared: 0, repositories: 1, error: error.map(str::to_owned) };
    for (listing, is_whole) in [(Some("the source did not answer"), false), (None, true)] {
        let happenings = [found.clone(), scanned(listing), failed.clone()];
        let task = deployment.task(&format!("{is_whole}"), &happenings).await;
        let retried = deployment.done(Method::POST, &format!("/v1/tasks/{task}/retry"), Value::Null).await;
        let jobs = deployment.jobs.receive(10, Duration::from_secs(60)).await.unwrap();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        let job: Job = serde_json::from_str(&jobs[0].body).unwrap();
        let (new, of) = match &job {
            Job::Scan(job) if !is_whole => (&job.task.id, &task),
            Job::Retry(job) if is_whole => (&job.task.id, &job.of),
            other => panic!("is_whole: {is_whole}, {other:?}"),
        };
        assert_eq!((new.as_str(), of), (retried["task"].as_str().unwrap(), &task));
        deployment.jobs.delete(&jobs[0].receipt).await.unwrap();
    }
}
