//! `ta3lem completions`: scripts for shells.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::{cli::Cli, failure::Failure, output::Output};

/// For which shell.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ta3lem completions bash > ~/.local/share/bash-completion/completions/ta3lem
  ta3lem completions zsh > \"${fpath[1]}/_ta3lem\"
  ta3lem completions fish > ~/.config/fish/completions/ta3lem.fish
")]
pub struct CompletionsArgs {
    /// The shell
    shell: Supported,
}

/// The shells that the scripts are tried with.
#[derive(Clone, Copy, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, output: &Output) -> Result<(), Failure> {
    let shell = match args.shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ta3lem", &mut script);
    output.print(String::from_utf8_lossy(&script).trim_end())
}
