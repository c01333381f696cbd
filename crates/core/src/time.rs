//! Moments and spans of time. The core reads no clock: the caller passes the time.

mod canonical;

use super::text::from_text;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// A moment in milliseconds since 1970-01-01T00:00:00Z.
///
/// It is stored as a number that is never zero and has the same order, so that an optional moment takes no more
/// memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

/// Flips the sign bit, which maps the order of signed numbers to that of unsigned ones.
const SIGN: u64 = 1 << 63;

impl Timestamp {
    /// The earliest moment.
    pub const MIN: Self = Self::from_millis(i64::MIN);
    /// The earliest moment that RFC 3339 can express, 0000-01-01T00:00:00Z. An event cannot be written with an
    /// earlier one.
    pub const WRITABLE_MIN: Self = Self::from_millis(-62_167_219_200_000);

    /// Returns the moment `millis` milliseconds after 1970-01-01T00:00:00Z. The smallest number gives
    /// [`Timestamp::MIN`].
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        match NonZeroU64::new(millis.cast_unsigned() ^ SIGN) {
            Some(kept) => Self(kept),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Returns the moment `time` after 1970-01-01T00:00:00Z, as the system's clock reports it. Saturates at the last
    /// moment.
    #[must_use]
    pub fn since_1970(time: Duration) -> Self {
        Self::from_millis(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
    }

    #[must_use]
    pub const fn as_millis(self) -> i64 {
        (self.0.get() ^ SIGN).cast_signed()
    }

    /// Returns a number that has the order of the moments.
    #[must_use]
    pub(super) const fn as_ordered(self) -> u64 {
        self.0.get()
    }

    /// Returns the moment `span` later. Saturates at the last moment.
    #[must_use]
    pub fn after(self, span: Millis) -> Self {
        Self::from_millis(self.as_millis().saturating_add(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }

    /// Returns the moment `span` earlier. Saturates at the first moment.
    #[must_use]
    pub fn before(self, span: Millis) -> Self {
        Self::from_millis(self.as_millis().saturating_sub(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }

    /// Returns the time since `earlier`; zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis(u64::try_from(self.as_millis().saturating_sub(earlier.as_millis())).unwrap_or(0))
    }

    /// Returns the text for any year.
    fn any_text(self) -> String {
        let ends = if self.as_millis() < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
        let moment = DateTime::<Utc>::from_timestamp_millis(self.as_millis()).unwrap_or(ends);
        moment.to_rfc3339_opts(SecondsFormat::Millis, true)
    }
}

impl Default for Timestamp {
    /// Returns 1970-01-01T00:00:00Z.
    fn default() -> Self {
        Self::from_millis(0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timestamp").field(&self.as_millis()).finish()
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with milliseconds and a `Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match canonical::text(self.as_millis()) {
            Some(text) => f.write_str(canonical::as_str(&text)),
            None => f.write_str(&self.any_text()),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match canonical::text(self.as_millis()) {
            Some(text) => serializer.serialize_str(canonical::as_str(&text)),
            None => serializer.serialize_str(&self.any_text()),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = |text: &str| text.parse().map_err(|error| format!("{text:?} is not an RFC 3339 time: {error}"));
        from_text(deserializer, read)
    }
}

impl FromStr for Timestamp {
    type Err = chrono::ParseError;

    /// Reads RFC 3339. Digits beyond milliseconds are cut off.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match canonical::millis(text) {
            Some(millis) => Ok(Self::from_millis(millis)),
            None => DateTime::parse_from_rfc3339(text).map(|moment| Self::from_millis(moment.timestamp_millis())),
        }
    }
}

/// A span of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Returns the whole seconds, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Returns the whole seconds, rounded up.
    #[must_use]
    pub const fn as_seconds_ceil(self) -> u64 {
        self.0.div_ceil(1000)
    }
}

/// The time to live of a lease, in seconds; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct TtlSeconds(u64);

impl TtlSeconds {
    /// Returns the time to live, or `None` for 0: a lease cannot end before it begins.
    #[must_use]
    pub const fn new(seconds: u64) -> Option<Self> {
        if seconds == 0 { None } else { Some(Self(seconds)) }
    }

    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0
    }

    #[must_use]
    pub const fn as_millis(self) -> Millis {
        Millis::from_seconds(self.0)
    }
}

impl TryFrom<u64> for TtlSeconds {
    type Error = &'static str;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        Self::new(seconds).ok_or("a time to live is at least 1 second")
    }
}

impl From<TtlSeconds> for u64 {
    fn from(ttl: TtlSeconds) -> Self {
        ttl.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_spelling_is_that_of_chrono() {
        let check = |millis: i64| {
            let moment = Timestamp::from_millis(millis);
            let text = moment.any_text();
            assert_eq!(moment.to_string(), text, "{millis}");
            assert_eq!(canonical::millis(&text), canonical::text(millis).map(|_| millis), "{text}");
        };
        let last = 253_402_300_799_999;
        for edge in [Timestamp::WRITABLE_MIN.as_millis(), last, 0, i64::MIN, i64::MAX, 951_782_400_000, 68_256_000_000]
        {
            (-2..=2).for_each(|by| check(edge.saturating_add(by)));
        }
        // Every day of 800 years, which covers each kind of leap year, at varying times of the day.
        (0..292_200_i64).for_each(|day| check((day - 100_000) * 86_400_000 + day * 7_919 % 86_400_000));
        // Moments of all years.
        (0..10_000).for_each(|step| check(Timestamp::WRITABLE_MIN.as_millis() + step * 31_550_000_037));
    }

    #[test]
    fn every_other_spelling_is_left_to_chrono() {
        let good = "2024-02-29T23:59:59.999Z";
        assert_eq!(canonical::millis(good), Some(1_709_251_199_999));
        for at in 0..good.len() {
            for byte in (0..128).map(char::from) {
                let text = format!("{}{byte}{}", &good[..at], &good[at + 1..]);
                let chrono = DateTime::parse_from_rfc3339(&text).ok().map(|moment| moment.timestamp_millis());
                assert_eq!(text.parse().ok().map(Timestamp::as_millis), chrono, "{text}");
                assert!(canonical::millis(&text).is_none_or(|millis| Some(millis) == chrono), "{text}");
            }
        }
        for text in [
            "",
            "2023-02-29T00:00:00.000Z",
            "2024-04-31T00:00:00.000Z",
            "2016-12-31T23:59:60.000Z",
            "2024-02-29T24:00:00.000Z",
            "2024-02-29T23:59:59.99Z",
            "2024-02-29T23:59:59.9999Z",
            "2024-02-29T23:59:59Z",
        ] {
            assert_eq!(canonical::millis(text), None, "{text}");
        }
    }

    #[test]
    fn a_moment_reads_as_rfc_3339_in_utc_and_back() {
        let moment = Timestamp::from_millis(1_765_220_400_123);
        assert_eq!(moment.to_string(), "2025-12-08T19:00:00.123Z");
        let read: Timestamp = serde_json::from_str("\"2025-12-08T19:00:00.123Z\"").expect("a time");
        assert_eq!(read, moment);
        let _ = Timestamp::MIN.to_string();
    }

    #[test]
    fn spans_never_go_below_zero_or_over_the_end() {
        let early = Timestamp::from_millis(5);
        let late = Timestamp::from_millis(1_005);
        assert_eq!(late.since(early).as_seconds(), 1);
        assert_eq!(early.since(late), Millis(0));
        assert_eq!(late.after(Millis(u64::MAX)), Timestamp::from_millis(i64::MAX));
        assert_eq!(Millis(1_001).as_seconds_ceil(), 2);
        assert_eq!(TtlSeconds::new(0), None);
    }
}
