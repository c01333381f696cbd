//! The report of an evaluation, as a table or as JSON.

use super::evaluation::{Contender, Evaluation, HorizonScores, Sums};
use anyhow::ensure;
use serde::Serialize;
use std::fmt;

/// The report of an evaluation.
#[derive(Serialize)]
pub(crate) struct Report {
    bin_seconds: u32,
    bins: u64,
    warm_up_bins: u32,
    quantile: f64,
    season_bins: Option<usize>,
    horizons: Vec<HorizonReport>,
    /// The loss of our forecast relative to "last plus margin", in percent, averaged over the horizons; negative is
    /// better.
    over_last_plus_margin_percent: Option<f64>,
}

#[derive(Serialize)]
struct HorizonReport {
    horizon_bins: u16,
    rows: Vec<ReportRow>,
}

#[derive(Serialize)]
struct ReportRow {
    forecaster: String,
    /// The number of bins with a forecast.
    bins: u64,
    pinball_loss: Option<f64>,
    /// The loss relative to the bare rule over the same bins, in percent.
    over_bare_rule_percent: Option<f64>,
    over_last_plus_margin_percent: Option<f64>,
    coverage: Option<f64>,
    provisioned_over_mean: Option<f64>,
}

impl Report {
    pub(crate) fn of(evaluation: &Evaluation, bin_seconds: u32, warm_up_bins: u32) -> anyhow::Result<Self> {
        let bins = evaluation.bins();
        ensure!(
            bins > u64::from(warm_up_bins),
            "the trace has {bins} bins of {bin_seconds} s, and --warm-up-bins is {warm_up_bins}: give a longer trace, \
             a smaller --bin-seconds or fewer --warm-up-bins"
        );
        let horizons: Vec<HorizonReport> = evaluation.horizons.iter().map(HorizonReport::of).collect();
        let ours = horizons.iter().filter_map(|at| at.rows.last()?.over_last_plus_margin_percent);
        let ours: Vec<f64> = ours.collect();
        let mean = (!ours.is_empty()).then(|| ours.iter().sum::<f64>() / ours.len() as f64);
        Ok(Self {
            bin_seconds,
            bins,
            warm_up_bins,
            quantile: 0.9,
            season_bins: evaluation.season(),
            horizons,
            over_last_plus_margin_percent: mean,
        })
    }
}

impl HorizonReport {
    fn of(at: &HorizonScores) -> Self {
        let over = |loss, other| ratio(loss, other).map(|ratio| (ratio - 1.0) * 100.0);
        let row = |(contender, sums): (Contender, &Sums)| ReportRow {
            forecaster: contender.name(),
            bins: sums.bins,
            pinball_loss: ratio(sums.loss, sums.bins as f64),
            over_bare_rule_percent: over(sums.loss, sums.rule_loss),
            over_last_plus_margin_percent: over(sums.loss, sums.last_loss),
            coverage: ratio(sums.covered as f64, sums.bins as f64),
            provisioned_over_mean: ratio(sums.provisioned, sums.demand),
        };
        Self { horizon_bins: at.horizon.as_bins(), rows: Contender::all().zip(&at.sums).map(row).collect() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let season = self.season_bins.map_or("no season".to_owned(), |bins| format!("a season of {bins} bins"));
        writeln!(
            f,
            "{} bins of {} s, the first {} of which are warm-up and not scored; {season} at the end.",
            self.bins, self.bin_seconds, self.warm_up_bins
        )?;
        for at in &self.horizons {
            writeln!(f, "\nHorizon {} (pinball loss at {}):\n", at.horizon_bins, self.quantile)?;
            writeln!(
                f,
                "| forecaster | pinball loss | vs. bare rule | vs. last plus margin | coverage | provisioned / mean \
                 | bins |"
            )?;
            writeln!(f, "|---|--:|--:|--:|--:|--:|--:|")?;
            for row in &at.rows {
                writeln!(f, "{row}")?;
            }
        }
        let mean = self.over_last_plus_margin_percent.map_or("no value".to_owned(), percent);
        write!(
            f,
            "\nOurs vs. last plus margin, averaged over the horizons: {mean}. Each row is compared over the bins it \
             has."
        )
    }
}

impl fmt::Display for ReportRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number =
            |number: Option<f64>, digits: usize| number.map_or("–".to_owned(), |it| format!("{it:.digits$}"));
        let change = |change: Option<f64>| change.map_or("–".to_owned(), percent);
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} |",
            self.forecaster,
            number(self.pinball_loss, 2),
            change(self.over_bare_rule_percent),
            change(self.over_last_plus_margin_percent),
            number(self.coverage, 3),
            number(self.provisioned_over_mean, 2),
            self.bins,
        )
    }
}

fn percent(change: f64) -> String {
    format!("{change:+.1} %")
}

/// Returns the quotient; `None` if the whole is 0.
fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}
