//! The settings in force, written so that a person can read where each came from and a start can read them again.

use std::fmt::Write as _;

use super::{Configuration, SETTINGS};

/// The settings as TOML: above each what it is and what it may be, behind each where its value came from.
pub(super) fn to_toml(configuration: &Configuration) -> String {
    let mut page = String::new();
    for setting in SETTINGS {
        let value = setting.show(&configuration.settings);
        let source = configuration.source(setting.key);
        // Writing into a string cannot fail.
        let _ = writeln!(page, "# {}. Give {}.", setting.help, setting.allowed());
        let _ = writeln!(page, "{} = {value} # {source}", setting.key);
    }
    page
}
