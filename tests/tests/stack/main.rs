//! template.yaml: valid, built by `sam build`, deployed by `sam deploy` to an emulator that enforces the functions' roles, and at
//! work there. [`transship_tests::Stack`] says what the emulator can't do.
mod carrying;
mod events;
mod local;
mod operating;
mod queues;
mod rights;
mod template;
