//! Identifiers: names that clients choose, and ids and numbers that the lease machine assigns.

use super::text::from_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The most characters of a name that a client chooses.
pub const NAME_CHARACTERS_MAX: usize = 256;

/// Why a text is not a valid name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to {NAME_CHARACTERS_MAX} characters and no control characters")]
pub struct InvalidName;

fn checked(text: &str) -> Result<Arc<str>, InvalidName> {
    // The number of characters is at least a quarter of the number of bytes, so a huge text is rejected without being
    // scanned.
    let is_short = text.len() <= NAME_CHARACTERS_MAX
        || (text.len() <= 4 * NAME_CHARACTERS_MAX && text.chars().count() <= NAME_CHARACTERS_MAX);
    if text.is_empty() || !is_short || text.chars().any(char::is_control) {
        return Err(InvalidName);
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
            /// Checks a name.
            ///
            /// # Errors
            /// [`InvalidName`] if it is empty, too long or has control characters.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                checked(text).map(Self)
            }

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
    /// A client's own key for a request. A repeat with the same key returns the first grant.
    RequestId
);
name!(
    /// A machine, or a part of one, with capacity and ports.
    NodeId
);

name!(
    /// An agent: a worker that registered itself and receives tasks.
    AgentId
);
name!(
    /// The type of an agent, such as `backend`.
    AgentType
);
name!(
    /// A skill that an agent has and a task may require, such as `rust`.
    Capability
);
name!(
    /// A task, named by its client or by the manager.
    TaskId
);
name!(
    /// The key of a batch: tasks that the same agent should do.
    BatchKey
);

impl TaskId {
    /// Returns the id made of the low 48 bits of `bits`: `task-` and 12 hex digits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(Arc::from(format!("task-{:012x}", bits & AllocationId::BITS)))
    }
}

impl NodeId {
    /// Returns the node that this process runs on by default.
    #[must_use]
    pub fn local() -> Self {
        Self(Arc::from("local"))
    }
}

/// The id of an allocation: 48 bits, written `alloc-` and 12 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(u64);

/// Why a text is not an allocation id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("an allocation id is `alloc-` and 12 hex digits")]
pub struct InvalidAllocationId;

impl AllocationId {
    const BITS: u64 = (1 << 48) - 1;

    /// Returns the id made of the low 48 bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::BITS)
    }

    /// Returns the id after this one; the first follows the last.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::from_bits(self.0 + 1)
    }

    /// Calls `with` with the text. It is made without `fmt`, which is slower: almost every event has an id.
    fn with_text<T>(self, with: impl FnOnce(&str) -> T) -> T {
        let mut text = *b"alloc-000000000000";
        let mut bits = self.0;
        for digit in text[6..].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(bits & 0xf) as usize];
            bits >>= 4;
        }
        // All bytes are ASCII.
        with(std::str::from_utf8(&text).unwrap_or_default())
    }

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
    type Err = InvalidAllocationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("alloc-").ok_or(InvalidAllocationId)?;
        // Other spellings are rejected, so that a lease has exactly one name.
        let is_well_formed = digits.len() == 12 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = if is_well_formed { u64::from_str_radix(digits, 16).ok() } else { None };
        bits.map(Self).ok_or(InvalidAllocationId)
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
/// A resource that leases protect keeps the largest token it has seen, and rejects a smaller one. A renewal keeps the
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token of the first grant.
    pub(super) const FIRST: Self = Self(1);

    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the token of the next grant. Saturates: no grant reaches the last token, but a reader may name it.
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

/// A task's sequence number among all that were ever submitted, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskNumber(u64);

impl TaskNumber {
    /// The number of the first task.
    pub(super) const FIRST: Self = Self(1);

    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One instance of an MCP server: a server that stops and starts again is another instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerInstanceId(u64);

impl ServerInstanceId {
    /// The id of the first instance.
    pub(super) const FIRST: Self = Self(1);

    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

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
    /// Returns the worker's id: `worker-{job}-{nnn}`, with more digits for numbers from 1000 on.
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
        let id = AllocationId::from_bits(0xffff_0123_4567_89ab);
        assert_eq!(id.to_string(), "alloc-0123456789ab");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(AllocationId::from_bits(u64::MAX).next(), AllocationId::from_bits(0));
    }

    #[test]
    fn workers_are_numbered_from_000_on() {
        let job = JobId::new("job-001").expect("a name");
        assert_eq!(WorkerNumber(0).worker_id(&job), "worker-job-001-000");
        assert_eq!(WorkerNumber(1234).worker_id(&job), "worker-job-001-1234");
    }
}
