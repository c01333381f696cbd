//! The report of a comparison, as a table or as JSON.

use super::comparison::Fleet;
use super::outcome::SimulationOutcome;
use serde::Serialize;
use std::fmt;

/// The parameters and results of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct ComparisonReport {
    /// The source of the arrivals.
    pub trace: String,
    /// The mean duration of a task, in seconds.
    pub duration_mean_seconds: f64,
    /// The interval between two plans, in seconds.
    pub plan_seconds: f64,
    /// The token budget of all tasks together, if there was one.
    pub token_budget: Option<u64>,
    /// One row per fleet.
    pub rows: Vec<ReportRow>,
}

/// The results of one fleet.
#[derive(Clone, Debug, Serialize)]
pub struct ReportRow {
    /// The name of the policy or of the fixed fleet.
    pub fleet: String,
    /// The number of tasks.
    pub tasks: u64,
    /// The number of completed tasks.
    pub done: u64,
    /// The number of tasks left at the end for lack of tokens.
    pub left: u64,
    /// The number of tasks refused by the full queue.
    pub refused: u64,
    /// The median wait time of completed tasks, in seconds.
    pub wait_p50_seconds: f64,
    /// The 95 % quantile of the wait times, in seconds.
    pub wait_p95_seconds: f64,
    /// The sum of the live times of all agents, in hours.
    pub agent_hours: f64,
    /// The mean number of agents.
    pub agents_mean: f64,
    /// The maximum number of concurrent agents.
    pub agents_most: u64,
    /// The number of changes of the target number of agents.
    pub scalings: u64,
    /// The maximum number of tasks that waited for tokens.
    pub deferred_most: u64,
    /// The time from the first arrival to the last report, in seconds.
    pub lasted_seconds: f64,
}

/// The column headers of the table.
pub(super) const COLUMNS: [&str; 12] = [
    "fleet",
    "tasks",
    "done",
    "left",
    "refused",
    "wait p50 s",
    "wait p95 s",
    "agent-hours",
    "agents mean",
    "most",
    "scalings",
    "deferred",
];

impl ReportRow {
    /// Creates the row of an outcome.
    #[must_use]
    pub fn of(fleet: Fleet, outcome: &SimulationOutcome) -> Self {
        Self {
            fleet: fleet.name(),
            tasks: outcome.tasks,
            done: outcome.done,
            left: outcome.left(),
            refused: outcome.refused,
            wait_p50_seconds: outcome.wait_seconds(0.5),
            wait_p95_seconds: outcome.wait_seconds(0.95),
            agent_hours: outcome.agent_hours(),
            agents_mean: outcome.agents_mean(),
            agents_most: outcome.agents_most,
            scalings: outcome.scalings,
            deferred_most: outcome.deferred_most,
            lasted_seconds: outcome.lasted.0 as f64 / 1_000.0,
        }
    }

    /// Returns the cells in the order of [`COLUMNS`].
    #[must_use]
    pub(super) fn cells(&self) -> [String; COLUMNS.len()] {
        [
            self.fleet.clone(),
            grouped(self.tasks),
            grouped(self.done),
            grouped(self.left),
            grouped(self.refused),
            format!("{:.1}", self.wait_p50_seconds),
            format!("{:.1}", self.wait_p95_seconds),
            format!("{:.1}", self.agent_hours),
            format!("{:.1}", self.agents_mean),
            grouped(self.agents_most),
            grouped(self.scalings),
            grouped(self.deferred_most),
        ]
    }
}

impl ComparisonReport {
    /// Returns the parameters of the comparison in one line.
    #[must_use]
    pub(super) fn summary(&self) -> String {
        let tasks = self.rows.first().map_or(0, |row| row.tasks);
        let tokens = self.token_budget.map_or(String::new(), |tokens| format!(", {} tokens", grouped(tokens)));
        format!(
            "{}: {} tasks of {} s on average, a plan every {} s{tokens}",
            self.trace,
            grouped(tasks),
            self.duration_mean_seconds,
            self.plan_seconds
        )
    }

    /// Returns remarks on tasks that were left or refused.
    #[must_use]
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for row in &self.rows {
            if row.left > 0 {
                let (left, fleet) = (grouped(row.left), &row.fleet);
                remarks.push(format!("{fleet}: the token budget is exhausted, and {left} tasks are left"));
            }
            if row.refused > 0 {
                let (refused, fleet) = (grouped(row.refused), &row.fleet);
                remarks.push(format!("{fleet}: the queue was full (max_tasks), and {refused} tasks were refused"));
            }
        }
        remarks
    }
}

impl fmt::Display for ComparisonReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.summary())?;
        let cells: Vec<[String; COLUMNS.len()]> = self.rows.iter().map(ReportRow::cells).collect();
        let width = |column: usize| {
            let in_rows = cells.iter().map(|row| row[column].chars().count());
            in_rows.max().unwrap_or(0).max(COLUMNS[column].len())
        };
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        line(f, &widths, COLUMNS)?;
        for row in &cells {
            line(f, &widths, row.each_ref().map(String::as_str))?;
        }
        for remark in self.remarks() {
            writeln!(f, "\n{remark}")?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, widths: &[usize], cells: [&str; COLUMNS.len()]) -> fmt::Result {
    for (index, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
        match index {
            0 => write!(f, "{cell:width$}")?,
            _ => write!(f, "  {cell:>width$}")?,
        }
    }
    writeln!(f)
}

/// Formats a number with thousands separators.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
