//! The environment of a child: built from an empty one, so that it has none of the manager's secrets.

use std::{collections::BTreeMap, ffi::OsString, io};

use crate::process::tree::{MARKER_VARIABLE, Marker};

/// The variables that a child inherits from the manager, if they are set there.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TMPDIR"];

/// Returns the whole environment: the inherited variables, overridden by the `named` ones, and the marker, which
/// nothing overrides.
///
/// # Errors
/// A name or a value that no variable can have. The error does not show the value.
pub(super) fn of(
    named: &[(String, String)],
    marker: Marker,
    variable: impl Fn(&str) -> Option<OsString>,
) -> io::Result<BTreeMap<OsString, OsString>> {
    let mut environment = BTreeMap::new();
    for name in INHERITED {
        if let Some(value) = variable(name) {
            environment.insert(name.into(), value);
        }
    }
    for (name, value) in named {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(refused(format!("{name:?} cannot be the name of a variable: remove \"=\" and NUL from it")));
        }
        if value.contains('\0') {
            return Err(refused(format!("the value of variable {name} contains a NUL character: remove it")));
        }
        environment.insert(name.into(), value.into());
    }
    environment.insert(MARKER_VARIABLE.into(), marker.to_string().into());
    Ok(environment)
}

fn refused(error: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MARKER: Marker = Marker { instance: Uuid::nil(), number: 3 };

    fn made(named: &[(&str, &str)]) -> io::Result<Vec<String>> {
        let own = |name: &str| ["PATH", "LANG", "SECRET"].contains(&name).then(|| OsString::from("own"));
        let named: Vec<_> = named.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let shown = |(name, value): (OsString, OsString)| format!("{}={}", name.display(), value.display());
        Ok(of(&named, MARKER, own)?.into_iter().map(shown).collect())
    }

    #[test]
    fn few_variables_are_inherited_and_named_ones_override_them() {
        let marker = "CORTEX_PROCESS_TREE=00000000-0000-0000-0000-000000000000/3";
        assert_eq!(made(&[]).expect("an environment"), [marker, "LANG=own", "PATH=own"]);
        let named = [("PATH", "x"), ("A", "b=c"), (MARKER_VARIABLE, "other"), ("A", "")];
        assert_eq!(made(&named).expect("an environment"), ["A=", marker, "LANG=own", "PATH=x"]);
    }

    #[test]
    fn an_invalid_variable_is_refused_without_showing_its_value() {
        let error = |name, value| made(&[(name, value)]).expect_err("no variable").to_string();
        assert!(error("", "secret").contains("\"\" cannot be"));
        assert!(error("a=b", "secret").contains("\"a=b\" cannot be"));
        let nul = error("TOKEN", "secret\0");
        assert!(nul.contains("TOKEN") && !nul.contains("secret"), "{nul}");
    }
}
