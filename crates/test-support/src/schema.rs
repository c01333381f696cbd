//! A checker for the part of JSON Schema that the tools' schemas use. It fails for an unknown keyword, so that a
//! schema cannot use one unchecked.

use serde_json::{Map, Value};

/// Keywords that restrict nothing.
const NOTES: [&str; 7] = ["$schema", "$defs", "title", "description", "default", "examples", "format"];

/// Checks that a value fits a schema.
pub fn check(schema: &Value, value: &Value) {
    if let Err(reason) = fits(schema, value, schema) {
        panic!("{reason}\nvalue: {value:#}\nschema: {schema:#}");
    }
}

/// Returns whether the value fits the schema.
///
/// # Errors
/// The first reason why it does not fit.
pub fn fits(schema: &Value, value: &Value, root: &Value) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else {
        return if schema == &Value::Bool(true) { Ok(()) } else { Err(format!("{schema} is no schema")) };
    };
    keywords.iter().try_for_each(|(keyword, rule)| fits_keyword(keyword, rule, value, keywords, root))
}

fn fits_keyword(
    keyword: &str,
    rule: &Value,
    value: &Value,
    keywords: &Map<String, Value>,
    root: &Value,
) -> Result<(), String> {
    let fail = || Err(format!("{value} breaks {keyword} {rule}"));
    let holds = match keyword {
        "type" => match rule {
            Value::Array(types) => types.iter().any(|one| has_type(one, value)),
            one => has_type(one, value),
        },
        "anyOf" | "oneOf" => items(rule).iter().any(|option| fits(option, value, root).is_ok()),
        "$ref" => {
            let pointer = rule.as_str().unwrap_or_default().trim_start_matches('#');
            return fits(root.pointer(pointer).ok_or_else(|| format!("{rule} leads nowhere"))?, value, root);
        }
        "enum" => items(rule).contains(value),
        "const" => rule == value,
        "required" => value
            .as_object()
            .is_none_or(|object| items(rule).iter().all(|key| object.contains_key(key.as_str().unwrap_or_default()))),
        "properties" => {
            let (Some(properties), Some(object)) = (rule.as_object(), value.as_object()) else { return Ok(()) };
            return properties
                .iter()
                .filter_map(|(key, schema)| Some((schema, object.get(key)?)))
                .try_for_each(|(schema, member)| fits(schema, member, root));
        }
        "additionalProperties" => match (rule, value.as_object()) {
            (Value::Bool(false), Some(object)) => object.keys().all(|key| keywords["properties"].get(key).is_some()),
            _ => true,
        },
        "items" => return value.as_array().into_iter().flatten().try_for_each(|item| fits(rule, item, root)),
        "minimum" => value.as_f64().is_none_or(|number| Some(number) >= rule.as_f64()),
        "maximum" => value.as_f64().is_none_or(|number| Some(number) <= rule.as_f64()),
        "minLength" => value.as_str().is_none_or(|text| Some(text.chars().count() as u64) >= rule.as_u64()),
        "maxLength" => value.as_str().is_none_or(|text| Some(text.chars().count() as u64) <= rule.as_u64()),
        "maxItems" => value.as_array().is_none_or(|list| Some(list.len() as u64) <= rule.as_u64()),
        note if NOTES.contains(&note) => true,
        _ => return Err(format!("this checker does not know {keyword}")),
    };
    if holds { Ok(()) } else { fail() }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => false,
    }
}
