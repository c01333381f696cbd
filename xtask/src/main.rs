//! Daily commands of the workspace: `cargo xtask docs`.
#![expect(clippy::print_stdout, reason = "a command reports what it did")]

mod docs;
mod program;
mod source;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Daily commands of the workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write the reference pages of the book from the code
    Docs {
        /// Fail if a page differs from the code, and write nothing
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Docs { check } => docs::run(check),
    }
}
