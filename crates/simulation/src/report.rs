//! The report of a comparison, as a table for people or as JSON for machines.

use super::comparison::Fleet;
use super::outcome::Outcome;
use serde::Serialize;
use std::fmt;

/// What was compared, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the arrivals came from.
    pub trace: String,
    /// How long a task took in the mean, in seconds.
    pub duration_mean_seconds: f64,
    /// How much time there was between two plans, in seconds.
    pub plan_seconds: f64,
    /// How many tokens the tasks might take together, if that was bounded.
    pub token_budget: Option<u64>,
    /// A row for each fleet.
    pub rows: Vec<ReportRow>,
}

/// One fleet.
#[derive(Clone, Debug, Serialize)]
pub struct ReportRow {
    /// Its name.
    pub fleet: String,
    /// How many tasks came.
    pub tasks: u64,
    /// How many of them were done.
    pub done: u64,
    /// How many of them were left in the end, since there were no tokens for them.
    pub left: u64,
    /// How many of them the full queue refused.
    pub refused: u64,
    /// How long a task waited that half of those that were done waited no longer than, in seconds.
    pub wait_p50_seconds: f64,
    /// The same of 95 %.
    pub wait_p95_seconds: f64,
    /// How many hours agents were there, all of them together.
    pub agent_hours: f64,
    /// How many agents there were, in the mean.
    pub agents_mean: f64,
    /// The most agents at once.
    pub agents_most: u64,
    /// How many times the number of agents that there should be was changed.
    pub scalings: u64,
    /// The most tasks that waited for tokens at once.
    pub deferred_most: u64,
    /// From the first arrival to the last report, in seconds.
    pub lasted_seconds: f64,
}

/// The columns of the table: what stands above each.
pub const COLUMNS: [&str; 12] = [
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
    /// The row of an outcome.
    #[must_use]
    pub fn of(fleet: Fleet, outcome: &Outcome) -> Self {
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

    /// Its cells, in the order of [`COLUMNS`].
    #[must_use]
    pub fn cells(&self) -> [String; COLUMNS.len()] {
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

impl Report {
    /// What was done, in a sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let tasks = self.rows.first().map_or(0, |row| row.tasks);
        let tokens = self.token_budget.map_or(String::new(), |tokens| format!(", {} tokens", grouped(tokens)));
        format!(
            "{}: {} tasks of {} s in the mean, a plan every {} s{tokens}",
            self.trace,
            grouped(tasks),
            self.duration_mean_seconds,
            self.plan_seconds
        )
    }

    /// What did not go on, a sentence each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for row in &self.rows {
            if row.left > 0 {
                let (left, fleet) = (grouped(row.left), &row.fleet);
                remarks.push(format!("{fleet}: the tokens ran out, and {left} tasks are left"));
            }
            if row.refused > 0 {
                let (refused, fleet) = (grouped(row.refused), &row.fleet);
                remarks.push(format!("{fleet}: the queue was full (max_tasks), and {refused} tasks were refused"));
            }
        }
        remarks
    }
}

impl fmt::Display for Report {
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
    for (place, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
        match place {
            0 => write!(f, "{cell:width$}")?,
            _ => write!(f, "  {cell:>width$}")?,
        }
    }
    writeln!(f)
}

/// A number with a comma behind every third digit.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
