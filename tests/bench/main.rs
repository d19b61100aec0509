//! The figures that transship promises, measured on this machine:
//!
//! ```console
//! $ cargo bench -p transship-tests --bench figures
//! ```
//!
//! `-- matching`, `-- pushes` or `-- layer` at its end measures only that.
//!
//! It builds and starts the release binary, prints a table of figure, target and whether that is met, and fails only where
//! something is wrong, never where it is slow: how fast a disk is decides nobody's build. Run it when nothing else runs.
#![expect(clippy::expect_used, reason = "a bench has nothing to recover from")]

mod figures;
mod large;
mod layer;
mod matching;
mod pushes;

use figures::Figures;

fn main() {
    // `cargo test --benches` asks whether it works, not how fast.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let mut figures = Figures::default();
    if is_wanted("matching") {
        matching::measure(&mut figures);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if is_wanted("pushes") {
            pushes::measure(&mut figures).await;
        }
        if is_wanted("layer") {
            layer::measure(&mut figures).await;
        }
    });
    figures.print();
}
