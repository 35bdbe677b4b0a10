//! The text of a JSON line.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// The string field `field` of the object that `line` is; `None` when there is no such field or it
/// is no string. If there are several, the last one counts.
pub(super) fn text_of(line: &str, field: &str) -> serde_json::Result<Option<String>> {
    let mut json = serde_json::Deserializer::from_str(line);
    let text = (&mut json).deserialize_map(Object { field })?;
    json.end()?;
    Ok(text)
}

/// Reads one field of an object and passes over the others.
struct Object<'f> {
    field: &'f str,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(found) = map.next_key_seed(Key(self.field))? {
            if found {
                text = match map.next_value()? {
                    Field::Text(text) => Some(text),
                    Field::Other(_) => None,
                };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(text)
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Field {
    Text(String),
    Other(IgnoredAny),
}

/// Whether a key is this one.
struct Key<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn one_field_is_read() {
        let text = |line| text_of(line, "text").unwrap();
        assert_eq!(
            text(r#"{"a": [1, {"text": "no"}], "text": "x\ny"}"#).as_deref(),
            Some("x\ny")
        );
        assert_eq!(text(r#"{"text": "1", "text": "2"}"#).as_deref(), Some("2"));
        assert_eq!(text(r#"{"te\u0078t": "escaped"} "#).as_deref(), Some("escaped"));
        for other in [
            r#"{}"#,
            r#"{"text": null}"#,
            r#"{"text": {"text": "in"}}"#,
            r#"{"text": 1.5}"#,
        ] {
            assert_eq!(text(other), None, "{other}");
        }
        for bad in [
            "",
            "[1]",
            "\"text\"",
            r#"{"text": "x"} 1"#,
            r#"{"text": "x"#,
            r#"{"text": "\ud800"}"#,
        ] {
            assert!(text_of(bad, "text").is_err(), "{bad}");
        }
    }
}
