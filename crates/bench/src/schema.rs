//! JSON Schemas of what this program writes, made from the types that write it; `docs/schema/` holds them.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::ablate::report::AblationReport;
use crate::report::Report;
use crate::serve::record::RequestLine;
use crate::serve::report::ServeReport;

/// The schemas, with the names of their files in `docs/schema/`.
pub fn all() -> [(&'static str, Value); 4] {
    [
        ("report.v1.json", of::<Report>()),
        ("ablation.v1.json", of::<AblationReport>()),
        ("serve.v1.json", of::<ServeReport>()),
        ("serve-request.v1.json", of::<RequestLine<'static>>()),
    ]
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sample;

    /// `BENCH_WRITE_SCHEMAS=1 cargo test -p bench schema` writes them.
    #[test]
    fn the_published_schemas_are_those_of_the_code() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
        for (name, schema) in all() {
            let path = folder.join(name);
            let text = format!("{schema:#}\n");
            if std::env::var_os("BENCH_WRITE_SCHEMAS").is_some() {
                std::fs::create_dir_all(&folder)
                    .and_then(|()| std::fs::write(&path, &text))
                    .expect("writes");
            }
            let published = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                published == text,
                "docs/schema/{name} is not what the code writes; see this test"
            );
        }
    }

    /// Whether `value` is of the schema, for the keywords that the schemas use.
    fn check(schema: &Value, root: &Value, value: &Value, path: &str) -> Result<(), String> {
        let fail = |why: &str| Err(format!("{path}: {why}: {value:.80} is not {schema:.200}"));
        if let Some(reference) = schema["$ref"].as_str() {
            let target = root.pointer(reference.trim_start_matches('#'));
            check(
                target.ok_or_else(|| format!("{reference} leads nowhere"))?,
                root,
                value,
                path,
            )?;
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(choices) = schema[choice].as_array()
                && !choices.iter().any(|choice| check(choice, root, value, path).is_ok())
            {
                return fail(choice);
            }
        }
        let is = |name: &str| match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "integer" => value.is_i64() || value.is_u64(),
            _ => value.is_number(),
        };
        let named = match &schema["type"] {
            Value::String(name) => is(name),
            Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
            _ => true,
        };
        let listed = schema["enum"].as_array().is_none_or(|allowed| allowed.contains(value));
        let fixed = schema.get("const").is_none_or(|only| only == value);
        if !named || !listed || !fixed {
            return fail("type, enum or const");
        }
        if let Some(object) = value.as_object() {
            for name in schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if !object.contains_key(name) {
                    return fail(name);
                }
            }
            for (name, value) in object {
                let of = schema["properties"]
                    .get(name)
                    .or_else(|| schema.get("additionalProperties"));
                if let Some(of) = of.filter(|of| of.is_object()) {
                    check(of, root, value, &format!("{path}.{name}"))?;
                }
            }
        }
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            if schema["items"].is_object() {
                check(&schema["items"], root, item, &format!("{path}[{i}]"))?;
            }
        }
        Ok(())
    }

    #[test]
    fn reports_are_of_their_schemas_and_others_are_not() {
        let [(_, compared), (_, ablated), (_, served), _] = all();
        let report = serde_json::to_value(sample::report()).expect("serializes");
        check(&compared, &compared, &report, "").expect("the report is of its schema");
        let load = serde_json::to_value(sample::serve_report()).expect("serializes");
        check(&served, &served, &load, "").expect("the report is of its schema");
        let ablation = serde_json::to_value(sample::ablation_report()).expect("serializes");
        check(&ablated, &ablated, &ablation, "").expect("the report is of its schema");
        assert!(check(&served, &served, &report, "").is_err() && check(&ablated, &ablated, &load, "").is_err());
        for (place, wrong) in [
            ("/environment/seed", "one".into()),
            ("/arms/0/role", "other".into()),
            ("/goals", Value::Null),
        ] {
            let mut report = report.clone();
            *report.pointer_mut(place).expect(place) = wrong;
            assert!(check(&compared, &compared, &report, "").is_err(), "{place}");
        }
    }
}
