//! The distribution client and the copy engine.
//!
//! [`Registry`] speaks the distribution specification with one registry: it logs in, pages, mounts, streams. [`Copier`] copies
//! artifacts from one repository to another with it. Neither knows anything of rules, tasks or queues.
//!
//! What registries really do, and what of it is handled where, is in comments beside the code.

mod address;
mod auth;
mod authorities;
mod challenge;
mod copy;
mod digest;
mod ecr;
mod error;
mod host;
mod http;
mod kept;
mod limit;
mod manifest;
mod outward;
mod reference;
mod registry;
mod tc3;

pub use self::{
    auth::Login,
    authorities::{Authorities, InvalidAuthorities},
    copy::{
        Attached, Bounds, Checkpoint, Checkpoints, Copier, Endpoint, Lease, Leases, Moved, Options, Outcome, Progress,
        Resolved, Tagged, Way,
    },
    ecr::{Ecr, EcrIdentity},
    error::{Error, Failure},
    http::{Http, Patience},
    limit::Throttling,
    manifest::{Descriptor, Manifest},
    outward::{Answer, Outward, Unanswered},
    reference::{InvalidReference, parse_reference},
    registry::{Blob, Cursor, Deletion, Page, PutOutcome, Registry, RegistryConfig, Upload, UploadStart},
    tc3::Tcr,
};
