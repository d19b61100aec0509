//! What the functions are on AWS Lambda: their size, their start, their time and memory, and what they ask of the services.
//!
//! ```console
//! $ cargo bench -p transship-tests --bench lambda
//! ```
//!
//! `-- size`, `starts`, `webhook`, `sync` or `memory` at its end, or several of them, measures only that.
//!
//! The functions are built by cargo-lambda as `sam build` has it build them, but with this machine's own compiler and for its own
//! processor, and run under AWS's runtime interface emulator. Times of an invocation are those that the emulator notes: from the moment
//! it hands over the event to the function's next poll. Behind the functions is an emulator of the services, and before it a relay that
//! notes every request: when it came and was answered, and what it costs. A function's own time is the time of the invocation without
//! the time in which any request was under way at the relay. Event source mappings are played by the bench, and counted by what they
//! would ask.
//!
//! What differs from AWS: a function here has whole processors and not the share that its memory buys, registries and services are on
//! loopback and without TLS, and the services' times are nobody's figure. `docs/COSTS.md` says what follows from that.
//!
//! It fails only where something is wrong, never where it is slow. Run it when nothing else runs.
#![expect(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a bench has nothing to recover from")]

mod capacity;
#[path = "../figures.rs"]
mod figures;
#[path = "../large.rs"]
mod large;
mod memory;
mod package;
mod process;
mod setting;
mod starts;
mod sync;
mod webhook;
#[expect(dead_code, reason = "the tests do more with it")]
#[path = "../../tests/lambda/world.rs"]
mod world;

use figures::Figures;

fn main() {
    // `cargo test --benches` asks whether it works, not how fast.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let mut figures = Figures::default();
    let package = package::build();
    if is_wanted("size") {
        package.measure(&mut figures);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if is_wanted("starts") {
            starts::measure(&mut figures, &package).await;
        }
        if is_wanted("webhook") {
            webhook::measure(&mut figures, &package).await;
        }
        if is_wanted("sync") {
            sync::measure(&mut figures, &package).await;
        }
        if is_wanted("memory") {
            memory::measure(&mut figures, &package).await;
        }
    });
    figures.print();
}
