use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn valid(text: &str) -> bool {
    let mut cursor = Cursor::new(text);
    cursor.skip().and_then(|_| cursor.end()).is_ok()
}

#[test]
fn what_is_json_passes_and_what_is_not_does_not() {
    for text in ["{}", "[]", " [1, -0.5e+3, \"a\\u00e9\\n\", true, null, {\"a\":{\"b\":[[]]}}] ", "0", "\"\""] {
        assert!(valid(text), "{text}");
    }
    for text in [
        "",
        "{",
        "[1,]",
        "{\"a\"}",
        "{\"a\":1,}",
        "01",
        "1.",
        "-",
        "tru",
        "\"a",
        "\"\\x\"",
        "\"\\u12g4\"",
        "[1]]",
        "{a:1}",
        "\"\u{1}\"",
        "[1 2]",
        "[,1]",
        "{\"a\":1]",
    ] {
        assert!(!valid(text), "{text}");
    }
}

#[test]
fn depth_is_bounded_without_recursion() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(valid(&nested(MAX_DEPTH)));
    assert!(!valid(&nested(MAX_DEPTH + 1)));
    assert!(!valid(&"{\"a\":".repeat(1_000_000)));
}

#[test]
fn half_a_surrogate_pair_is_replaced() {
    let decode = |text| Cursor::new(text).string().unwrap().decode().into_owned();
    assert_eq!(decode(r#""\ud83d\ude00""#), "😀");
    assert_eq!(decode(r#""\ud83dx""#), "\u{fffd}x");
    assert_eq!(decode(r#""\ude00\ud83d""#), "\u{fffd}\u{fffd}");
    assert_eq!(decode(r#""\ud83d\u0041""#), "\u{fffd}A");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn it_agrees_with_serde_json_on_any_bytes(text in "[\\[\\]{}\",:0-9eE+\\-.tfn\\\\u aé ]{0,24}") {
        let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
        prop_assert_eq!(valid(&text), expected, "{}", text);
    }

    #[test]
    fn values_are_skipped_whole(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let padded = format!(" {text} ,");
        prop_assert_eq!(Cursor::new(&padded).skip().unwrap(), 1..text.len() + 1);
    }

    #[test]
    fn strings_decode_as_they_were_written(text in any::<String>()) {
        let written = Value::from(text.as_str()).to_string();
        let (ascii, other) = Cursor::new(&written).string().unwrap().sizes();
        prop_assert_eq!(ascii + other, text.len() as u64);
        let read = Cursor::new(&written).string().unwrap().decode().into_owned();
        prop_assert_eq!(read, text);
    }
}
