//! A plot of the end of a trace: demand, and the forecast made for it one bin before.

use super::evaluation::PlottedBin;
use plotters::prelude::{
    AreaSeries, BLUE, ChartBuilder, Color, IntoDrawingArea, LineSeries, RGBColor, SVGBackend, WHITE,
};
use std::collections::VecDeque;
use std::path::Path;

/// The size of the plot, in pixels.
const SIZE: (u32, u32) = (1_200, 500);

/// The color of the demand line.
const DARK: RGBColor = RGBColor(40, 40, 40);

pub(crate) fn draw(file: &Path, bins: &VecDeque<PlottedBin>, bin_seconds: u32) -> anyhow::Result<()> {
    let hours = |bin: u64| bin as f64 * f64::from(bin_seconds) / 3_600.0;
    let highest = bins.iter().flat_map(|bin| [Some(bin.demand), bin.wanted]).flatten().fold(1.0, f64::max);
    let (first, last) = (bins.front().map_or(0, |bin| bin.bin), bins.back().map_or(0, |bin| bin.bin));

    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Demand (line), and the 0.9 quantile forecast one bin before (area)", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(hours(first)..hours(last + 1), 0.0..highest * 1.05)?;
    let per_bin = format!("requests in {bin_seconds} s");
    chart.configure_mesh().x_desc("hours since the start").y_desc(per_bin).light_line_style(WHITE).draw()?;
    let wanted = bins.iter().filter_map(|bin| Some((hours(bin.bin), bin.wanted?)));
    chart.draw_series(AreaSeries::new(wanted, 0.0, BLUE.mix(0.2)).border_style(BLUE.mix(0.6)))?;
    chart.draw_series(LineSeries::new(bins.iter().map(|bin| (hours(bin.bin), bin.demand)), DARK))?;
    area.present()?;
    Ok(())
}
