//! A minimal MCP server whose tools do nothing.

use std::io::{BufRead, Write};

/// Responds to requests on standard input until its end.
pub(crate) fn run() {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    let (mut line, mut out) = (String::new(), Vec::new());
    loop {
        line.clear();
        if !input.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            return;
        }
        let Some(id) = line.split("\"id\":").nth(1).and_then(|rest| rest.split([',', '}']).next()) else {
            continue;
        };
        let result = if line.contains("\"initialize\"") {
            concat!(
                r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"#,
                r#""serverInfo":{"name":"bench","version":"1"}}"#
            )
        } else {
            r#"{"content":[{"type":"text","text":"{\"status\":\"fine\",\"items\":[1,2,3]}"}],"isError":false}"#
        };
        out.clear();
        out.extend_from_slice(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n").as_bytes());
        if output.write_all(&out).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}
