//! The canonical spelling of a moment, `2026-01-01T00:00:00.000Z`. Every event has at least one, and a recovery reads
//! millions, so it is read and written without `chrono`. Other spellings, and years outside 0 to 9999, are left to
//! `chrono`.

const SHAPE: &[u8; 24] = b"0000-00-00T00:00:00.000Z";

const DAY_MILLIS: i64 = 86_400_000;

/// Days from 0000-03-01 to 1970-01-01. Years begin in March here, so that the leap day is the last day of its year.
const DAYS_TO_1970: i64 = 719_468;

/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// Returns the text of a moment, or `None` if its year does not have four digits.
pub(super) fn text(millis: i64) -> Option<[u8; 24]> {
    if !(-62_167_219_200_000..=253_402_300_799_999).contains(&millis) {
        return None;
    }
    let (day, millis) = (millis.div_euclid(DAY_MILLIS) + DAYS_TO_1970, millis.rem_euclid(DAY_MILLIS));
    let (era, day) = (day.div_euclid(ERA_DAYS), day.rem_euclid(ERA_DAYS));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months of 31, 30, 31, 30 and 31 days repeat.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let mut text = *SHAPE;
    put(&mut text[0..4], 400 * era + year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], millis / 3_600_000);
    put(&mut text[14..16], millis / 60_000 % 60);
    put(&mut text[17..19], millis / 1_000 % 60);
    put(&mut text[20..23], millis % 1_000);
    Some(text)
}

/// Returns a text made by [`text`].
pub(super) fn as_str(text: &[u8; 24]) -> &str {
    // All bytes are ASCII.
    std::str::from_utf8(text).unwrap_or_default()
}

/// Returns the moment of a text, or `None` if it is spelled differently or does not exist.
pub(super) fn millis(text: &str) -> Option<i64> {
    let text: &[u8; 24] = text.as_bytes().try_into().ok()?;
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    if !text.iter().zip(SHAPE).all(fits) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| 10 * number + i64::from(digit - b'0'));
    let (year, month, day) = (number(&text[0..4]), number(&text[5..7]), number(&text[8..10]));
    let (hour, minute, second) = (number(&text[11..13]), number(&text[14..16]), number(&text[17..19]));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_moment = (1..=12).contains(&month) && (1..=month_days).contains(&day);
    if !is_moment || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day = era * ERA_DAYS + 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970;
    Some((((day * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + number(&text[20..23]))
}

fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
