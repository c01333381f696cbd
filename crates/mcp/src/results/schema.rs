//! Output schemas, in a form that all clients accept.

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde_json::Value;

/// Returns the output schema of a result, in the plain form that all clients accept.
pub(crate) fn output_schema<T: JsonSchema>() -> JsonObject {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().for_serialize().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    match schema {
        Value::Object(mut object) => {
            // MCP requires an object at the top, also where a result has several shapes.
            object.remove("$schema");
            object.remove("title");
            object.entry("type").or_insert_with(|| Value::from("object"));
            object
        }
        _ => JsonObject::new(),
    }
}

/// Removes what some clients reject: number formats that they do not know, and `null` for a field that is left out
/// rather than null.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("format");
            let required = object.get("required").cloned().unwrap_or_default();
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                for (name, property) in properties {
                    let is_required =
                        required.as_array().is_some_and(|names| names.contains(&Value::from(name.as_str())));
                    if let Some(types) = property.get_mut("type")
                        && !is_required
                        && let Some(plain) = types.as_array().and_then(|t| t.iter().find(|t| *t != "null")).cloned()
                    {
                        *types = plain;
                    }
                }
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
