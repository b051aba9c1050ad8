//! In what two records differ, field by field, in words.

use serde::Serialize;
use serde_json::Value;

/// Words in what `found` differs from `expected`, field by field. Fields that `expected` doesn't have may hold
/// anything.
pub fn differences(expected: &impl Serialize, found: &impl Serialize) -> Vec<String> {
    fn compare(field: &str, expected: &Value, found: &Value, differences: &mut Vec<String>) {
        if let (Value::Object(expected), Value::Object(found)) = (expected, found) {
            for (name, expected) in expected {
                let found = found.get(name).unwrap_or(&Value::Null);
                let field = if field.is_empty() {
                    name.clone()
                } else {
                    format!("{field}.{name}")
                };
                compare(&field, expected, found, differences);
            }
        } else if expected != found {
            differences.push(format!("{field} is {found}, where {expected} is expected"));
        }
    }

    let [expected, found] = [
        serde_json::to_value(expected).expect("plain data is always JSON"),
        serde_json::to_value(found).expect("plain data is always JSON"),
    ];
    let mut differences = Vec::new();
    compare("", &expected, &found, &mut differences);
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_field() {
        let expected = json!({ "a": { "b": 1, "c": [1, 2] }, "d": null });
        assert_eq!(differences(&expected, &expected), [""; 0]);
        let found = json!({ "a": { "b": 2, "c": [1, 2], "more": 1 }, "d": { "e": 1 } });
        assert_eq!(
            differences(&expected, &found),
            [
                "a.b is 2, where 1 is expected",
                "d is {\"e\":1}, where null is expected"
            ]
        );
        assert_eq!(
            differences(&expected, &json!({ "d": null })),
            ["a is null, where {\"b\":1,\"c\":[1,2]} is expected"]
        );
    }
}
