//! How fast `transship copy` is, beside what people use today:
//!
//! ```console
//! $ cargo bench -p transship-tests --bench copies
//! ```
//!
//! `-- large`, `layers`, `index`, `small`, `tags` or `far` at its end, or several of them, measures only that.
//!
//! Both registries are Debian's `docker-registry` with its storage in memory, and so is skopeo's cache. All programs are run as their users
//! run them, in turns, and the median of their times counts. Every copy is read again and compared by digest, which is not timed. Where
//! there is a link, both registries are at its other end. What passed is counted by the link and in the registries' logs; where
//! there is none, that is done in one more copy, which is not timed, over a link without distance.
//!
//! What to know when reading the table: skopeo tries TLS first at a registry that has none, which costs it two round trips or three a
//! registry and process. `transship copy` also looks for signatures and referrers, which skopeo leaves behind. curl verifies nothing.
//!
//! It fails only where something is wrong, never where it is slow. Run it when nothing else runs.
#![expect(clippy::expect_used, clippy::panic, reason = "a bench has nothing to recover from")]

#[expect(dead_code, reason = "percentiles are the other bench's")]
#[path = "../figures.rs"]
mod figures;
#[path = "../large.rs"]
mod large;
mod process;
mod rows;
mod side;
mod tool;
mod work;

use figures::Figures;

fn main() {
    // `cargo test --benches` asks whether it works, not how fast.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let mut figures = Figures::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if is_wanted("large") {
            rows::large(&mut figures).await;
        }
        if is_wanted("layers") {
            rows::layers(&mut figures).await;
        }
        if is_wanted("index") {
            rows::index(&mut figures).await;
        }
        if is_wanted("small") {
            rows::small(&mut figures).await;
        }
        if is_wanted("tags") {
            rows::tags(&mut figures).await;
        }
        if is_wanted("far") {
            rows::far(&mut figures).await;
        }
    });
    figures.print();
}
