//! The settings in force, written so that a person can read where each came from and a start can read them again.

use std::fmt::Write as _;

use super::{Configuration, SETTINGS, Source};

/// The settings as TOML: above each what it is and what it may be, behind each where its value came from.
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
        // What follows another setting is not pinned to what that one is now.
        let follows = matches!(source, Source::Default) && setting.follows.is_some();
        let mark = if follows { "# " } else { "" };
        let _ = writeln!(page, "{mark}{} = {value} # {source}", setting.key);
    }
    page
}
