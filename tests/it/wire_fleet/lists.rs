//! The list of agents: its filters, its order and its pages.

use serde_json::json;

use crate::support::{
    list::ListTool,
    pattern::{TIME, check},
};
use crate::wire_fleet::fleet::{claim, ready, register_as, submit};

const AGENTS: ListTool = ListTool { name: "list_agents", entries: "agents", id: "agent_id" };

#[test]
fn an_entry_describes_the_agent() {
    let mut server = ready(&[]);
    register_as(
        &mut server,
        "agent-1",
        json!({"agent_type": "backend", "capabilities": ["b", "a"], "metadata": {"x": 1}}),
    );
    check(
        &server.answer("list_agents", &json!({})),
        &json!({
            "count": 1, "total": 1,
            "agents": [{
                "agent_id": "agent-1", "agent_type": "backend", "capabilities": ["a", "b"], "allocation_id": null,
                "state": "idle", "load": {"current_tasks": 0, "max_concurrent": 3},
                "health": {
                    "score": 0.5, "success_rate": null, "response_time": null, "load": 1.0, "heartbeat_regularity": 1.0
                },
                "registered_at": TIME, "heard_at": TIME, "lost_at": TIME, "metadata": {"x": 1}
            }]
        }),
    );
}

#[test]
fn agents_are_listed_by_id_and_in_pages() {
    let mut server = ready(&["--total-workers", "20"]);
    let mut expected = Vec::new();
    for number in (0..12).rev() {
        let name = format!("agent-{number:02}");
        let of_type = if number % 3 == 0 { "backend" } else { "frontend" };
        register_as(&mut server, &name, json!({"agent_type": of_type, "max_concurrent": 1 + number % 2}));
        expected.insert(0, name);
    }
    for limit in [1, 5, 12, 2_000] {
        assert_eq!(AGENTS.read_pages(&mut server, &json!({}), limit), expected, "{limit}");
        let backend: Vec<_> = expected.iter().step_by(3).cloned().collect();
        assert_eq!(AGENTS.read_pages(&mut server, &json!({"agent_type": "backend"}), limit), backend, "{limit}");
    }
    assert_eq!(AGENTS.ids(&server.answer("list_agents", &json!({"agent_type": "other"}))), [""; 0]);

    submit(&mut server, "task-1", 1);
    submit(&mut server, "task-2", 1);
    claim(&mut server, "agent-04");
    claim(&mut server, "agent-05");
    for (state, of_type, expected) in [
        ("full", None, vec!["agent-04"]),
        ("BUSY", None, vec!["agent-05"]),
        ("busy", Some("backend"), vec![]),
        ("idle", Some("backend"), vec!["agent-00", "agent-03", "agent-06", "agent-09"]),
        ("unresponsive", None, vec![]),
    ] {
        let filter = json!({"state": state, "agent_type": of_type});
        assert_eq!(AGENTS.read_pages(&mut server, &filter, 2_000), expected, "{filter}");
    }
}

#[test]
fn a_page_of_large_notes_ends_early() {
    let mut server = ready(&["--total-workers", "200", "--total-cpu", "200", "--total-memory", "409600"]);
    let mut expected = Vec::new();
    for number in 0..150 {
        let name = format!("agent-{number:03}");
        register_as(&mut server, &name, json!({"metadata": {"note": "\"".repeat(8_000)}}));
        expected.push(name);
    }
    let first = server.answer("list_agents", &json!({}));
    assert_eq!(first["total"], 150);
    assert!(AGENTS.ids(&first).len() < 150 && first["next_cursor"].is_string());
    let mut read = AGENTS.ids(&first);
    let mut cursor = first["next_cursor"].clone();
    while cursor.is_string() {
        let page = server.answer("list_agents", &json!({"cursor": cursor}));
        read.extend(AGENTS.ids(&page));
        cursor = page["next_cursor"].clone();
    }
    assert_eq!(read, expected);
}

#[test]
fn a_cursor_leads_on_even_if_its_agent_has_left() {
    let mut server = ready(&[]);
    for name in ["a", "b", "c"] {
        register_as(&mut server, name, json!({}));
    }
    let page = server.answer("list_agents", &json!({"limit": 2}));
    assert_eq!(AGENTS.ids(&page), ["a", "b"]);
    server.answer("unregister_agent", &json!({"agent_id": "b"}));
    let rest = server.answer("list_agents", &json!({"cursor": page["next_cursor"]}));
    assert_eq!((AGENTS.ids(&rest), &rest["total"]), (vec!["c".to_owned()], &json!(2)));
}
