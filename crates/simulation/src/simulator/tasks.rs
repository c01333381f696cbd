//! Tasks: submission, claim and report.

use super::super::agents::{AgentSlot, HeldTask};
use super::super::arrivals::Arrival;
use super::Simulator;
use cortex_core::command::{Command, Denied};
use cortex_core::event::Event;
use cortex_core::fleet::command::{EndedAttempt, FleetCommand, FleetDenied, FleetOutcome, ReportedResult, TaskReport};
use cortex_core::fleet::task::TaskState;
use cortex_core::time::Millis;
use std::cmp::Reverse;

impl Simulator {
    pub(super) fn submit(&mut self, arrival: Arrival) {
        let number = self.outcome.tasks;
        self.outcome.record_arrival(arrival.at);
        let mut request = self.template.clone();
        // Without a budget the tokens of a task are irrelevant, however many.
        request.tokens.given = arrival.tokens.filter(|_| self.has_budget);
        let command = FleetCommand::Submit { request, random: number };
        match self.decide(&Command::Fleet(command)) {
            Ok(decision) => self.apply(decision),
            Err(Denied::Fleet(FleetDenied::TooManyTasks { .. } | FleetDenied::TooManyTaskBytes { .. })) => {
                self.outcome.refused += 1;
                return;
            }
            Err(denied) => panic!("a task cannot be submitted: {denied}"),
        };
        self.waiting += 1;
        if self.planner.is_some() {
            self.demand.note_submission(self.timestamp());
        }
        self.hand_out_one();
    }

    /// Lets the longest idle agent claim a task; returns whether it received one.
    fn hand_out_one(&mut self) -> bool {
        if self.waiting == 0 {
            return false;
        }
        let Some((slot, id)) = self.agents.first_idle() else { return false };
        let command = FleetCommand::Claim { agent: id.clone() };
        let Some(held) = self.claim(slot, command) else { return false };
        self.agents.assign_first_idle(held);
        true
    }

    /// Lets idle agents claim tasks as long as there are both.
    pub(super) fn hand_out(&mut self) {
        while self.hand_out_one() {}
    }

    /// Executes a claim, and schedules the report of the claimed task.
    fn claim(&mut self, slot: AgentSlot, command: FleetCommand) -> Option<HeldTask> {
        let decision =
            self.decide(&Command::Fleet(command)).unwrap_or_else(|denied| panic!("a claim is denied: {denied}"));
        let leased = decision.events.first().and_then(|event| match event {
            Event::TaskLeased { task, fencing_token, .. } => Some((task.clone(), *fencing_token)),
            _ => None,
        });
        self.apply(decision);
        let (task, fencing_token) = leased?;
        let view = self.cluster.task(self.timestamp(), &task).unwrap_or_else(|| panic!("task {task} does not exist"));
        let duration = self.durations.of(&task);
        self.reports.push(Reverse((Millis(self.now.0.saturating_add(duration.0)), fencing_token, slot)));
        self.waiting -= 1;
        Some(HeldTask { task, fencing_token, waited: self.timestamp().since(view.task.submitted_at) })
    }

    /// Reports the next finished task, and lets its agent go on.
    pub(super) fn report_next(&mut self) {
        let Some(Reverse((_, fencing_token, slot))) = self.reports.pop() else { return };
        let Some((held, agent, is_draining)) = self.agents.finish(slot, fencing_token) else { return };
        let report = TaskReport {
            result: ReportedResult::Success,
            // The estimate is settled, which is the figure of the trace if it has one.
            tokens_used: None,
            duration: None,
            output: None,
            error: None,
        };
        let complete =
            FleetCommand::Complete { task: held.task, agent: agent.clone(), fencing_token, report: Box::new(report) };
        match self.fleet(complete) {
            FleetOutcome::Reported(EndedAttempt { state: TaskState::Completed, .. }) => {
                self.outcome.record_completion(self.now, held.waited);
            }
            other => panic!("a report returned {other:?}"),
        }
        if is_draining {
            self.unregister(agent);
            self.agents.remove(slot);
        } else if self.waiting > 0
            && let Some(next) = self.claim(slot, FleetCommand::Claim { agent })
        {
            self.agents.assign(slot, next);
        } else {
            self.agents.mark_idle(slot);
        }
    }
}
