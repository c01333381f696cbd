//! Limits of the fleet in combination: full queues, records that are not kept, windows that have ended.

use crate::fleet_state::{FleetState, job_id, report, task};
use cortex_core::command::Command;
use cortex_core::event::Limits;
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, ReportedResult, TaskReport};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{TaskRequest, TaskState};
use cortex_core::ids::JobId;
use cortex_core::priority::Priority;
use cortex_core::time::Millis;
use std::sync::Arc;

/// A failure with an error of this length.
fn failure(bytes: usize) -> TaskReport {
    TaskReport { error: Some(Arc::from("x".repeat(bytes))), ..report(ReportedResult::Failure, Some(0), 1) }
}

#[test]
fn an_error_that_open_tasks_have_no_room_for_is_left_out() {
    let mut state = FleetState::new(1);
    let settings = FleetSettings { task_bytes_max: 2_500, ..FleetSettings::default() };
    state.ask(FleetCommand::SetSettings(settings)).expect("settings");
    state.register("a", 1).expect("capacity is left");
    state.set_budget(100);
    let task = state.submit(TaskRequest { attempts_max: 4, ..task(Priority::Normal, 1) });
    for _ in 0..4 {
        assert_eq!(state.claim("a"), std::slice::from_ref(&task));
        state.complete(&task, failure(1_000));
    }
    let view = state.task(&task);
    let kept: Vec<usize> =
        view.task.attempts.iter().map(|attempt| attempt.error.as_ref().map_or(0, |error| error.len())).collect();
    let left_out = "(left out: open tasks take max_task_bytes)";
    assert_eq!(view.task.attempts[2].error.as_deref(), Some(left_out));
    // The last error goes on record with the task.
    assert_eq!((view.state, kept), (TaskState::Failed, vec![1_000, 1_000, left_out.len(), 1_000]));
}

#[test]
fn the_last_ended_task_is_kept_even_if_none_should_be() {
    let mut state = FleetState::new(1);
    let limits = Limits { history_records_max: 0, ..Limits::default() };
    state.execute(&Command::SetLimits(limits)).expect("limits");
    state.register("a", 2).expect("capacity is left");
    state.set_budget(100);
    let (first, second) = (state.submit(task(Priority::Normal, 1)), state.submit(task(Priority::Normal, 1)));
    assert_eq!(state.claim("a").len(), 1);
    assert_eq!(state.claim("a").len(), 1);
    for task in [&first, &second] {
        state.complete(task, report(ReportedResult::Success, Some(1), 1));
        assert_eq!(state.task(task).state, TaskState::Completed);
    }
    assert_eq!(state.cluster.task(state.now, &first), None);
}

#[test]
fn usage_of_a_past_window_does_not_block_a_budget() {
    let mut state = FleetState::new(1);
    state.register("a", 1).expect("capacity is left");
    let job = || job_id("job");
    let set = |job: Option<JobId>, tokens, seconds: Option<u64>| FleetCommand::SetTokenBudget {
        job,
        tokens: Some(tokens),
        window: seconds.map(Millis::from_seconds),
    };
    state.ask(set(None, 100, Some(60))).expect("a budget");
    state.ask(set(Some(job()), 100, None)).expect("a budget");
    let task = state.submit(TaskRequest { job: Some(job()), ..task(Priority::Normal, 90) });
    assert_eq!(state.claim("a"), std::slice::from_ref(&task));
    state.complete(&task, report(ReportedResult::Success, Some(90), 1));
    assert!(state.ask(set(None, 50, None)).is_err(), "90 are used");
    assert!(state.ask(set(Some(job()), 50, None)).is_err(), "90 are used");

    // The refill is due, but not recorded yet.
    state.wait(60_000);
    assert_eq!(state.ask(set(Some(job()), 50, None)), Ok(FleetOutcome::Done));
    assert_eq!(state.ask(set(None, 50, Some(3_600))), Ok(FleetOutcome::Done));
    let usage = state.cluster.usage(state.now, crate::fleet_state::SIZE).tokens;
    assert_eq!((usage.all.settled, usage.jobs[0].1.settled), (0, 0), "not for another hour");
}
