//! What a small sync takes of the services and of the functions, from the push to the announcement.

use transship_tests::{Image, Rie, assert_same, relay};

use crate::{
    capacity::Cost,
    figures::Figures,
    package::Package,
    process,
    setting::{Setting, pushed},
    world::answer,
};

/// So many are done before one counts: connections, catalogue, secrets and what is believed of registries are there then.
const WARM: usize = 3;
const SYNCS: usize = 20;
const MOST_WRITE_UNITS: f64 = 12.0;

/// What one function did for a sync.
#[derive(Default)]
struct Part {
    invocations: usize,
    in_a_row: usize,
    cost: Cost,
}

pub(crate) async fn measure(figures: &mut Figures, package: &Package) {
    let setting = Setting::start(package).await;
    let functions = [setting.function("webhook").await, setting.function("worker").await, setting.function("logger").await];
    for n in 0..WARM {
        small(&setting, &functions, n, 1).await;
    }
    let before = functions.each_ref().map(|function| (process::invocations(function).len(), process::cpu(function)));
    let logged = || functions.iter().map(process::logged).sum::<usize>();
    let logged_before = logged();
    let mut syncs = Vec::with_capacity(SYNCS);
    for n in 0..SYNCS {
        // The worst for the table: the logger hears of every event by itself.
        syncs.push(small(&setting, &functions, WARM + n, 1).await);
    }
    let names = ["webhook", "worker", "logger"];
    let took = functions.each_ref().map(process::invocations);
    let cpu = functions.each_ref().map(process::cpu);
    let logged = (logged() - logged_before) / SYNCS;

    let total = |parts: &[Part; 3]| {
        let mut total = Cost::default();
        parts.iter().for_each(|part| total += &part.cost);
        total
    };
    let worst = syncs.iter().max_by(|a, b| total(a).write_units.total_cmp(&total(b).write_units)).expect("a sync");
    let all = total(worst);
    let figure = format!("{} (the most of {SYNCS} syncs, each event logged by itself)", all.write_units);
    figures.compare("write units of a small sync", figure, "≤ 12", all.write_units <= MOST_WRITE_UNITS);
    let together = total(&small(&setting, &functions, WARM + SYNCS, 10).await);
    figures.note("    events logged together", together.write_units.to_string());
    let invocations: usize = worst.iter().map(|part| part.invocations).sum();
    figures.note("    read units", all.read_units.to_string());
    figures.note("    invocations, and each a receipt and a deletion but the webhook's", invocations.to_string());
    figures.note("    requests of SQS by functions", all.of_service("SQS.").to_string());
    figures.note("    publications to SNS", all.of_service("SNS.").to_string());
    figures.note("    logged", format!("{logged} bytes"));
    for (at, part) in worst.iter().enumerate() {
        figures.note(&format!("    {}", names[at]), format!("{} in a row; {}", part.in_a_row, part.cost));
        let times = took[at][before[at].0..].to_vec();
        let cpu = (cpu[at] - before[at].1) / times.len() as u32;
        figures.times(&format!("    {}, an invocation", names[at]), times, None);
        figures.note(&format!("    {}, CPU of one", names[at]), format!("{cpu:.1?}"));
    }
}

/// An image with one small layer, and what each function did for it; the logger takes so many events at once.
async fn small(setting: &Setting<'_>, [webhook, worker, logger]: &[Rie; 3], n: usize, batch: i32) -> [Part; 3] {
    let tag = format!("v{n}");
    let image = Image::random(1000 + n as u64).layers(1, 4 << 10).build();
    image.push(&setting.build.at("team/app", &tag)).await;
    setting.relay.take();

    let (status, said) = answer(&webhook.invoke(&pushed("team/app", &tag, image.digest())).await.expect("an answer"));
    assert_eq!(status, 202, "{said}");
    let webhook = part(setting, 1);
    let copies = setting.world.drain("jobs.fifo", 1, worker).await;
    let worker = part(setting, copies);
    assert_same(&setting.build.at("team/app", &tag), &setting.mirror.at("team/app", &tag)).await;
    let logged = setting.world.drain("events", batch, logger).await;
    let logger = part(setting, logged);
    assert_eq!((worker.invocations, logger.cost.of_service("SNS.")), (1, 1), "copied, logged and announced");
    [webhook, worker, logger]
}

fn part(setting: &Setting<'_>, invocations: usize) -> Part {
    let calls = setting.relay.take();
    Part { invocations, in_a_row: relay::in_a_row(&calls), cost: Cost::of(&calls) }
}
