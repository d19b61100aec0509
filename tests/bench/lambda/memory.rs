//! How much memory and time a worker takes for what is large.

use std::time::Duration;

use transship_model::Digest;
use transship_tests::Image;

use crate::{
    capacity::Cost,
    figures::Figures,
    large,
    package::Package,
    process,
    setting::{Setting, pushed},
    world::answer,
};

/// MB, of the 256 MiB that a worker has.
const MOST: f64 = 96.0;
const REPOSITORY: &str = "team/app";

pub(crate) async fn measure(figures: &mut Figures, package: &Package) {
    let layer = Image::random(1).layers(1, 16 << 20).build();
    let layers = Image::random(2).layers(60, 4 << 20).build();
    for (what, image) in [("a layer of 16 MiB", layer), ("60 layers of 4 MiB", layers)] {
        let setting = Setting::start(package).await;
        image.push(&setting.build.at(REPOSITORY, "v1")).await;
        copy(figures, what, image.digest(), &setting).await;
    }
    let setting = Setting::start(package).await;
    let (_, manifest) = large::push(setting.build.client(), REPOSITORY).await;
    copy(figures, "a layer of 1 GiB", &manifest, &setting).await;
}

/// A copy by a worker that has just been started, with all invocations that it takes.
async fn copy(figures: &mut Figures, what: &str, manifest: &Digest, setting: &Setting<'_>) {
    let (webhook, worker) = (setting.function("webhook").await, setting.function("worker").await);
    let (status, said) = answer(&webhook.invoke(&pushed(REPOSITORY, "v1", manifest)).await.expect("an answer"));
    assert_eq!(status, 202, "{said}");
    setting.relay.take();
    let invocations = setting.world.drain("jobs.fifo", 1, &worker).await;
    let cost = Cost::of(&setting.relay.take());
    assert_eq!(setting.mirror.client().get_manifest(REPOSITORY, "v1").await.digest, *manifest);
    let mb = process::peak(&worker) * 1.048_576;
    figures.compare(&format!("peak memory of a worker, {what}"), format!("{mb:.1} MB"), "≤ 96 MB", mb <= MOST);
    let took: Duration = process::invocations(&worker).iter().sum();
    let cpu = process::cpu(&worker);
    figures.note("    in all", format!("{took:.2?} in {invocations} invocations, CPU {cpu:.2?}; {cost}"));
}
