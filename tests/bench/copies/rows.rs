//! The rows of the table.

use std::{path::Path, process::Command, time::Duration};

use tokio::task::spawn_blocking;
use transship_tests::{DockerRegistry, Link};

use crate::{
    figures::Figures,
    large::begin,
    process::{self, Used},
    side::{Side, Traffic},
    tool::{Tool, curl, folder},
    work::{REPOSITORY, Work},
};

const MIB: f64 = (1 << 20) as f64;
const NEAR: Duration = Duration::from_millis(20);

/// Several copies by one program.
#[derive(Default)]
struct Measured {
    runs: Vec<Used>,
    /// What passed at the source and at the target in the last of them.
    traffic: [Traffic; 2],
}

impl Measured {
    fn median<T: Ord>(&self, of: impl Fn(&Used) -> T) -> T {
        let mut all: Vec<T> = self.runs.iter().map(of).collect();
        all.sort_unstable();
        all.swap_remove((all.len() - 1) / 2)
    }

    fn wall(&self) -> f64 {
        self.median(|used| used.wall).as_secs_f64()
    }

    fn cpu(&self) -> f64 {
        self.median(|used| used.cpu).as_secs_f64()
    }

    fn peak_mib(&self) -> f64 {
        self.runs.iter().map(|used| used.peak_kib).max().unwrap_or(0) as f64 / 1024.0
    }

    fn requests(&self) -> usize {
        self.traffic.iter().map(|traffic| traffic.requests.len()).sum()
    }

    /// What it took besides time.
    fn details(&self) -> String {
        let [source, target] = &self.traffic;
        let mut text = format!("CPU {:.2} s, peak {:.1} MiB", self.cpu(), self.peak_mib());
        if self.requests() > 0 {
            text += &format!(
                "; source: {} requests, {} connections, {:.1} MiB; target: {}, {}, {:.1} MiB",
                source.requests.len(),
                source.connections,
                source.received as f64 / MIB,
                target.requests.len(),
                target.connections,
                target.sent as f64 / MIB
            );
        }
        text + &format!(" ({} runs)", self.runs.len())
    }
}

/// One copy; what passed is counted if there is a link.
async fn copy(
    tool: Tool,
    work: &Work,
    source: &DockerRegistry,
    target: &DockerRegistry,
    link: Option<Link>,
    home: &Path,
) -> (Used, [Traffic; 2]) {
    let sides = [Side::new(source, link).await, Side::new(target, link).await];
    let command = tool.command(sides[0].url(), sides[1].url(), home);
    let used = spawn_blocking(|| process::run(command)).await.expect("the program ends well");
    let [from, to] = sides;
    let traffic = [from.traffic().await, to.traffic().await];
    work.verify(target.client()).await;
    (used, traffic)
}

/// A copy to an empty registry.
async fn fresh(tool: Tool, work: &Work, source: &DockerRegistry, link: Option<Link>) -> (Used, [Traffic; 2]) {
    let (target, home) = (DockerRegistry::start().await, folder());
    copy(tool, work, source, &target, link, home.path()).await
}

/// Both programs in turns, each so often, to empty registries.
async fn compared<const N: usize>(
    tools: [(Tool, usize); N],
    work: &Work,
    source: &DockerRegistry,
    link: Option<Link>,
) -> [Measured; N] {
    let mut all = tools.map(|_| Measured::default());
    for round in 0..tools.iter().map(|(_, runs)| *runs).max().unwrap_or(0) {
        for ((tool, runs), measured) in tools.iter().zip(&mut all) {
            if round < *runs {
                let (used, traffic) = fresh(*tool, work, source, link).await;
                measured.runs.push(used);
                measured.traffic = traffic;
            }
        }
    }
    if link.is_none() {
        for ((tool, _), measured) in tools.iter().zip(&mut all) {
            measured.traffic = fresh(*tool, work, source, Some(Link::default())).await.1;
        }
    }
    all
}

/// Adds a row: times, their ratio, and what each took besides.
fn add(figures: &mut Figures, what: &str, ours: &Measured, name: &str, theirs: &Measured, most: f64) {
    let (wall, their_wall) = (ours.wall(), theirs.wall());
    let ratio = wall / their_wall;
    let figure = format!("{wall:.3} s, {name} {their_wall:.3} s: ratio {ratio:.3}");
    figures.compare(what, figure, &format!("≤ {most}"), ratio <= most);
    figures.note("    transship", ours.details());
    figures.note(&format!("    {name}"), theirs.details());
}

fn at_most(figures: &mut Figures, what: &str, figure: f64, unit: &str, most: f64) {
    figures.compare(&format!("    {what}"), format!("{figure:.2}{unit}"), &format!("≤ {most}{unit}"), figure <= most);
}

/// 1 GiB in one layer, here.
pub(crate) async fn large(figures: &mut Figures) {
    const RUNS: usize = 5;
    let source = DockerRegistry::start().await;
    let (work, layer) = Work::large(source.client()).await;
    let get = format!("{}/v2/{REPOSITORY}/blobs/{layer}", source.url());
    let (mut ours, mut skopeo, mut piped) = (Measured::default(), Measured::default(), Measured::default());
    for round in 0..RUNS {
        let target = DockerRegistry::start().await;
        let put = format!("{}&digest={layer}", begin(target.client(), REPOSITORY).await);
        let commands = [curl(&[&get]), upload("-", &put)];
        piped.runs.push(spawn_blocking(|| process::pipe(commands)).await.expect("curl ends well"));
        target.client().blob(REPOSITORY, &layer).await;
        drop(target);
        ours.runs.push(fresh(Tool::Transship("v1"), &work, &source, None).await.0);
        if round == 0 {
            skopeo.runs.push(fresh(Tool::Skopeo("v1"), &work, &source, None).await.0);
        }
    }
    ours.traffic = fresh(Tool::Transship("v1"), &work, &source, Some(Link::default())).await.1;
    add(figures, "1 GiB layer, local", &ours, "curl GET | curl PUT", &piped, 1.1);
    figures.note("    skopeo copy", format!("{:.3} s; {}", skopeo.wall(), skopeo.details()));
    at_most(figures, "client CPU", ours.cpu(), " s", 1.4);
    at_most(figures, "peak memory", ours.peak_mib(), " MiB", 40.0);
}

/// 60 layers of 4 MiB.
pub(crate) async fn layers(figures: &mut Figures) {
    let source = DockerRegistry::start().await;
    let work = Work::layers(source.client()).await;
    against_skopeo(figures, "60 layers of 4 MiB, local", &work, &source).await;
}

/// An index.
pub(crate) async fn index(figures: &mut Figures) {
    let source = DockerRegistry::start().await;
    let work = Work::index(source.client()).await;
    against_skopeo(figures, "index of 4 platforms × 6 layers of 8 MiB, 3 shared, local", &work, &source).await;
}

async fn against_skopeo(figures: &mut Figures, what: &str, work: &Work, source: &DockerRegistry) {
    let tools = [(Tool::Transship("v0"), 5), (Tool::Skopeo("v0"), 5)];
    let [ours, theirs] = compared(tools, work, source, None).await;
    add(figures, what, &ours, "skopeo copy", &theirs, 0.35);
    let taken = work.taken.as_secs_f64();
    let ratio = taken / theirs.wall();
    figures.note(
        "    a client that has it in memory",
        format!("{taken:.3} s: ratio {ratio:.3}, what docker-registry takes by itself"),
    );
}

/// Five small layers, far away.
pub(crate) async fn small(figures: &mut Figures) {
    let source = DockerRegistry::start().await;
    let work = Work::small(source.client()).await;
    let link = |round_trip| Some(Link { round_trip, rate: None });
    let (ours, skopeo) = (Tool::Transship("v0"), Tool::Skopeo("v0"));
    let [ours_near, theirs] = compared([(ours, 7), (skopeo, 5)], &work, &source, link(NEAR)).await;
    add(figures, "5 small layers, 20 ms round trip", &ours_near, "skopeo copy", &theirs, 0.35);
    at_most(figures, "round trips in all: time / 20 ms", ours_near.wall() / NEAR.as_secs_f64(), "", 8.0);
    // What grows with distance is waited for one after the other; the rest is work.
    let [ours_far] = compared([(ours, 5)], &work, &source, link(NEAR * 4)).await;
    let grown = (ours_far.wall() - ours_near.wall()) / (NEAR * 3).as_secs_f64();
    figures.note("    of them one after the other", format!("{grown:.1} (what 60 ms more add to the time)"));
}

/// 200 tags, far away; and again.
pub(crate) async fn tags(figures: &mut Figures) {
    const RUNS: usize = 3;
    let (what, again) = ("200 tags, 2 shared layers of 8 MiB, 20 ms round trip", "the same again, nothing to do");
    let source = DockerRegistry::start().await;
    let work = Work::tags(source.client()).await;
    let link = Some(Link { round_trip: NEAR, rate: None });
    let mut first = [Measured::default(), Measured::default()];
    let mut second = [Measured::default(), Measured::default()];
    let tools = [(Tool::TransshipAllTags, RUNS), (Tool::SkopeoSync, 1)];
    for ((tool, runs), (first, second)) in tools.iter().zip(first.iter_mut().zip(&mut second)) {
        for _ in 0..*runs {
            let (target, home) = (DockerRegistry::start().await, folder());
            for measured in [&mut *first, &mut *second] {
                let (used, traffic) = copy(*tool, &work, &source, &target, link, home.path()).await;
                measured.runs.push(used);
                measured.traffic = traffic;
            }
        }
    }
    let name = Tool::SkopeoSync.name();
    add(figures, what, &first[0], name, &first[1], 0.05);
    let [from, to] = &first[0].traffic;
    at_most(figures, "requests in all", first[0].requests() as f64, "", 1700.0);
    at_most(figures, "bytes sent / bytes there are", to.sent as f64 / work.size as f64, "", 1.05);
    at_most(figures, "asked again for a blob", (from.asked_again() + to.asked_again()) as f64, "", 0.0);
    add(figures, again, &second[0], name, &second[1], 0.03);
    for (side, traffic) in ["source", "target"].iter().zip(&second[0].traffic) {
        let tags = work.tags.len() as f64;
        at_most(figures, &format!("requests a tag, {side}"), traffic.count("/manifests/") as f64 / tags, "", 1.0);
    }
}

/// 1 GiB in one layer, far away.
pub(crate) async fn far(figures: &mut Figures) {
    const RUNS: usize = 3;
    let source = DockerRegistry::start().await;
    let (work, layer) = Work::large(source.client()).await;
    // 400 Mbit/s.
    let link = Some(Link { round_trip: Duration::from_millis(80), rate: Some(50_000_000) });
    let [ours] = compared([(Tool::Transship("v1"), RUNS)], &work, &source, link).await;

    let home = folder();
    let file = home.path().join("layer").to_string_lossy().into_owned();
    process::run(curl(&["--output", &file, &format!("{}/v2/{REPOSITORY}/blobs/{layer}", source.url())]));
    let mut uploaded = Measured::default();
    for _ in 0..RUNS {
        let target = DockerRegistry::start().await;
        let side = Side::new(&target, link).await;
        let location = begin(target.client(), REPOSITORY).await.replace(target.url(), side.url());
        let command = upload(&file, &format!("{location}&digest={layer}"));
        uploaded.runs.push(spawn_blocking(|| process::run(command)).await.expect("curl ends well"));
        target.client().blob(REPOSITORY, &layer).await;
    }
    add(figures, "1 GiB at 80 ms and 400 Mbit/s a connection", &ours, "one upload by curl", &uploaded, 1.05);
}

/// curl that sends a file, or what it reads, without waiting to be asked for it.
fn upload(file: &str, url: &str) -> Command {
    let mut command = curl(&["--upload-file", file, "--header", "Expect:"]);
    command.args(["--header", "Content-Type: application/octet-stream", url]);
    command
}
