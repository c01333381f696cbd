//! Bounds of the fleet where they meet: full queues, records that are not kept, windows that are over.

use crate::books::{Books, job_id, report, task};
use cortex_core::command::Command;
use cortex_core::event::Limits;
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, Report, ReportedResult};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{TaskRequest, TaskState};
use cortex_core::ids::JobId;
use cortex_core::priority::Priority;
use cortex_core::time::Millis;
use std::sync::Arc;

/// A failure with an error of so many bytes.
fn failure(bytes: usize) -> Report {
    Report { error: Some(Arc::from("x".repeat(bytes))), ..report(ReportedResult::Failure, Some(0), 1) }
}

#[test]
fn an_error_that_open_tasks_have_no_room_for_is_left_out() {
    let mut books = Books::new(1);
    let settings = FleetSettings { task_bytes_max: 2_500, ..FleetSettings::default() };
    books.ask(FleetCommand::SetSettings(settings)).expect("settings");
    books.register("a", 1).expect("there is room");
    books.set_budget(100);
    let task = books.submit(TaskRequest { attempts_max: 4, ..task(Priority::Normal, 1) });
    for _ in 0..4 {
        assert_eq!(books.claim("a"), std::slice::from_ref(&task));
        books.complete(&task, failure(1_000));
    }
    let view = books.task(&task);
    let kept: Vec<usize> =
        view.task.attempts.iter().map(|attempt| attempt.error.as_ref().map_or(0, |error| error.len())).collect();
    let left_out = "(left out: open tasks take max_task_bytes)";
    assert_eq!(view.task.attempts[2].error.as_deref(), Some(left_out));
    // The last one goes on record with the task.
    assert_eq!((view.state, kept), (TaskState::Failed, vec![1_000, 1_000, left_out.len(), 1_000]));
}

#[test]
fn the_last_task_that_ended_is_kept_though_none_is_to_be() {
    let mut books = Books::new(1);
    let limits = Limits { history_records_max: 0, ..Limits::default() };
    books.carry_out(&Command::SetLimits(limits)).expect("limits");
    books.register("a", 2).expect("there is room");
    books.set_budget(100);
    let (first, second) = (books.submit(task(Priority::Normal, 1)), books.submit(task(Priority::Normal, 1)));
    assert_eq!(books.claim("a").len(), 1);
    assert_eq!(books.claim("a").len(), 1);
    for task in [&first, &second] {
        books.complete(task, report(ReportedResult::Success, Some(1), 1));
        assert_eq!(books.task(task).state, TaskState::Completed);
    }
    assert_eq!(books.cluster.task(books.now, &first), None);
}

#[test]
fn what_was_used_in_a_window_that_is_over_holds_no_budget_up() {
    let mut books = Books::new(1);
    books.register("a", 1).expect("there is room");
    let job = || job_id("job");
    let set = |job: Option<JobId>, tokens, seconds: Option<u64>| FleetCommand::SetTokenBudget {
        job,
        tokens: Some(tokens),
        window: seconds.map(Millis::from_seconds),
    };
    books.ask(set(None, 100, Some(60))).expect("a budget");
    books.ask(set(Some(job()), 100, None)).expect("a budget");
    let task = books.submit(TaskRequest { job: Some(job()), ..task(Priority::Normal, 90) });
    assert_eq!(books.claim("a"), std::slice::from_ref(&task));
    books.complete(&task, report(ReportedResult::Success, Some(90), 1));
    assert!(books.ask(set(None, 50, None)).is_err(), "90 are used");
    assert!(books.ask(set(Some(job()), 50, None)).is_err(), "90 are used");

    // Nobody has recorded the refill yet.
    books.wait(60_000);
    assert_eq!(books.ask(set(Some(job()), 50, None)), Ok(FleetOutcome::Done));
    assert_eq!(books.ask(set(None, 50, Some(3_600))), Ok(FleetOutcome::Done));
    let usage = books.cluster.usage(books.now, crate::books::SIZE).tokens;
    assert_eq!((usage.all.settled, usage.jobs[0].1.settled), (0, 0), "not for another hour");
}
