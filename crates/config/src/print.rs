//! Prints the effective settings with their sources, as a file that `--config` accepts.

use std::fmt::Write as _;

use super::{Configuration, SETTINGS, Source};

/// Returns the settings as TOML, each with its help and allowed values above it and its source after it.
pub(super) fn to_toml(configuration: &Configuration) -> String {
    let mut page = String::new();
    for setting in SETTINGS {
        let source = configuration.source(setting.key);
        // Writing into a string cannot fail.
        let _ = writeln!(page, "# {}. Give {}.", setting.help, setting.allowed());
        let Some(value) = setting.show(&configuration.settings) else {
            let _ = writeln!(page, "# {} = \"\" # {source}", setting.key);
            continue;
        };
        // A setting that follows another one stays a comment, so that it is not fixed to that one's current value.
        let follows = matches!(source, Source::Default) && setting.follows.is_some();
        let comment = if follows { "# " } else { "" };
        let _ = writeln!(page, "{comment}{} = {value} # {source}", setting.key);
    }
    page
}
