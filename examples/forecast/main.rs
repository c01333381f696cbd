//! Evaluates demand forecasts: replays a trace of arrivals, and compares the forecasts of each method with the
//! demand.
//!
//! Run it with `cargo run --release --example forecast -- PATH.csv`. The first column of the file is `seconds`. With
//! a column `requests` each row is that many requests at that second; without it each row is one arrival. Arrivals
//! are counted in bins of `--bin-seconds`, and bins without arrivals are 0.
//!
//! This is a rolling origin evaluation: at each bin, the forecasts made for it one horizon ago are scored, and only
//! then do the methods observe the bin. `--svg FILE` draws the end of the trace, and `--json` prints the table as
//! JSON.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

mod evaluation;
mod plot;
mod report;
mod trace;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use evaluation::Evaluation;
use report::Report;
use std::path::PathBuf;
use trace::Bins;

/// The evaluated horizons, in bins.
const HORIZONS: [u16; 3] = [1, 3, 6];

fn main() -> anyhow::Result<()> {
    let arguments = command().get_matches();
    let path: &PathBuf = arguments.get_one("path").context("a path is required")?;
    let bin_seconds = number(&arguments, "bin-seconds")?;
    let warm_up_bins = number(&arguments, "warm-up-bins")?;

    let mut evaluation = Evaluation::new(HORIZONS, warm_up_bins);
    let bins = Bins::open(path, bin_seconds).with_context(|| format!("cannot open {}", path.display()))?;
    for demand in bins {
        evaluation.observe(demand.with_context(|| format!("cannot read {}", path.display()))?);
    }
    let report = Report::of(&evaluation, bin_seconds, warm_up_bins)?;
    if arguments.get_flag("json") {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(file) = arguments.get_one::<PathBuf>("svg") {
        plot::draw(file, evaluation.recent(), bin_seconds)
            .with_context(|| format!("cannot draw {}", file.display()))?;
    }
    Ok(())
}

fn command() -> Command {
    let path = Arg::new("path").required(true).value_name("PATH.csv").value_parser(value_parser!(PathBuf));
    let bin_seconds = Arg::new("bin-seconds")
        .long("bin-seconds")
        .value_name("N")
        .default_value("300")
        .value_parser(value_parser!(u32).range(1..=86_400))
        .help("The width of a bin, in seconds");
    let warm_up_bins = Arg::new("warm-up-bins")
        .long("warm-up-bins")
        .value_name("N")
        .default_value("48")
        .value_parser(value_parser!(u32))
        .help("The number of bins at the start that are not scored");
    let svg = Arg::new("svg")
        .long("svg")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Draw demand and its forecast");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table");
    Command::new("forecast").about("Evaluates demand forecasts on a trace of arrivals").args([
        path,
        bin_seconds,
        warm_up_bins,
        svg,
        json,
    ])
}

fn number(arguments: &ArgMatches, name: &str) -> anyhow::Result<u32> {
    arguments.get_one(name).copied().with_context(|| format!("--{name} has a default"))
}
