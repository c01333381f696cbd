//! The HTML page of a comparison: table and plots in one self-contained file.

use super::comparison::Fleet;
use super::outcome::{OutcomePoint, SimulationOutcome};
use super::plot::{Line, draw};
use super::prediction_interval::PredictionInterval;
use super::report::{COLUMNS, ComparisonReport, ReportRow};
use cortex_core::time::Millis;
use plotters::prelude::{DrawingAreaErrorKind, RGBColor};
use std::fmt::{self, Write};
use std::io;
use thiserror::Error;

/// The colors of the fleets in their order: distinguishable with color vision deficiencies, and readable on white and
/// on black.
const COLORS: [RGBColor; 4] =
    [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115), RGBColor(150, 130, 150)];

/// The colors of demand and of its forecast.
const DEMAND: RGBColor = RGBColor(204, 121, 167);
const FORECAST: RGBColor = RGBColor(86, 180, 233);

/// The style sheet of the page, which also sets the colors of texts and lines in the plots.
const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #ffffff; --rule: #d0d0d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #161616; --rule: #444444; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0.3rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.key { display: inline-block; width: 1.1em; height: 0.7em; margin: 0 0.3em 0 1em; }
";

/// Why a page cannot be rendered.
#[derive(Debug, Error)]
pub enum PageError {
    #[error("a plot of the page cannot be drawn")]
    Plot(#[from] DrawingAreaErrorKind<io::Error>),
    #[error("the page cannot be written")]
    Write(#[from] fmt::Error),
}

/// Renders the page of a comparison.
///
/// # Errors
/// [`PageError`] if a plot cannot be drawn.
pub fn render_page(
    report: &ComparisonReport,
    outcomes: &[(Fleet, SimulationOutcome)],
    prediction_interval: &PredictionInterval,
) -> Result<String, PageError> {
    let mut page = String::new();
    let title = escaped(&report.summary());
    write!(page, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(page, "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>")?;
    writeln!(page, "<h1>Scaling simulation</h1>\n<p>{title}.</p>")?;
    table(&mut page, report)?;
    for remark in report.remarks() {
        writeln!(page, "<p>{}.</p>", escaped(&remark))?;
    }
    demand(&mut page, prediction_interval)?;
    let fleets = |value: fn(&OutcomePoint) -> Option<f64>| -> Vec<Line> {
        let line = |((_, outcome), color): (&(Fleet, SimulationOutcome), RGBColor)| {
            let series = &outcome.series;
            let points = series.points().iter().enumerate();
            let points = points.map(|(index, point)| (hours(index, series.width()), value(point))).collect();
            Line { color, points, is_filled: false }
        };
        outcomes.iter().zip(COLORS.into_iter().cycle()).map(line).collect()
    };
    let keys: Vec<(String, RGBColor)> =
        outcomes.iter().map(|(fleet, _)| fleet.name()).zip(COLORS.into_iter().cycle()).collect();
    let mut plot =
        |name: &str, what: &str, unit: &str, lines: &[Line]| figure(&mut page, name, what, &keys, lines, unit);
    plot("Agents", "Mean number of agents.", "agents", &fleets(|point| Some(point.agents())))?;
    plot("Queue", "Mean number of waiting tasks.", "tasks", &fleets(|point| Some(point.queue())))?;
    let what = "Mean wait time of the completed tasks.";
    plot("Wait", what, "seconds", &fleets(OutcomePoint::wait_seconds))?;
    writeln!(page, "</body>\n</html>")?;
    Ok(page)
}

/// Writes the plot of demand and its forecast.
fn demand(page: &mut String, prediction_interval: &PredictionInterval) -> Result<(), PageError> {
    let (series, per_minute) = (prediction_interval.series(), 60_000.0 / prediction_interval.bin_width().0 as f64);
    let points = || series.points().iter().enumerate().map(|(index, point)| (hours(index, series.width()), point));
    let wanted = points().map(|(hours, point)| (hours, point.wanted().map(|wanted| wanted * per_minute))).collect();
    let demand = points().map(|(hours, point)| (hours, Some(point.demand() * per_minute))).collect();
    let lines = [
        Line { color: FORECAST, points: wanted, is_filled: true },
        Line { color: DEMAND, points: demand, is_filled: false },
    ];
    let what = format!(
        "Tasks that arrived, and the 0.9 quantile forecast one bin of {} s before.",
        prediction_interval.bin_width().as_seconds()
    );
    let keys = [("arrived".to_owned(), DEMAND), ("forecast".to_owned(), FORECAST)];
    figure(page, "Demand", &what, &keys, &lines, "tasks per minute")
}

fn figure(
    page: &mut String,
    name: &str,
    what: &str,
    keys: &[(String, RGBColor)],
    lines: &[Line],
    unit: &str,
) -> Result<(), PageError> {
    write!(page, "<h2>{name}</h2>\n<p>{what}")?;
    for (key, RGBColor(red, green, blue)) in keys {
        let key = escaped(key);
        write!(page, " <span class=\"key\" style=\"background: rgb({red}, {green}, {blue})\"></span>{key}")?;
    }
    let svg = draw(lines, unit)?;
    writeln!(page, "</p>\n{svg}")?;
    Ok(())
}

fn table(page: &mut String, report: &ComparisonReport) -> fmt::Result {
    writeln!(page, "<div class=\"wide\"><table>\n<tr>{}</tr>", cells("th", COLUMNS.map(str::to_owned)))?;
    for row in report.rows.iter().map(ReportRow::cells) {
        writeln!(page, "<tr>{}</tr>", cells("td", row))?;
    }
    writeln!(page, "</table></div>")
}

fn cells(tag: &str, texts: [String; COLUMNS.len()]) -> String {
    texts.map(|text| format!("<{tag}>{}</{tag}>", escaped(&text))).concat()
}

/// Returns the start of a point, in hours.
fn hours(index: usize, width: Millis) -> f64 {
    index as f64 * width.0 as f64 / 3_600_000.0
}

/// Escapes a text for HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
