//! Who hears of what: the sessions of clients with a handshake, and the listeners of those without.
//!
//! Invariants: at most [`SESSIONS_MAX`] of each, and of one allocation no more than its share; a session belongs to the
//! allocation that opened it.

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

/// The most resources that one session or listener hears of.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 1_024;

/// A session that did nothing for longer is the first to make room.
const IDLE_MAX: Duration = Duration::from_secs(3_600);

/// What a client names its session by.
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

/// A client that shook hands.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) allocation: Option<AllocationId>,
    pub(crate) level: Option<LogLevel>,
    pub(crate) subscriptions: BTreeSet<Arc<str>>,
    /// Where notices go, while the client listens.
    pub(crate) stream: Option<Arc<Mailbox>>,
    /// How many of its calls are under way.
    pub(crate) calls: usize,
    pub(crate) used_at: Instant,
}

impl Session {
    fn is_idle(&self) -> bool {
        self.calls == 0 && self.stream.is_none()
    }
}

/// What a client without a session wants to hear of.
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A client that listens without a session.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) allocation: Option<AllocationId>,
    /// The id of its request, as JSON: each notice says it.
    pub(crate) id: Box<str>,
    pub(crate) filter: NotificationFilter,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// Everybody who hears of something.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) by_id: BTreeMap<SessionId, Session>,
    pub(crate) listeners: BTreeMap<u64, Listener>,
}

impl Sessions {
    /// Which sessions must end so that there is room for one more of an allocation: none, if there is room. Those that are
    /// idle for long go first, whoever's they are, and then the oldest idle one of its own. Of others it may be only where
    /// they leave nothing for one who has none, and have several.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn select_evicted(
        &self,
        allocation: Option<AllocationId>,
        now: Instant,
    ) -> Result<Vec<SessionId>, LimitReached> {
        let is_expired =
            |session: &Session| session.is_idle() && now.saturating_duration_since(session.used_at) > IDLE_MAX;
        let all = || self.by_id.values();
        let shares = shares(all().map(|session| session.allocation));
        if shares.may_take(allocation, 1) {
            return Ok(Vec::new());
        }
        let without = self::shares(all().filter(|session| !is_expired(session)).map(|session| session.allocation));
        if without.may_take(allocation, 1) {
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
            let way_out = "end one with DELETE, or wait until one is idle";
            LimitReached(fair_share::limit_reached("sessions", allocation.map(|_| held), SESSIONS_MAX, way_out))
        })
    }

    /// Whether there is room for one more listener of an allocation.
    ///
    /// # Errors
    /// There is none.
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

    /// Every resource that somebody hears of.
    pub(crate) fn subscriptions(&self) -> BTreeSet<Arc<str>> {
        let of_sessions = self.by_id.values().flat_map(|session| &session.subscriptions);
        let of_listeners = self.listeners.values().flat_map(|listener| &listener.filter.resource_subscriptions);
        of_sessions.chain(of_listeners).cloned().collect()
    }

    /// The least grave level that a session asked for.
    pub(crate) fn level(&self) -> Option<LogLevel> {
        self.by_id.values().filter_map(|session| session.level).min()
    }
}

/// Why there is no room for one more, in words.
#[derive(Debug)]
pub(crate) struct LimitReached(pub(crate) String);

/// Who has how many, given whose each is.
fn shares(holders: impl Iterator<Item = Option<AllocationId>>) -> FairShares<AllocationId> {
    let mut shares = FairShares::new(SESSIONS_MAX);
    holders.for_each(|holder| shares.add(holder, 1));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_make_room_and_the_busy_do_not() {
        let mut sessions = Sessions::default();
        let start = Instant::now();
        let ids: Vec<_> = (0..SESSIONS_MAX as u64)
            .map(|second| {
                assert!(sessions.select_evicted(None, start).expect("room").is_empty());
                sessions.insert(None, start + Duration::from_secs(second))
            })
            .collect();
        assert_eq!(sessions.select_evicted(None, start).expect("an idle one"), [ids[0]]);
        sessions.by_id.get_mut(&ids[0]).expect("there").calls = 1;
        assert_eq!(sessions.select_evicted(None, start).expect("an idle one"), [ids[1]]);
        let later = start + IDLE_MAX + Duration::from_millis(2_500);
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
    fn a_lease_at_its_share_ends_its_own_and_one_without_any_finds_room() {
        let mut sessions = Sessions::default();
        let lease = |draw| Some(AllocationId::from_draw(draw));
        let start = Instant::now();
        let open = |sessions: &mut Sessions, draw: u64, second: u64| {
            let ended = sessions.select_evicted(lease(draw), start).expect("room");
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
        let later = start + IDLE_MAX + Duration::from_secs(200);
        assert_eq!(sessions.select_evicted(lease(1), later).expect("one idle for long"), [modest], "whoever's it is");
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
