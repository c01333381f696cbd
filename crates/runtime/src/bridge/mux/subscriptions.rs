//! What the child is asked to tell of: what the sessions and listeners together want to hear.
//!
//! Invariant: once the books are in line, the child was asked for a resource if, and only if, somebody hears of it.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    multiplexer::Multiplexer,
    protocol::ProtocolMode,
    session::{NotificationFilter, SessionId},
};

impl Multiplexer {
    /// Brings what the child was asked for in line with what is wanted.
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
            self.send_unawaited("logging/setLevel", &format!(r#"{{"level":"{}"}}"#, level.name()));
        }
    }

    fn sync_resource_subscriptions(&mut self) {
        let wanted = self.sessions.subscriptions();
        let Some(child) = &mut self.child else {
            return;
        };
        let told = std::mem::take(&mut child.subscribed);
        child.subscribed.clone_from(&wanted);
        for uri in wanted.difference(&told) {
            self.send_unawaited("resources/subscribe", &uri_params(uri));
        }
        for uri in told.difference(&wanted) {
            self.send_unawaited("resources/unsubscribe", &uri_params(uri));
        }
    }

    /// A child without subscriptions is asked anew whenever something changes; only then is the former request ended.
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
        let former = child.listen_request;
        child.subscribed.clone_from(&wanted);
        let filter = NotificationFilter {
            tools_list_changed: info.has_capability("/tools/listChanged"),
            prompts_list_changed: info.has_capability("/prompts/listChanged"),
            resources_list_changed: info.has_capability("/resources/listChanged"),
            resource_subscriptions: if info.has_capability("/resources/subscribe") { wanted } else { BTreeSet::new() },
        };
        if filter == NotificationFilter::default() && former.is_none() {
            return;
        }
        let filter = serde_json::to_string(&filter).unwrap_or_else(|_| "{}".to_owned());
        let meta = super::protocol::stateless_meta();
        let params = format!(r#"{{"_meta":{meta},"notifications":{filter}}}"#);
        let number = self.send_unawaited("subscriptions/listen", &params);
        if let Some(child) = &mut self.child {
            child.listen_request = Some(number);
        }
        if let Some(former) = former {
            self.notify_child("notifications/cancelled", &format!(r#"{{"requestId":{former}}}"#));
        }
    }

    /// A session no longer hears of a resource. Whether the child has to be told, because nobody else does.
    pub(crate) fn unsubscribe(&mut self, session: SessionId, uri: &str) -> bool {
        if let Some(session) = self.sessions.by_id.get_mut(&session) {
            session.subscriptions.remove(uri);
        }
        if self.sessions.subscriptions().contains(uri) {
            return false;
        }
        self.child.as_mut().is_some_and(|child| child.subscribed.remove(uri))
    }

    /// The child would not have a subscription.
    pub(crate) fn subscription_refused(&mut self, session: SessionId, uri: &Arc<str>) {
        if self.unsubscribe(session, uri) {
            tracing::debug!(%uri, "a subscription was refused");
        }
    }
}

fn uri_params(uri: &str) -> String {
    format!(r#"{{"uri":{}}}"#, Value::from(uri))
}
