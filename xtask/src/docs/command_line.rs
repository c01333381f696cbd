//! The command line, from the help pages of the program.

use crate::program::Program;
use std::fmt::Write;

pub(super) fn page(program: &Program) -> anyhow::Result<String> {
    let whole = program.help(None)?;
    let mut page = format!("# Command line\n\n```text\n{}\n```\n", whole.trim_end());
    for command in commands(&whole) {
        let help = program.help(Some(command))?;
        let _ = write!(page, "\n## `{command}`\n\n```text\n{}\n```\n", help.trim_end());
    }
    Ok(page)
}

/// Returns the commands that the help page of the program lists.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A command stands two blanks in, its description further.
    listed
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
}
