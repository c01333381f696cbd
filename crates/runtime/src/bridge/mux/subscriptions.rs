//! Keeps the subscriptions of the child in line with those of all sessions and listeners.
//!
//! Invariant: after [`Multiplexer::sync_subscriptions`], the child has a subscription to a resource if and only if a
//! session or listener has one.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    multiplexer::Multiplexer,
    protocol::ProtocolMode,
    session::{NotificationFilter, SessionId},
};

impl Multiplexer {
    /// Updates the log level and the subscriptions of the child.
    pub(crate) fn sync_subscriptions(&mut self) {
        match self.child_mode() {
            Some(ProtocolMode::Handshake) => {
                self.sync_level();
                self.sync_resource_subscriptions();
            }
            Some(ProtocolMode::Stateless) => self.sync_listening(),
            None => {}
        }
    }

    fn sync_level(&mut self) {
        let wanted = self.sessions.level();
        let can_log = self.child_info().is_some_and(|info| info.has_capability("/logging"));
        if let (Some(level), Some(child), true) = (wanted, &mut self.child, can_log)
            && child.log_level != Some(level)
        {
            child.log_level = Some(level);
            self.send_unawaited_request("logging/setLevel", &format!(r#"{{"level":"{}"}}"#, level.name()));
        }
    }

    fn sync_resource_subscriptions(&mut self) {
        let wanted = self.sessions.subscriptions();
        let Some(child) = &mut self.child else {
            return;
        };
        let subscribed = std::mem::take(&mut child.subscribed);
        child.subscribed.clone_from(&wanted);
        for uri in wanted.difference(&subscribed) {
            self.send_unawaited_request("resources/subscribe", &uri_params(uri));
        }
        for uri in subscribed.difference(&wanted) {
            self.send_unawaited_request("resources/unsubscribe", &uri_params(uri));
        }
    }

    /// A stateless child gets a new `subscriptions/listen` request after each change. The previous request is cancelled
    /// only then, so that no notification is missed.
    fn sync_listening(&mut self) {
        let wanted = self.sessions.subscriptions();
        let Some(info) = self.child_info().cloned() else {
            return;
        };
        let Some(child) = &mut self.child else {
            return;
        };
        if child.listen_request.is_some() && child.subscribed == wanted {
            return;
        }
        let previous = child.listen_request;
        child.subscribed.clone_from(&wanted);
        let filter = NotificationFilter {
            tools_list_changed: info.has_capability("/tools/listChanged"),
            prompts_list_changed: info.has_capability("/prompts/listChanged"),
            resources_list_changed: info.has_capability("/resources/listChanged"),
            resource_subscriptions: if info.has_capability("/resources/subscribe") { wanted } else { BTreeSet::new() },
        };
        if filter == NotificationFilter::default() && previous.is_none() {
            return;
        }
        let filter = serde_json::to_string(&filter).unwrap_or_else(|_| "{}".to_owned());
        let meta = super::protocol::stateless_meta();
        let params = format!(r#"{{"_meta":{meta},"notifications":{filter}}}"#);
        let number = self.send_unawaited_request("subscriptions/listen", &params);
        if let Some(child) = &mut self.child {
            child.listen_request = Some(number);
        }
        if let Some(previous) = previous {
            self.notify_child("notifications/cancelled", &format!(r#"{{"requestId":{previous}}}"#));
        }
    }

    /// Removes a subscription of a session. Returns whether the child must unsubscribe, because no other client has the
    /// subscription.
    pub(crate) fn unsubscribe(&mut self, session: SessionId, uri: &str) -> bool {
        if let Some(session) = self.sessions.by_id.get_mut(&session) {
            session.subscriptions.remove(uri);
        }
        if self.sessions.subscriptions().contains(uri) {
            return false;
        }
        self.child.as_mut().is_some_and(|child| child.subscribed.remove(uri))
    }

    /// Removes a subscription that the child rejected.
    pub(crate) fn remove_rejected_subscription(&mut self, session: SessionId, uri: &Arc<str>) {
        if self.unsubscribe(session, uri) {
            tracing::debug!(%uri, "subscription rejected by the server");
        }
    }
}

fn uri_params(uri: &str) -> String {
    format!(r#"{{"uri":{}}}"#, Value::from(uri))
}
