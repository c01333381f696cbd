//! The settings, from their table.

use super::cell;
use cortex_config::{SETTINGS, flag_of, variable_of};
use std::fmt::Write;

pub(super) fn page() -> String {
    let mut page = "# Settings\n\nEach setting is a flag, an environment variable and a key of the TOML file that \
        `--config` names. A flag wins over its variable, a variable over the file, and the file over the default. \
        Unknown keys of the file are refused; unknown variables are not.\n"
        .to_owned();
    for setting in SETTINGS {
        let (key, flag, variable) = (setting.key, flag_of(setting.key), variable_of(setting.key));
        let _ = write!(page, "\n## `{key}`\n\n{}.\n\n", setting.help);
        let _ = writeln!(page, "| flag | variable | default | allowed |\n|---|---|---|---|");
        let (default, allowed) = (cell(&setting.default_text()), cell(&setting.allowed()));
        let _ = writeln!(page, "| `{flag}` | `{variable}` | `{default}` | {allowed} |");
    }
    page
}
