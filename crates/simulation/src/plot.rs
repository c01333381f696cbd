//! Plots, as SVG that stands within a page. What is a text or a line of the grid has no colour of its own, but that of the page.

use plotters::coord::Shift;
use plotters::prelude::{
    AreaSeries, ChartBuilder, Color, DrawingArea, DrawingAreaErrorKind, DrawingBackend, IntoDrawingArea, LineSeries,
    RGBColor, SVGBackend,
};

/// The size of a plot, in pixels.
const SIZE: (u32, u32) = (960, 260);

/// Grid and texts, as far as the page does not say otherwise: readable on white and on black.
const GREY: RGBColor = RGBColor(128, 128, 128);

/// The name of the namespace, which a plot within a page does not need: nothing in the page looks like an address.
const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";

/// A line of a plot.
pub(super) struct Line {
    pub(super) colour: RGBColor,
    /// Where it goes, by hours since the start. It is cut into pieces where there is nothing.
    pub(super) points: Vec<(f64, Option<f64>)>,
    /// Whether what is below it is filled.
    pub(super) is_filled: bool,
}

/// How the time since the start is told.
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

/// The lines over time, as SVG.
///
/// # Errors
/// What the package says, in a line.
pub(super) fn draw(lines: &[Line], y_name: &str) -> Result<String, String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw_on(&area, lines, y_name).map_err(|error| error.to_string())?;
    area.present().map_err(|error| error.to_string())?;
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
        .y_label_formatter(&|value| short(*value, top))
        .x_label_formatter(&|value| short(*value, end))
        .draw()?;
    for line in lines {
        for piece in line.points.split(|(_, value)| value.is_none()) {
            let points = piece.iter().filter_map(|(hours, value)| Some((hours / unit.hours, (*value)?)));
            if line.is_filled {
                let fill = AreaSeries::new(points, 0.0, line.colour.mix(0.2)).border_style(line.colour.mix(0.6));
                chart.draw_series(fill)?;
            } else {
                chart.draw_series(LineSeries::new(points, line.colour))?;
            }
        }
    }
    Ok(())
}

/// A number on an axis that goes up to `most`.
fn short(number: f64, most: f64) -> String {
    match most {
        _ if most >= 10_000.0 => format!("{:.0}k", number / 1_000.0),
        _ if most >= 10.0 => format!("{number:.0}"),
        _ => format!("{number:.1}"),
    }
}
