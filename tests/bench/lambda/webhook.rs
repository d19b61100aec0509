//! How quickly a warm webhook answers.

use std::time::Duration;

use transship_model::Digest;
use transship_tests::{Rie, relay};

use crate::{
    capacity::Cost,
    figures::Figures,
    package::Package,
    process,
    setting::{Setting, pushed},
    world::answer,
};

/// Before it counts.
const WARM: usize = 20;
const TIMES: usize = 500;
/// For the 99th percentile of its own time.
const TARGET: Duration = Duration::from_millis(10);
const MOST_IN_A_ROW: usize = 3;

pub(crate) async fn measure(figures: &mut Figures, package: &Package) {
    let setting = Setting::start(package).await;
    let webhook = setting.function("webhook").await;
    notify(&webhook, 0).await;
    let first = setting.relay.take();
    for n in 1..WARM {
        notify(&webhook, n).await;
    }
    setting.relay.take();

    let before = process::cpu(&webhook);
    let (mut busy, mut in_a_row, mut cost) = (Vec::with_capacity(TIMES), 0, Cost::default());
    for n in 0..TIMES {
        notify(&webhook, WARM + n).await;
        let calls = setting.relay.take();
        busy.push(relay::busy(&calls));
        in_a_row = in_a_row.max(relay::in_a_row(&calls));
        cost = Cost::of(&calls);
    }
    let cpu = (process::cpu(&webhook) - before) / TIMES as u32;
    let whole = process::invocations(&webhook).split_off(WARM);
    assert_eq!(whole.len(), busy.len(), "the emulator notes every invocation");
    let own = whole.iter().zip(&busy).map(|(whole, busy)| whole.saturating_sub(*busy)).collect();
    figures.times("warm webhook without the services' time", own, Some(TARGET));
    figures.times("    with the emulated services' time", whole, None);
    figures.note("    CPU of one", format!("{cpu:.1?}"));
    let figure = format!("{in_a_row} ({cost})");
    figures.compare("    calls one after the other", figure, "≤ 3", in_a_row <= MOST_IN_A_ROW);
    figures.note("    the first of an environment", format!("{} ({})", relay::in_a_row(&first), Cost::of(&first)));
}

async fn notify(webhook: &Rie, n: usize) {
    let event = pushed("team/app", &format!("v{n}"), &Digest::of(&n.to_be_bytes()));
    let (status, said) = answer(&webhook.invoke(&event).await.expect("an answer"));
    assert_eq!(status, 202, "{said}");
}
