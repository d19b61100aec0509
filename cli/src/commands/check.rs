//! `transship check`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    config::{self, LoadError},
    output::{self, Format},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(short = 'f', long, value_name = "FILE")]
    config: PathBuf,
    /// How it is told what the file has
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// What is said of a file, for scripts.
#[derive(Debug, Default, Serialize)]
struct Checked<'a> {
    mistakes: Vec<Said<'a>>,
    warnings: Vec<Said<'a>>,
    instances: usize,
    rules: usize,
    subscriptions: usize,
}

/// What is said of a place in a file.
#[derive(Debug, Serialize)]
struct Said<'a> {
    file: &'a Path,
    /// From 1; none where it is about something that is not there.
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
}

impl<'a> Said<'a> {
    fn new(file: &'a Path, config::Mistake { line, column, message }: &'a config::Mistake) -> Self {
        Self { file, line: Some(*line), column: Some(*column), message }
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { config: file, output } = arguments;
    let config = match config::load(&file) {
        Ok(config) => config,
        Err(error) => {
            if let (LoadError::Mistakes { mistakes, .. }, Format::Json) = (&error, output) {
                let mistakes = mistakes.iter().map(|mistake| Said::new(&file, mistake)).collect();
                output::print_json(&Checked { mistakes, ..Checked::default() })?;
            }
            return Err(error.into());
        }
    };
    let missing = config::missing(&config);
    if output == Format::Json {
        let of_missing = missing.iter().map(|message| Said { file: &file, line: None, column: None, message });
        return output::print_json(&Checked {
            mistakes: Vec::new(),
            warnings: config.warnings.iter().map(|warning| Said::new(&file, warning)).chain(of_missing).collect(),
            instances: config.instances.len(),
            rules: config.rules.len(),
            subscriptions: config.subscriptions.len(),
        });
    }
    for warning in &config.warnings {
        let config::Mistake { line, column, message } = warning;
        eprintln!("{}:{line}:{column}: warning: {message}", file.display());
    }
    for missing in missing {
        eprintln!("{}: warning: {missing}", file.display());
    }
    let (instances, rules) = (config.instances.len() as u64, config.rules.len() as u64);
    let (instances, rules) = (output::count(instances, "instance"), output::count(rules, "rule"));
    let subscriptions = match config.subscriptions.len() as u64 {
        0 => String::new(),
        some => format!(", {}", output::count(some, "subscription")),
    };
    output::print(&format!("{}: {instances}, {rules}{subscriptions}, no mistakes", file.display()))
}
