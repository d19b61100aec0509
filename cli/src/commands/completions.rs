//! `transship completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
#[command(after_help = "For bash:  transship completions bash > ~/.local/share/bash-completion/completions/transship\n\
                        For zsh:   transship completions zsh > DIRECTORY-IN-FPATH/_transship\n\
                        For fish:  transship completions fish > ~/.config/fish/completions/transship.fish")]
pub(crate) struct Arguments {
    /// The shell that they are for
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::Arguments::command(), "transship", &mut script);
    crate::output::print(String::from_utf8_lossy(&script).trim_end())
}
