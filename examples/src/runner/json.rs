//! JSON that says each thing once.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};
use std::{collections::HashSet, fmt};

/// What `bytes` say.
///
/// # Errors
/// If they are no JSON of this form, or if a key stands twice in one object: most readers take the last one and are silent.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<Unique>(bytes)?;
    serde_json::from_slice(bytes)
}

/// Any value whose objects have each key once.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Unique>()?;
            if let Some(again) = keys.replace(key) {
                return Err(A::Error::custom(format!("the key {again:?} stands here twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Unique>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        let sound = br#"{"a": [{"b": 1, "c": null}, {"b": -2.5e300, "c": "d"}], "e": {"b": true}}"#;
        let value = json!({"a": [{"b": 1, "c": null}, {"b": -2.5e300, "c": "d"}], "e": {"b": true}});
        assert_eq!(parse::<Value>(sound).unwrap(), value);
        for twice in [&br#"{"a": 1, "b": 2, "a": 1}"#[..], br#"[{"x": {"a": 1, "\u0061": 2}}]"#] {
            let error = parse::<Value>(twice).unwrap_err().to_string();
            assert!(error.contains("the key \"a\" stands here twice"), "{error}");
        }
        assert!(parse::<Value>(b"{\"a\": 1} 2").is_err());
    }
}
