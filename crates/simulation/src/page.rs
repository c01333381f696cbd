//! The page: plots and table of a comparison in one file, which opens from disk and asks nobody for anything.

use super::comparison::Fleet;
use super::outcome::{Outcome, Point};
use super::plot::{Line, draw};
use super::prediction_interval::PredictionInterval;
use super::report::{COLUMNS, Report, ReportRow};
use cortex_core::time::Millis;
use plotters::prelude::RGBColor;
use std::fmt::{self, Write};
use thiserror::Error;

/// The colours of the fleets in their order: told apart by those who see fewer colours, too, and readable on white and on black.
const COLOURS: [RGBColor; 4] =
    [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115), RGBColor(150, 130, 150)];

/// The colours of demand and of the prediction_interval.
const DEMAND: RGBColor = RGBColor(204, 121, 167);
const WANTED: RGBColor = RGBColor(86, 180, 233);

/// How the page looks. Plots take the colours of texts and lines from it.
const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #ffffff; --rule: #d0d0d0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #161616; --rule: #444444; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0.3rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.key { display: inline-block; width: 1.1em; height: 0.7em; margin: 0 0.3em 0 1em; }
";

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the page cannot be drawn: {0}")]
pub struct PageError(String);

impl From<fmt::Error> for PageError {
    fn from(error: fmt::Error) -> Self {
        Self(error.to_string())
    }
}

/// The page of a comparison.
///
/// # Errors
/// A plot cannot be drawn.
pub fn page(
    report: &Report,
    outcomes: &[(Fleet, Outcome)],
    prediction_interval: &PredictionInterval,
) -> Result<String, PageError> {
    let mut page = String::new();
    let title = escaped(&report.summary());
    write!(page, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")?;
    writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(page, "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>")?;
    writeln!(page, "<h1>What would it have done?</h1>\n<p>{title}.</p>")?;
    table(&mut page, report)?;
    for remark in report.remarks() {
        writeln!(page, "<p>{}.</p>", escaped(&remark))?;
    }
    demand(&mut page, prediction_interval)?;
    let fleets = |value: fn(&Point) -> Option<f64>| -> Vec<Line> {
        let line = |((_, outcome), colour): (&(Fleet, Outcome), RGBColor)| {
            let series = &outcome.series;
            let points = series.points().iter().enumerate();
            let points = points.map(|(place, point)| (hours(place, series.width()), value(point))).collect();
            Line { colour, points, is_filled: false }
        };
        outcomes.iter().zip(COLOURS.into_iter().cycle()).map(line).collect()
    };
    let keys: Vec<(String, RGBColor)> =
        outcomes.iter().map(|(fleet, _)| fleet.name()).zip(COLOURS.into_iter().cycle()).collect();
    let mut plot =
        |name: &str, what: &str, unit: &str, lines: &[Line]| figure(&mut page, name, what, &keys, lines, unit);
    plot("Agents", "Agents that were there, in the mean.", "agents", &fleets(|point| Some(point.agents())))?;
    plot("Queue", "Tasks that waited, in the mean.", "tasks", &fleets(|point| Some(point.queue())))?;
    let what = "How long the tasks had waited that were done, in the mean.";
    plot("Wait", what, "seconds", &fleets(Point::wait_seconds))?;
    writeln!(page, "</body>\n</html>")?;
    Ok(page)
}

/// Demand and prediction_interval.
fn demand(page: &mut String, prediction_interval: &PredictionInterval) -> Result<(), PageError> {
    let (series, per_minute) = (prediction_interval.series(), 60_000.0 / prediction_interval.bin_width().0 as f64);
    let points = || series.points().iter().enumerate().map(|(place, point)| (hours(place, series.width()), point));
    let wanted = points().map(|(hours, point)| (hours, point.wanted().map(|wanted| wanted * per_minute))).collect();
    let demand = points().map(|(hours, point)| (hours, Some(point.demand() * per_minute))).collect();
    let lines = [
        Line { colour: WANTED, points: wanted, is_filled: true },
        Line { colour: DEMAND, points: demand, is_filled: false },
    ];
    let what = format!(
        "Tasks that came, and the 0.9 quantile of them that was to be expected one bin of {} s before.",
        prediction_interval.bin_width().as_seconds()
    );
    let keys = [("came".to_owned(), DEMAND), ("to be expected".to_owned(), WANTED)];
    figure(page, "Demand", &what, &keys, &lines, "tasks a minute")
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
    let svg = draw(lines, unit).map_err(PageError)?;
    writeln!(page, "</p>\n{svg}")?;
    Ok(())
}

fn table(page: &mut String, report: &Report) -> fmt::Result {
    writeln!(page, "<div class=\"wide\"><table>\n<tr>{}</tr>", cells("th", COLUMNS.map(str::to_owned)))?;
    for row in report.rows.iter().map(ReportRow::cells) {
        writeln!(page, "<tr>{}</tr>", cells("td", row))?;
    }
    writeln!(page, "</table></div>")
}

fn cells(tag: &str, texts: [String; COLUMNS.len()]) -> String {
    texts.map(|text| format!("<{tag}>{}</{tag}>", escaped(&text))).concat()
}

/// When a point begins, in hours.
fn hours(place: usize, width: Millis) -> f64 {
    place as f64 * width.0 as f64 / 3_600_000.0
}

/// A text that stands for itself within a page.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
