//! Who hears of what: the sessions of clients with a handshake, and the listeners of those without.
//!
//! Invariants: at most [`SESSIONS_MAX`] of each; a session belongs to the allocation that opened it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{level::Level, mailbox::Mailbox};
use crate::core::AllocationId;

/// The most sessions of one server, and the most listeners.
pub(super) const SESSIONS_MAX: usize = 128;

/// The most resources that one session or listener hears of.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1_024;

/// A session that did nothing for longer is the first to make room.
const IDLE_MAX: Duration = Duration::from_secs(3_600);

/// What a client names its session by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(Uuid);

impl SessionId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A client that shook hands.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) allocation: Option<AllocationId>,
    pub(super) level: Option<Level>,
    pub(super) subscriptions: BTreeSet<Arc<str>>,
    /// Where notices go, while the client listens.
    pub(super) stream: Option<Arc<Mailbox>>,
    /// How many of its calls are under way.
    pub(super) calls: usize,
    pub(super) used_at: Instant,
}

impl Session {
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.stream.is_none()
    }
}

/// What a client without a session wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Filter {
    #[serde(skip_serializing_if = "is_false")]
    pub(super) tools_list_changed: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) prompts_list_changed: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) resources_list_changed: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) resource_subscriptions: BTreeSet<Arc<str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A client that listens without a session.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) allocation: Option<AllocationId>,
    /// The id of its request, as JSON: each notice says it.
    pub(super) id: Box<str>,
    pub(super) filter: Filter,
    pub(super) mailbox: Arc<Mailbox>,
}

/// Everybody who hears of something.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) by_id: BTreeMap<SessionId, Session>,
    pub(super) listeners: BTreeMap<u64, Listener>,
}

impl Sessions {
    /// Whose session must end so that there is room for one more: none, if there is room.
    ///
    /// # Errors
    /// There is no room, and every session is in use.
    pub(super) fn to_end(&self, now: Instant) -> Result<Vec<SessionId>, Crowded> {
        if self.by_id.len() < SESSIONS_MAX {
            return Ok(Vec::new());
        }
        let idle = || self.by_id.iter().filter(|(_, session)| session.is_idle());
        let long = |session: &Session| now.saturating_duration_since(session.used_at) > IDLE_MAX;
        let ended: Vec<_> = idle().filter(|(_, session)| long(session)).map(|(id, _)| *id).collect();
        if !ended.is_empty() {
            return Ok(ended);
        }
        let oldest = idle().min_by_key(|(_, session)| session.used_at).map(|(id, _)| vec![*id]);
        oldest.ok_or(Crowded)
    }

    pub(super) fn insert(&mut self, allocation: Option<AllocationId>, now: Instant) -> SessionId {
        let id = SessionId(Uuid::new_v4());
        let session =
            Session { allocation, level: None, subscriptions: BTreeSet::new(), stream: None, calls: 0, used_at: now };
        self.by_id.insert(id, session);
        id
    }

    /// Every resource that somebody hears of.
    pub(super) fn subscriptions(&self) -> BTreeSet<Arc<str>> {
        let of_sessions = self.by_id.values().flat_map(|session| &session.subscriptions);
        let of_listeners = self.listeners.values().flat_map(|listener| &listener.filter.resource_subscriptions);
        of_sessions.chain(of_listeners).cloned().collect()
    }

    /// The least grave level that a session asked for.
    pub(super) fn level(&self) -> Option<Level> {
        self.by_id.values().filter_map(|session| session.level).min()
    }
}

/// Why there is no new session.
#[derive(Debug)]
pub(super) struct Crowded;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_make_room_and_the_busy_do_not() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let ids: Vec<_> = (0..SESSIONS_MAX as u64)
            .map(|second| {
                assert!(sessions.to_end(start).expect("room").is_empty());
                sessions.insert(None, start + Duration::from_secs(second))
            })
            .collect();
        assert_eq!(sessions.to_end(start).expect("an idle one"), [ids[0]]);
        sessions.by_id.get_mut(&ids[0]).expect("there").calls = 1;
        assert_eq!(sessions.to_end(start).expect("an idle one"), [ids[1]]);
        let later = start + IDLE_MAX + Duration::from_millis(2_500);
        let mut ended = sessions.to_end(later).expect("idle ones");
        let mut expected = vec![ids[1], ids[2]];
        ended.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ended, expected);
        for session in sessions.by_id.values_mut() {
            session.stream = Some(Arc::default());
        }
        assert!(sessions.to_end(later).is_err());
    }
}
