//! Plots as SVG for a page. Texts and grid lines take their colors from the page.

use plotters::coord::Shift;
use plotters::prelude::{
    AreaSeries, ChartBuilder, Color, DrawingArea, DrawingAreaErrorKind, DrawingBackend, IntoDrawingArea, LineSeries,
    RGBColor, SVGBackend,
};

use std::io;

/// The size of a plot, in pixels.
const SIZE: (u32, u32) = (960, 260);

/// The fallback color of grid and texts, readable on white and on black.
const GREY: RGBColor = RGBColor(128, 128, 128);

/// The namespace attribute, which inline SVG does not need: the page contains no URL.
const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";

/// A line of a plot.
pub(super) struct Line {
    pub(super) color: RGBColor,
    /// The values by hours since the start. The line is interrupted where there is no value.
    pub(super) points: Vec<(f64, Option<f64>)>,
    /// Whether the area below is filled.
    pub(super) is_filled: bool,
}

/// The unit of the time axis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct TimeUnit {
    name: &'static str,
    hours: f64,
}

impl TimeUnit {
    fn of(hours: f64) -> Self {
        match hours {
            _ if hours > 72.0 => Self { name: "days", hours: 24.0 },
            _ if hours > 2.0 => Self { name: "hours", hours: 1.0 },
            _ => Self { name: "minutes", hours: 1.0 / 60.0 },
        }
    }
}

/// Draws the lines over time as SVG.
///
/// # Errors
/// The error of the plotting library.
pub(super) fn draw(lines: &[Line], y_name: &str) -> Result<String, DrawingAreaErrorKind<io::Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw_on(&area, lines, y_name)?;
    area.present()?;
    drop(area);
    Ok(svg.replacen(NAMESPACE, "", 1))
}

fn draw_on<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    lines: &[Line],
    y_name: &str,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = points().map(|(hours, _)| *hours).fold(0.0, f64::max);
    let unit = TimeUnit::of(last);
    let end = if last > 0.0 { last / unit.hours } else { 1.0 };
    let highest = points().filter_map(|(_, value)| *value).fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.05 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    let x_name = format!("{} since the start", unit.name);
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .y_labels(6)
        .label_style(("sans-serif", 12, &GREY))
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.25))
        .light_line_style(GREY.mix(0.0))
        .y_label_formatter(&|value| label(*value, top))
        .x_label_formatter(&|value| label(*value, end))
        .draw()?;
    for line in lines {
        for piece in line.points.split(|(_, value)| value.is_none()) {
            let points = piece.iter().filter_map(|(hours, value)| Some((hours / unit.hours, (*value)?)));
            if line.is_filled {
                let fill = AreaSeries::new(points, 0.0, line.color.mix(0.2)).border_style(line.color.mix(0.6));
                chart.draw_series(fill)?;
            } else {
                chart.draw_series(LineSeries::new(points, line.color))?;
            }
        }
    }
    Ok(())
}

/// Formats a number for an axis that ends at `axis_max`.
fn label(number: f64, axis_max: f64) -> String {
    match axis_max {
        _ if axis_max >= 10_000.0 => format!("{:.0}k", number / 1_000.0),
        _ if axis_max >= 10.0 => format!("{number:.0}"),
        _ => format!("{number:.1}"),
    }
}
