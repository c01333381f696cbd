//! Identities: names that clients choose, and ids and numbers that the lease machine gives.

use super::text::from_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The most characters of a name that a client chooses.
pub const NAME_CHARACTERS_MAX: usize = 256;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to {NAME_CHARACTERS_MAX} characters and no control characters")]
pub struct NotAName;

fn checked(text: &str) -> Result<Arc<str>, NotAName> {
    // The length in bytes bounds the count of characters from above, so that a huge text is not walked.
    let short_enough = text.len() <= NAME_CHARACTERS_MAX
        || (text.len() <= 4 * NAME_CHARACTERS_MAX && text.chars().count() <= NAME_CHARACTERS_MAX);
    if text.is_empty() || !short_enough || text.chars().any(char::is_control) {
        return Err(NotAName);
    }
    Ok(Arc::from(text))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 256 characters, no control characters; cloning shares the text.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads a name.
            ///
            /// # Errors
            /// [`NotAName`] if it is empty, too long or has control characters.
            pub fn new(text: &str) -> Result<Self, NotAName> {
                checked(text).map(Self)
            }

            /// The text of the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer, Self::new)
            }
        }
    };
}

name!(
    /// The job that holds a lease, named by its client.
    JobId
);
name!(
    /// The name of an MCP server, such as `filesystem`.
    ServerName
);
name!(
    /// A client's own key for a request, by which a repeat is known as one.
    RequestId
);
name!(
    /// A machine, or a part of one, with capacity and ports.
    NodeId
);

name!(
    /// An agent: a worker that registered itself and is handed tasks.
    AgentId
);
name!(
    /// What kind of agent one is, such as `backend`.
    AgentType
);
name!(
    /// Something that an agent can do and a task may need, such as `rust`.
    Capability
);
name!(
    /// A task, named by its client or by us.
    TaskId
);
name!(
    /// What tasks have in common that belong in one pair of hands.
    BatchKey
);

impl TaskId {
    /// The id made of the low 48 bits of `draw`: `task-` and 12 hex digits.
    #[must_use]
    pub fn from_draw(draw: u64) -> Self {
        Self(Arc::from(format!("task-{:012x}", draw & AllocationId::BITS)))
    }
}

impl NodeId {
    /// The node that this process runs on, unless told otherwise.
    #[must_use]
    pub fn local() -> Self {
        Self(Arc::from("local"))
    }
}

/// The id of an allocation: 48 bits, written `alloc-` and 12 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(u64);

/// Why a text is no allocation id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("an allocation id is `alloc-` and 12 hex digits")]
pub struct NotAnAllocationId;

impl AllocationId {
    const BITS: u64 = (1 << 48) - 1;

    /// The id made of the low 48 bits of `draw`.
    #[must_use]
    pub const fn from_draw(draw: u64) -> Self {
        Self(draw & Self::BITS)
    }

    /// The id after this one, round the end.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::from_draw(self.0 + 1)
    }

    /// Its text, made without the machinery of formatting: every event has one.
    fn with_text<T>(self, with: impl FnOnce(&str) -> T) -> T {
        let mut text = *b"alloc-000000000000";
        let mut bits = self.0;
        for digit in text[6..].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(bits & 0xf) as usize];
            bits >>= 4;
        }
        // All of it is ASCII.
        with(std::str::from_utf8(&text).unwrap_or_default())
    }

    /// Its 48 bits.
    pub(super) const fn as_bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl FromStr for AllocationId {
    type Err = NotAnAllocationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("alloc-").ok_or(NotAnAllocationId)?;
        // Only the spelling that is handed out is an id: one lease, one name.
        let well_formed = digits.len() == 12 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = if well_formed { u64::from_str_radix(digits, 16).ok() } else { None };
        bits.map(Self).ok_or(NotAnAllocationId)
    }
}

impl Serialize for AllocationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> Deserialize<'de> for AllocationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, str::parse)
    }
}

/// A number given to each grant, larger than every one before.
///
/// Whoever guards a thing that leases protect keeps the largest token seen and refuses a smaller one. A renewal keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token of the first grant.
    pub const FIRST: Self = Self(1);

    /// The token with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The token of the grant after this one. The last there is stays the last: no grant reaches it, but a reader may name it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A task's place among all that were ever submitted, counted from 1: the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskNumber(u64);

impl TaskNumber {
    /// The number of the first task.
    pub const FIRST: Self = Self(1);

    /// The task with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One run of an MCP server: a name that stops and starts again is another instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerInstanceId(u64);

impl ServerInstanceId {
    /// The id of the first instance.
    pub const FIRST: Self = Self(1);

    /// The instance with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A worker's number within its job, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerNumber(pub u64);

impl WorkerNumber {
    /// The worker's id within `job`: `worker-{job}-{nnn}`, with more digits where three do not do.
    #[must_use]
    pub fn worker_id(self, job: &JobId) -> String {
        format!("worker-{job}-{:03}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_bounds() {
        let check = |text: &str, good: bool| assert_eq!(JobId::new(text).is_ok(), good, "{text:?}");
        check("a", true);
        check(&"a".repeat(256), true);
        check(&"é".repeat(256), true);
        check(&"𝄞".repeat(256), true);
        check("", false);
        check(&"a".repeat(257), false);
        check(&"𝄞".repeat(257), false);
        check("a\nb", false);
        check("a\u{0}b", false);
        check("\u{85}", false);
    }

    #[test]
    fn an_allocation_id_has_one_spelling() {
        let check = |text: &str, good: bool| assert_eq!(text.parse::<AllocationId>().is_ok(), good, "{text:?}");
        check("alloc-0123456789ab", true);
        check("alloc-0123456789AB", false);
        check("alloc-0123456789a", false);
        check("alloc-0123456789abc", false);
        check("alloc-+12345678901", false);
        check("0123456789ab", false);
        check("nonexistent-id", false);
        let id = AllocationId::from_draw(0xffff_0123_4567_89ab);
        assert_eq!(id.to_string(), "alloc-0123456789ab");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(AllocationId::from_draw(u64::MAX).next(), AllocationId::from_draw(0));
    }

    #[test]
    fn workers_are_numbered_from_000_on() {
        let job = JobId::new("job-001").expect("a name");
        assert_eq!(WorkerNumber(0).worker_id(&job), "worker-job-001-000");
        assert_eq!(WorkerNumber(1234).worker_id(&job), "worker-job-001-1234");
    }
}
