//! The subcommand `simulate`: runs the simulation and writes the report.

use crate::cli::SimulateOptions;
use cortex_config::{Configuration, Source as SettingSource};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::time::Millis;
use cortex_serving::StartupError;
use cortex_simulation::{
    self, ArrivalSource, Comparison, ComparisonReport, Fleet, Options, PredictionInterval, ReadProgress, ReportRow,
    TokenBudget, TraceError, TraceFile, compare,
};
use cortex_util::error::with_sources;
use cortex_util::file_id::FileId;
use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The seed of generated arrivals and durations. It is fixed, so that results can be reproduced.
const SEED: u64 = 20_261_126;

/// Simulates a trace and prints the report.
///
/// # Errors
/// [`StartupError`] if the trace cannot be read, or the page cannot be written.
pub(crate) fn simulate(configuration: &Configuration, options: &SimulateOptions) -> anyhow::Result<ExitCode> {
    let bad_trace = |error: TraceError| StartupError::new(format!("the trace {}: {error}", options.trace.display()));
    let trace = TraceFile::open(&options.trace, SEED).map_err(bad_trace)?;
    if let Some(page) = &options.html {
        check_page(page, &options.trace)?;
    }
    let comparison = Comparison {
        options: simulation_options(configuration, options),
        policy: options.policy,
        agents: options.agents,
    };
    let outcomes = compare(&comparison, &trace, &mut show_progress).map_err(bad_trace)?;
    let rows = outcomes.iter().map(|(fleet, outcome)| ReportRow::of(*fleet, outcome)).collect();
    let report = ComparisonReport {
        trace: options.trace.display().to_string(),
        duration_mean_seconds: seconds(comparison.options.duration_mean),
        plan_seconds: seconds(comparison.options.plan_every),
        token_budget: comparison.options.tokens.map(|budget| budget.tokens),
        rows,
    };
    if let Some(file) = &options.html {
        let not_written = |error: &dyn Error| {
            StartupError::new(format!("failed to write the page {}: {}", file.display(), with_sources(error)))
        };
        let progress = Arc::default();
        let prediction_interval = trace.arrivals(&progress).and_then(PredictionInterval::of).map_err(bad_trace)?;
        let page = cortex_simulation::render_page(&report, &outcomes, &prediction_interval)
            .map_err(|error| not_written(&error))?;
        fs::write(file, page).map_err(|error| not_written(&error))?;
    }
    clear_progress();
    let text = if options.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Returns the options of the simulation. The token budget applies only if it was given.
fn simulation_options(configuration: &Configuration, options: &SimulateOptions) -> Options {
    let settings = &configuration.settings;
    let is_given = |key: &str| *configuration.source(key) != SettingSource::Default;
    let budget =
        TokenBudget { tokens: settings.token_budget, window: Millis::from_seconds(settings.token_window_seconds) };
    Options {
        seed: SEED,
        duration_mean: options.duration_mean,
        plan_every: Millis::from_seconds(settings.plan_seconds),
        agents_at_start: options.agents.unwrap_or(1),
        fleet: FleetSettings {
            tasks_max: settings.max_tasks,
            task_bytes_max: settings.max_task_bytes,
            heartbeat_ms: Millis::from_seconds(settings.heartbeat_seconds),
            priority_aging_ms: Millis::from_seconds(settings.priority_aging_seconds),
            ..FleetSettings::default()
        },
        tokens: is_given("token_budget").then_some(budget),
        ..Options::default()
    }
}

/// Checks whether the page can be written, before the simulation takes its time.
fn check_page(page: &Path, trace: &Path) -> Result<(), StartupError> {
    let refused = |why: &str| StartupError::new(format!("the page {} {why}", page.display()));
    let folder = page.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if page.is_dir() || page.file_name().is_none() {
        return Err(refused("is not a file: give the path of a file"));
    }
    if !folder.is_dir() {
        return Err(refused("is in a folder that does not exist: create it first"));
    }
    let file_of = |path: &Path| path.metadata().ok().map(|metadata| FileId::of(&metadata));
    // The ids find the same file under another name. On systems without file ids, only paths are compared.
    let is_same_file = file_of(page).is_some_and(|page| Some(page) == file_of(trace)) && cfg!(unix);
    let is_same_path = page.canonicalize().is_ok_and(|page| trace.canonicalize().is_ok_and(|trace| page == trace));
    if is_same_file || is_same_path {
        return Err(refused("is the trace: give another path"));
    }
    Ok(())
}

/// Shows a line of progress on a terminal. Write errors are ignored.
fn show_progress(progress: &[(Fleet, Arc<ReadProgress>)]) {
    let mut terminal = io::stderr();
    if !terminal.is_terminal() {
        return;
    }
    let of = |(fleet, read): &(Fleet, Arc<ReadProgress>)| {
        format!("{} {} %", fleet.name(), read.thousandths.load(Ordering::Relaxed) / 10)
    };
    let fleets: Vec<String> = progress.iter().map(of).collect();
    let rows = progress.iter().map(|(_, read)| read.rows.load(Ordering::Relaxed)).max().unwrap_or(0);
    let _ = write!(terminal, "\rsimulated {}; {rows} rows read\x1b[K", fleets.join(", "));
}

fn clear_progress() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

fn seconds(span: Millis) -> f64 {
    span.0 as f64 / 1_000.0
}
