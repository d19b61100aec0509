//! Cold starts.

use std::time::Duration;

use serde_json::json;

use crate::{
    figures::Figures,
    package::{FUNCTIONS, Package},
    process,
    setting::Setting,
};

/// Each function is started so often.
const STARTS: usize = 11;
const TARGET: Duration = Duration::from_millis(60);

pub(crate) async fn measure(figures: &mut Figures, package: &Package) {
    let setting = Setting::start(package).await;
    for name in FUNCTIONS {
        let mut times = Vec::with_capacity(STARTS);
        for _ in 0..STARTS {
            let function = setting.function(name).await;
            // It starts with its first event, and refuses this one.
            function.invoke(&json!({})).await.expect_err("nobody's event");
            times.push(process::init(&function));
        }
        times.sort_unstable();
        let (median, worst) = (times[STARTS / 2], times[STARTS - 1]);
        let figure = format!("median {median:.1?}, worst {worst:.1?} ({STARTS} starts)");
        figures.compare(&format!("cold start of {name} to its first poll"), figure, "≤ 60 ms", median <= TARGET);
    }
}
