//! Suggestions for misspelt names.

/// Longer names are not compared, since the cost grows with the length and no known name is as long.
const NAME_CHARACTERS_MAX: usize = 64;

/// Returns the known name that is nearest to `given`, if it is near enough.
///
/// At most a third of the letters may be changed, swapped, added or missing. Case is ignored, and `-` equals `_`.
pub fn suggest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if given.chars().count() > NAME_CHARACTERS_MAX {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let given = plain(given);
    known
        .into_iter()
        .map(|name| (strsim::osa_distance(&given, &plain(name)), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
