//! Fixtures for the tests that cross crates: registries that really run, content that is really an image, and a proxy that
//! breaks things on purpose.
//!
//! ```no_run
//! # use transship_tests::*;
//! # async fn example() {
//! let source = DockerRegistry::start().await;
//! let target = DockerRegistry::builder().login(ALICE).start().await;
//! Image::random(1).layers(2, 64 << 10).build().push(&source.at("team/app", "v1")).await;
//! // … what is tested runs here …
//! assert_same(&source.at("team/app", "v1"), &target.at("mirror/app", "v1")).await;
//! # }
//! ```
//!
//! Everything is on loopback and in temporary directories, and ends with the value that started it. What does not go as a
//! fixture expects panics with what it was doing: a test has nothing to recover from there.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "fixtures of tests: a failure is a failed test, and its message says what was being done"
)]

mod aws;
mod bulk;
mod client;
mod compare;
mod content;
mod install;
mod layer;
mod proxy;
mod registry;
pub mod relay;
mod rie;
mod sam;
mod sink;
mod skopeo;
mod stack;
mod tls;
mod transship;
mod wait;
mod wan;

pub use aws::Aws;
pub use bulk::Bulk;
pub use client::{At, Client, Manifest};
pub use compare::{Walked, assert_same};
pub use content::{Artifact, Image, Index, artifact, chart, cosign_signature, media, referrer, referrers_index};
pub use install::{program, tool};
pub use proxy::{Action, Exchange, Gate, Proxy, Request};
pub use registry::{ALICE, BOB, Builder, DockerRegistry, ECR, Login};
pub use relay::Relay;
pub use rie::Rie;
pub use sam::{architecture, built, root, sam};
pub use sink::{Delivery, Sink};
pub use stack::Stack;
pub use tls::{Authority, Certificate, TlsFront};
pub use transship::{HOOK_SECRET, Transship, binary, config, instance, rule};
pub use wait::{free_port, wait_until};
pub use wan::{Link, Wan};
