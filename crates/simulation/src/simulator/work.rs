//! Work: tasks that come, are claimed and are done.

use super::super::arrivals::Arrival;
use super::super::crew::{Held, Place};
use super::Simulator;
use cortex_core::command::{Command, Denied};
use cortex_core::event::Event;
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome, Report, ReportedResult, TaskLeft};
use cortex_core::fleet::task::TaskState;
use cortex_core::time::Millis;
use std::cmp::Reverse;

impl Simulator {
    pub(super) fn submit(&mut self, arrival: Arrival) {
        let number = self.outcome.tasks;
        self.outcome.note_arrival(arrival.at);
        let mut request = self.template.clone();
        // Without a budget tokens matter to nobody, however many they are.
        request.tokens.given = arrival.tokens.filter(|_| self.has_budget);
        let command = FleetCommand::Submit { request, draw: number };
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
            self.demand.note_submission(self.moment());
        }
        self.hand_out_one();
    }

    /// Lets the longest idle agent claim a task; whether it was given one.
    fn hand_out_one(&mut self) -> bool {
        if self.waiting == 0 {
            return false;
        }
        let Some((place, id)) = self.crew.first_idle() else { return false };
        let command = FleetCommand::Claim { agent: id.clone() };
        let Some(held) = self.claim(place, command) else { return false };
        self.crew.set_to_work(held);
        true
    }

    /// Lets idle agents claim tasks as long as there are both.
    pub(super) fn hand_out(&mut self) {
        while self.hand_out_one() {}
    }

    /// What a claim comes to.
    fn claim(&mut self, place: Place, command: FleetCommand) -> Option<Held> {
        let decision = self.decide(&Command::Fleet(command)).unwrap_or_else(|denied| panic!("no claim: {denied}"));
        let leased = decision.events.first().and_then(|event| match event {
            Event::TaskLeased { task, fencing_token, .. } => Some((task.clone(), *fencing_token)),
            _ => None,
        });
        self.apply(decision);
        let (task, fencing_token) = leased?;
        let view = self.cluster.task(self.moment(), &task).unwrap_or_else(|| panic!("task {task} is not there"));
        let duration = self.durations.of(&task);
        self.reports.push(Reverse((Millis(self.now.0.saturating_add(duration.0)), fencing_token, place)));
        self.waiting -= 1;
        Some(Held { task, fencing_token, waited: self.moment().since(view.task.submitted_at) })
    }

    /// A task is done.
    pub(super) fn report(&mut self) {
        let Some(Reverse((_, fencing_token, place))) = self.reports.pop() else { return };
        let Some((held, agent, leaves)) = self.crew.finish(place, fencing_token) else { return };
        let report = Report {
            result: ReportedResult::Success,
            // The estimate is booked, which is what the trace says if it says anything.
            tokens_used: None,
            duration: None,
            output: None,
            error: None,
        };
        let complete =
            FleetCommand::Complete { task: held.task, agent: agent.clone(), fencing_token, report: Box::new(report) };
        match self.fleet(complete) {
            FleetOutcome::Reported(TaskLeft { state: TaskState::Completed, .. }) => {
                self.outcome.note_done(self.now, held.waited);
            }
            other => panic!("a report was answered {other:?}"),
        }
        if leaves {
            self.unregister(agent);
            self.crew.leave(place);
        } else if self.waiting > 0
            && let Some(next) = self.claim(place, FleetCommand::Claim { agent })
        {
            self.crew.go_on(place, next);
        } else {
            self.crew.rest(place);
        }
    }
}
