//! The subscribers of an endpoint: sessions of clients with a handshake, and listeners of clients without one.
//!
//! Invariants: there are at most [`SESSIONS_MAX`] sessions and as many listeners, of which one allocation has at most
//! its fair share; and a session belongs to the allocation that opened it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{log_level::LogLevel, mailbox::Mailbox};
use crate::bridge::limits::fair_share::{self, FairShares};
use cortex_core::ids::AllocationId;

/// The most sessions of one server, and the most listeners.
pub(crate) const SESSIONS_MAX: usize = 128;

/// The most resources that one session or listener may subscribe to.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 1_024;

/// A session that is idle for longer is evicted first.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(3_600);

/// The id of a session, in the `Mcp-Session-Id` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(Uuid);

impl SessionId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A client with a handshake.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) allocation: Option<AllocationId>,
    pub(crate) level: Option<LogLevel>,
    pub(crate) subscriptions: BTreeSet<Arc<str>>,
    /// The event stream for notifications, while the client has one open.
    pub(crate) stream: Option<Arc<Mailbox>>,
    /// The number of its calls that wait or are in flight.
    pub(crate) calls: usize,
    pub(crate) used_at: Instant,
}

impl Session {
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.stream.is_none()
    }
}

/// The notifications that a client without a session subscribes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NotificationFilter {
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) tools_list_changed: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) prompts_list_changed: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) resources_list_changed: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) resource_subscriptions: BTreeSet<Arc<str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A client without a session that has a stream of notifications.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) allocation: Option<AllocationId>,
    /// The id of its request, as JSON. Each notification carries it.
    pub(crate) id: Box<str>,
    pub(crate) filter: NotificationFilter,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// All subscribers of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) by_id: BTreeMap<SessionId, Session>,
    pub(crate) listeners: BTreeMap<u64, Listener>,
}

impl Sessions {
    /// Selects the sessions to end so that the allocation may open one more; none if its fair share allows it. Sessions
    /// that were idle for longer than [`SESSION_IDLE_MAX`] go first, of any allocation; then the allocation's oldest
    /// idle session. If the allocation has none, the oldest idle session of the allocation with the most sessions goes,
    /// provided that it has several.
    ///
    /// # Errors
    /// No session can be ended for the new one.
    pub(crate) fn select_evicted(
        &self,
        allocation: Option<AllocationId>,
        now: Instant,
    ) -> Result<Vec<SessionId>, LimitReached> {
        let is_expired =
            |session: &Session| session.is_idle() && now.saturating_duration_since(session.used_at) > SESSION_IDLE_MAX;
        let all = || self.by_id.values();
        let shares = shares(all().map(|session| session.allocation));
        if shares.may_take(allocation, 1) {
            return Ok(Vec::new());
        }
        let without_expired =
            self::shares(all().filter(|session| !is_expired(session)).map(|session| session.allocation));
        if without_expired.may_take(allocation, 1) {
            return Ok(self.by_id.iter().filter(|(_, session)| is_expired(session)).map(|(id, _)| *id).collect());
        }
        let held = shares.held(allocation);
        let owner = allocation.filter(|_| held > 0).or_else(|| {
            let most = all().filter(|session| session.is_idle()).max_by_key(|session| shares.held(session.allocation));
            most.filter(|most| shares.held(most.allocation) > 1).and_then(|most| most.allocation)
        });
        let oldest = self.by_id.iter().filter(|(_, session)| session.is_idle() && session.allocation == owner);
        let oldest = oldest.min_by_key(|(_, session)| session.used_at).map(|(id, _)| vec![*id]);
        oldest.ok_or_else(|| {
            let remedy = "end one with DELETE, or wait until one is idle";
            LimitReached(fair_share::limit_reached("sessions", allocation.map(|_| held), SESSIONS_MAX, remedy))
        })
    }

    /// Checks that the allocation may have one more listener.
    ///
    /// # Errors
    /// The limit of listeners is reached.
    pub(crate) fn check_listener_limit(&self, allocation: Option<AllocationId>) -> Result<(), LimitReached> {
        let shares = shares(self.listeners.values().map(|listener| listener.allocation));
        if shares.may_take(allocation, 1) {
            return Ok(());
        }
        let held = allocation.map(|_| shares.held(allocation));
        Err(LimitReached(fair_share::limit_reached("listeners", held, SESSIONS_MAX, "close one")))
    }

    pub(crate) fn insert(&mut self, allocation: Option<AllocationId>, now: Instant) -> SessionId {
        let id = SessionId(Uuid::new_v4());
        let session =
            Session { allocation, level: None, subscriptions: BTreeSet::new(), stream: None, calls: 0, used_at: now };
        self.by_id.insert(id, session);
        id
    }

    /// Returns the resources that any session or listener subscribes to.
    pub(crate) fn subscriptions(&self) -> BTreeSet<Arc<str>> {
        let of_sessions = self.by_id.values().flat_map(|session| &session.subscriptions);
        let of_listeners = self.listeners.values().flat_map(|listener| &listener.filter.resource_subscriptions);
        of_sessions.chain(of_listeners).cloned().collect()
    }

    /// Returns the lowest level that a session has set.
    pub(crate) fn level(&self) -> Option<LogLevel> {
        self.by_id.values().filter_map(|session| session.level).min()
    }
}

/// The error text for a reached limit.
#[derive(Debug)]
pub(crate) struct LimitReached(pub(crate) String);

/// Returns the shares of the holders of sessions or listeners.
fn shares(holders: impl Iterator<Item = Option<AllocationId>>) -> FairShares<AllocationId> {
    let mut shares = FairShares::new(SESSIONS_MAX);
    holders.for_each(|holder| shares.add(holder, 1));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_sessions_are_evicted_and_busy_ones_are_not() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let ids: Vec<_> = (0..SESSIONS_MAX as u64)
            .map(|second| {
                assert!(sessions.select_evicted(None, start).expect("capacity").is_empty());
                sessions.insert(None, start + Duration::from_secs(second))
            })
            .collect();
        assert_eq!(sessions.select_evicted(None, start).expect("an idle one"), [ids[0]]);
        sessions.by_id.get_mut(&ids[0]).expect("there").calls = 1;
        assert_eq!(sessions.select_evicted(None, start).expect("an idle one"), [ids[1]]);
        let later = start + SESSION_IDLE_MAX + Duration::from_millis(2_500);
        let mut ended = sessions.select_evicted(None, later).expect("idle ones");
        let mut expected = vec![ids[1], ids[2]];
        ended.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ended, expected);
        for session in sessions.by_id.values_mut() {
            session.stream = Some(Arc::default());
        }
        assert!(sessions.select_evicted(None, later).is_err());
    }

    #[test]
    fn a_lease_at_its_quota_ends_its_own_and_a_new_lease_gets_one() {
        let mut sessions = Sessions::default();
        let lease = |draw| Some(AllocationId::from_bits(draw));
        let start = Instant::now();
        let open = |sessions: &mut Sessions, draw: u64, second: u64| {
            let ended = sessions.select_evicted(lease(draw), start).expect("capacity");
            ended.iter().for_each(|id| drop(sessions.by_id.remove(id)));
            (sessions.insert(lease(draw), start + Duration::from_secs(second)), ended)
        };
        let modest = open(&mut sessions, 2, 0).0;
        let (first, _) = open(&mut sessions, 1, 1);
        for second in 2..=101 {
            assert_eq!(open(&mut sessions, 1, second).1, []);
        }
        assert_eq!(open(&mut sessions, 1, 102).1, [first]);
        for session in sessions.by_id.values_mut().filter(|session| session.allocation == lease(1)) {
            session.calls = 1;
        }
        let LimitReached(why) = sessions.select_evicted(lease(1), start).expect_err("all are in use");
        assert_eq!(
            why,
            "this lease has 101 sessions, and all leases together at most 128: end one with DELETE, \
            or wait until one is idle"
        );
        let later = start + SESSION_IDLE_MAX + Duration::from_secs(200);
        assert_eq!(sessions.select_evicted(lease(1), later).expect("one idle for long"), [modest], "of any lease");
        // Others take all that is left: one each.
        for draw in 3..29 {
            assert_eq!(open(&mut sessions, draw, 200).1, []);
        }
        assert_eq!(sessions.by_id.len(), SESSIONS_MAX);
        assert!(sessions.select_evicted(lease(99), start).is_err(), "each has one, or uses all");
        let busy = sessions.by_id.iter_mut().find(|(_, session)| session.allocation == lease(1)).expect("one");
        busy.1.calls = 0;
        let idle = *busy.0;
        assert_eq!(sessions.select_evicted(lease(99), start).expect("one of many"), [idle]);
    }
}
