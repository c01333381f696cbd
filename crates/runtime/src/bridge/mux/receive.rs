//! Handles the lines that the child sends: routes responses to their callers and notifications to their subscribers,
//! and answers the child's own requests.
//!
//! Invariant: whatever a child sends, no client receives a response to another client's call.

use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::value::RawValue;

use super::{
    link::LINE_BYTES_MAX,
    log_level::LogLevel,
    mailbox::{Completion, Mailbox},
    message::{Message, MessageKind, ResponseOutcome, number_of, spliced, string_param, with_meta, with_params},
    multiplexer::Multiplexer,
    protocol::META_SUBSCRIPTION,
    rpc_response::{METHOD_NOT_FOUND, RpcResponse},
    session::NotificationFilter,
    usage::Usage,
};

/// The longest part of an invalid line that is reported, in bytes.
const INVALID_OUTPUT_BYTES_MAX: usize = 2_048;

impl Multiplexer {
    /// Handles a line of the child of this generation. Invalid lines are reported and dropped.
    pub(crate) fn receive_line(&mut self, generation: u64, line: &[u8]) {
        if self.child(generation).is_none() || line.trim_ascii().is_empty() {
            return;
        }
        let Ok(text) = std::str::from_utf8(line) else {
            return self.report_invalid_output(line);
        };
        let Ok(message) = Message::parse(text) else {
            return self.report_invalid_output(line);
        };
        match &message.kind {
            MessageKind::Response { id, outcome } => self.handle_response(&message, id, *outcome),
            MessageKind::Notification { method } => self.handle_notification(&message, method),
            MessageKind::Request { id, method } => self.handle_request(id, method),
        }
    }

    /// Reports output that is not valid JSON-RPC.
    pub(crate) fn report_invalid_output(&mut self, line: &[u8]) {
        if let Some(child) = &self.child {
            let excerpt = &line[..line.len().min(INVALID_OUTPUT_BYTES_MAX)];
            (child.on_invalid_output)(String::from_utf8_lossy(excerpt).trim_end());
        }
    }

    fn handle_response(&mut self, message: &Message<'_>, id: &str, outcome: ResponseOutcome<'_>) {
        let number = number_of(id);
        if let (Some(number), Some(mode)) = (number, self.child_mode())
            && let Some(call) = self.calls.take(number)
        {
            let response = RpcResponse::from_child(&call, id, outcome, message, mode);
            return self.answer_call(call, response);
        }
        if let Some(mailbox) = number.and_then(|number| self.take_own_request(number)) {
            let text = Bytes::copy_from_slice(message.text.as_bytes());
            return mailbox.finish(Completion::Response(RpcResponse::new(text, None)));
        }
        if !number.is_some_and(|number| self.calls.take_abandoned(number)) {
            self.report_invalid_output(
                format!("response dropped, as its id matches no request: {}", message.text).as_bytes(),
            );
        }
    }

    /// Removes a pending request of the bridge itself, and returns its mailbox.
    fn take_own_request(&mut self, number: u64) -> Option<Arc<Mailbox>> {
        self.child.as_mut().and_then(|child| child.own_requests.remove(&number))
    }

    /// Handles a line that was too long to be kept. `number` is the id, if the line was a response.
    pub(crate) fn handle_too_long_line(&mut self, generation: u64, number: Option<u64>) {
        if self.child(generation).is_none() {
            return;
        }
        let why = format!("the response was longer than {} MiB", LINE_BYTES_MAX >> 20);
        if let Some(call) = number.and_then(|number| self.calls.take(number)) {
            let response = RpcResponse::unavailable(&call.client_id, &why, false);
            self.settle(call, Completion::Response(response));
            return self.send_waiting();
        }
        if let Some((number, mailbox)) =
            number.and_then(|number| self.take_own_request(number).map(|mailbox| (number, mailbox)))
        {
            return mailbox.finish(Completion::Response(RpcResponse::unavailable(&number.to_string(), &why, false)));
        }
        if !number.is_some_and(|number| self.calls.take_abandoned(number)) {
            self.report_invalid_output(
                format!("line dropped, as it is longer than {} MiB and not a pending response", LINE_BYTES_MAX >> 20)
                    .as_bytes(),
            );
        }
    }

    fn handle_request(&mut self, id: &str, method: &str) {
        let roots = self.roots();
        let response = match method {
            "ping" => RpcResponse::result(id, "{}"),
            "roots/list" if !roots.is_empty() => {
                let roots: Vec<_> = roots.iter().map(|uri| serde_json::json!({ "uri": uri })).collect();
                RpcResponse::result(id, &serde_json::json!({ "roots": roots }).to_string())
            }
            _ => {
                let what = match method {
                    "roots/list" => "list roots, since none are configured".to_owned(),
                    "sampling/createMessage" => "sample a model for it".to_owned(),
                    "elicitation/create" => "ask a user for input".to_owned(),
                    _ => format!("handle {}", method.chars().take(64).collect::<String>()),
                };
                let why = format!(
                    "this server is shared by several clients through cortex-resource-manager, which cannot {what}"
                );
                RpcResponse::error(id, METHOD_NOT_FOUND, &why)
            }
        };
        if let Some(child) = &mut self.child {
            child.write(&response.text);
        }
    }

    fn handle_notification(&mut self, message: &Message<'_>, method: &str) {
        let Ok(params) = message.parameters() else {
            return self.report_invalid_output(message.text.as_bytes());
        };
        match method {
            "notifications/progress" => self.forward_progress(message, params.progress_token),
            "notifications/message" => self
                .forward_log_message(message, string_param(params.level).and_then(|name| LogLevel::from_name(&name))),
            "notifications/resources/updated" => {
                if let Some(uri) = string_param(params.uri) {
                    self.forward_resource_update(message, &uri);
                }
            }
            // The bridge does not handle cancellations by the child, and acknowledges its listeners itself.
            "notifications/cancelled" | "notifications/subscriptions/acknowledged" => {}
            _ => {
                self.notify_sessions(&as_one_line(message));
                self.notify_listeners(message, |filter| match method {
                    "notifications/tools/list_changed" => filter.tools_list_changed,
                    "notifications/prompts/list_changed" => filter.prompts_list_changed,
                    "notifications/resources/list_changed" => filter.resources_list_changed,
                    _ => false,
                });
            }
        }
    }

    fn forward_progress(&mut self, message: &Message<'_>, token: Option<&RawValue>) {
        let Some(token) = token.map(RawValue::get) else {
            return;
        };
        let Some(call) = number_of(token).and_then(|number| self.calls.get(number)) else {
            return;
        };
        if let (Some(client_token), Some(mailbox)) = (&call.progress_token, &call.mailbox) {
            let text = Bytes::from(spliced(message.text, &mut [(token, client_token)]));
            let usage = Usage { bytes_out: text.len() as u64, ..Usage::default() };
            // Progress may be dropped if the client reads too slowly, since it is outdated then.
            if mailbox.push(text) {
                self.usages.add(call.allocation, &usage);
            }
        }
    }

    /// Forwards a log message. A session that set no level receives all messages, unless another session set a level:
    /// then it receives `info` and above.
    fn forward_log_message(&mut self, message: &Message<'_>, level: Option<LogLevel>) {
        let level = level.unwrap_or(LogLevel::Emergency);
        let default_level = if self.sessions.level().is_some() { LogLevel::Info } else { LogLevel::Debug };
        let text = as_one_line(message);
        for (id, session) in &mut self.sessions.by_id {
            if level < session.level.unwrap_or(default_level) {
                continue;
            }
            if session.stream.is_some() {
                push_to_stream(&mut session.stream, &text);
            } else if session.calls > 0 {
                // A session without a stream receives the message with its latest call.
                let mut calls = self.calls.in_flight().rev();
                let call = calls.find(|call| call.session == Some(*id));
                if let Some(mailbox) = call.and_then(|call| call.mailbox.as_ref()) {
                    mailbox.push(text.clone());
                }
            }
        }
        let wants = self.calls.in_flight().filter(|call| call.level.is_some_and(|wanted| level >= wanted));
        for mailbox in wants.filter_map(|call| call.mailbox.as_ref()) {
            mailbox.push(text.clone());
        }
    }

    fn forward_resource_update(&mut self, message: &Message<'_>, uri: &str) {
        let text = as_one_line(message);
        for session in self.sessions.by_id.values_mut() {
            if session.subscriptions.iter().any(|wanted| covers(wanted, uri)) {
                push_to_stream(&mut session.stream, &text);
            }
        }
        self.notify_listeners(message, |filter| filter.resource_subscriptions.iter().any(|wanted| covers(wanted, uri)));
    }

    fn notify_sessions(&mut self, text: &Bytes) {
        for session in self.sessions.by_id.values_mut() {
            push_to_stream(&mut session.stream, text);
        }
    }

    fn notify_listeners(&mut self, message: &Message<'_>, wants: impl Fn(&NotificationFilter) -> bool) {
        for listener in self.sessions.listeners.values().filter(|listener| wants(&listener.filter)) {
            let Ok(params) = with_meta(message.params, |_| false, &[(META_SUBSCRIPTION, &listener.id)]) else {
                continue;
            };
            if !listener.mailbox.push(with_params(message, None, &params).into()) {
                // The reader is too slow: its stream is closed, which removes the listener.
                listener.mailbox.abort();
            }
        }
    }
}

/// Returns a notification as one line, without the subscription id that a stateless child addressed to the bridge.
fn as_one_line(message: &Message<'_>) -> Bytes {
    if message.params.is_some_and(|params| params.contains(META_SUBSCRIPTION))
        && let Ok(params) = with_meta(message.params, |key| key == META_SUBSCRIPTION, &[])
    {
        return with_params(message, None, &params).into();
    }
    spliced(message.text, &mut []).into()
}

/// Pushes a notification to a stream. A stream that is read too slowly is closed, so that its client knows that it
/// missed notifications.
fn push_to_stream(stream: &mut Option<Arc<Mailbox>>, text: &Bytes) {
    if stream.as_ref().is_some_and(|mailbox| !mailbox.push(text.clone()))
        && let Some(mailbox) = stream.take()
    {
        mailbox.abort();
    }
}

/// Returns whether the changed resource is the requested one or a part of it.
fn covers(wanted: &str, changed: &str) -> bool {
    changed
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || wanted.ends_with('/') || rest.starts_with(['/', '#', '?']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_resource_is_covered() {
        for (wanted, changed, is) in [
            ("file:///a", "file:///a", true),
            ("file:///a", "file:///a/b", true),
            ("file:///a/", "file:///a/b", true),
            ("file:///a", "file:///ab", false),
            ("file:///a/b", "file:///a", false),
        ] {
            assert_eq!(covers(wanted, changed), is, "{wanted} {changed}");
        }
    }
}
