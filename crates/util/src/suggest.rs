//! From a misspelt name to the one that was meant.

/// Names longer than this are not compared with the known ones: the cost grows with the length, and no name is as long.
const NAME_CHARACTERS_MAX: usize = 64;

/// The known name that `given` was most likely meant to be, if any is near enough.
///
/// Near is at most a third of the letters changed, swapped, added or left out. Case, and `-` for `_`, do not count.
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
