//! The limits, and the answers at the limits.

use serde_json::{Value, json};

use crate::support::{pattern::check, server::call};
use crate::wire_tasks::fleet::{claim, claim_one, ids, ready, register, report, submit, task};

/// Some clients close the connection on a longer answer.
const ANSWER_BYTES_MAX: usize = 10 << 20;

/// The longest allowed payload: 64 KiB as JSON text.
fn largest() -> Value {
    Value::from("p".repeat(64 * 1024 - 2))
}

/// Returns a value with this number of nested levels.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({"a": inner}))
}

#[test]
fn the_largest_task_fits_a_line_and_comes_back_whole() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    // The rest of a line of one MiB goes to the input, of which only the length is stored.
    let characters = 950_000;
    let arguments = json!({"task_id": "t", "payload": largest(), "input": "i".repeat(characters)});
    let submitted = server.answer("submit_task", &arguments);
    check(&submitted, &json!({"status": "submitted", "estimated_tokens": 1000 + characters / 100 * 75}));
    server.answer("set_token_budget", &json!({"budget_tokens": 10_000_000}));
    let held = claim_one(&mut server, "a");
    assert_eq!(held["payload"], largest());
    let mut done = report(&held, "a", "success");
    done["output"] = largest();
    done["error"] = json!("😀".repeat(4_096));
    server.answer("complete_task", &done);
    let read = task(&mut server, "t");
    assert_eq!((&read["payload"], &read["output"]), (&largest(), &largest()));
    assert_eq!(read["error"], done["error"]);
    check(&read, &json!({"input_characters": characters}));
}

#[test]
fn what_is_a_byte_a_level_or_a_character_too_much_is_refused() {
    let mut server = ready(&[]);
    register(&mut server, "a", 3);
    submit(&mut server, &json!({"payload": nested(32)}));
    let held = claim_one(&mut server, "a");
    assert_eq!(held["payload"], nested(32));
    let too_long = Value::from("p".repeat(64 * 1024 - 1));
    for value in [&too_long, &nested(33), &nested(100)] {
        let error = server.error("submit_task", &json!({"payload": value}));
        assert!(error.starts_with("payload is ") && error.contains("65536") && error.contains("32"), "{error}");
        let mut done = report(&held, "a", "success");
        done["output"] = value.clone();
        let error = server.error("complete_task", &done);
        assert!(error.starts_with("output is ") && error.contains("65536") && error.contains("32"), "{error}");
    }
    let mut done = report(&held, "a", "failure");
    done["error"] = json!("😀".repeat(4_097));
    let error = server.error("complete_task", &done);
    assert!(error.starts_with("error is ") && error.contains("4096"), "{error}");
    let held = server.answer("list_tasks", &json!({"state": "running"}));
    check(&held, &json!({"total": 1}));
}

#[test]
fn a_claim_leaves_out_payloads_that_are_too_long_together() {
    let mut server = ready(&["--token-budget", "1000000000"]);
    register(&mut server, "a", 100);
    for number in 0..100 {
        submit(&mut server, &json!({"task_id": format!("t{number}"), "batch_key": "k", "payload": largest()}));
    }
    let id = server.send("tools/call", &json!({"name": "claim_task", "arguments": {"agent_id": "a"}}));
    let reply = server.reply(id);
    assert!(reply.to_string().len() < ANSWER_BYTES_MAX, "{}", reply.to_string().len());
    let claimed = server.check_answer("claim_task", &reply["result"]);
    assert_eq!(claimed["count"], 100);
    let tasks = claimed["tasks"].as_array().expect("a list");
    let kept = tasks.iter().take_while(|task| task["payload"] == largest()).count();
    assert!((50..100).contains(&kept), "{kept}");
    for left_out in &tasks[kept..] {
        check(left_out, &json!({"payload": null, "payload_omitted": true}));
    }
    let last = tasks[99]["task_id"].as_str().expect("an id");
    assert_eq!(task(&mut server, last)["payload"], largest());
}

#[test]
fn the_longest_names_leave_a_page_short_enough() {
    let mut server = ready(&["--token-budget", "1000000000"]);
    let name = |number: usize| format!("{number:04}{}", "😀".repeat(252));
    let agent = name(0);
    let registration = json!({"agent_id": agent, "agent_type": name(1), "capabilities": [], "max_concurrent": 100});
    server.answer("register_agent", &registration);
    for number in 0..500 {
        submit(
            &mut server,
            &json!({
                "task_id": name(number), "job_id": name(2), "agent_type": name(1), "batch_key": name(number / 100),
                "deadline": "9999-01-01T00:00:00Z"
            }),
        );
    }
    assert_eq!(ids(&claim(&mut server, &agent)).len(), 100);
    let id = server.send("tools/call", &json!({"name": "list_tasks", "arguments": {"limit": 500}}));
    let reply = server.reply(id);
    let bytes = reply.to_string().len();
    assert!((2 << 20..ANSWER_BYTES_MAX).contains(&bytes), "{bytes}");
    check(&reply, &json!({"result": {"structuredContent": {"count": 500}}}));
}

#[test]
fn a_task_with_the_longest_history_can_be_read() {
    let mut server = ready(&["--token-budget", "1000000000"]);
    register(&mut server, "a", 1);
    // Text that is escaped twice takes the most bytes.
    let worst = "\u{1}".repeat(4_096);
    let id = submit(&mut server, &json!({"max_attempts": 100, "payload": "\"".repeat(32_000)}));
    for _ in 0..100 {
        let held = claim_one(&mut server, "a");
        let mut failed = report(&held, "a", "failure");
        failed["error"] = json!(worst);
        server.answer("complete_task", &failed);
    }
    let request = server.send("tools/call", &json!({"name": "get_task", "arguments": {"task_id": id}}));
    let reply = server.reply(request);
    assert!(reply.to_string().len() < ANSWER_BYTES_MAX, "{}", reply.to_string().len());
    let read = server.check_answer("get_task", &reply["result"]);
    check(&read, &json!({"state": "failed", "attempts_left": 0, "error": worst}));
    assert_eq!(read["attempts"].as_array().map(Vec::len), Some(100));
}

#[test]
fn the_number_of_open_tasks_is_limited() {
    let mut server = ready(&["--max-tasks", "3"]);
    register(&mut server, "a", 3);
    let submitted: Vec<_> = (0..3).map(|_| submit(&mut server, &json!({}))).collect();
    claim_one(&mut server, "a");
    let error = server.error("submit_task", &json!({}));
    assert!(error.contains("3 of 3") && error.contains("max_tasks"), "{error}");
    server.answer("cancel_task", &json!({"task_id": submitted[2]}));
    submit(&mut server, &json!({}));
}

#[test]
fn the_bytes_of_open_tasks_are_limited() {
    let mut server = ready(&["--max-task-bytes", "1048576"]);
    let ids: Vec<_> = (0..17).map(|_| server.new_id()).collect();
    let arguments = json!({"payload": largest()});
    for id in &ids {
        server.write_line(call(*id, "submit_task", &arguments));
    }
    let refused = ids.into_iter().filter(|id| server.reply(*id)["result"]["isError"] == true).count();
    assert!((1..=2).contains(&refused), "{refused}");
    let error = server.error("submit_task", &arguments);
    assert!(error.contains("max_task_bytes") && error.contains("1048576"), "{error}");
    submit(&mut server, &json!({}));
}
