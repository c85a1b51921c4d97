//! The README's examples are resources, and leave nothing of a route out.

use super::{
    super::schema::{Message, Shape, ValueType},
    *,
};

const README: &str = include_str!("../../../../README.md");

fn examples() -> Vec<&'static str> {
    README.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn every_example_is_right() {
    assert!(examples().len() > 5);
    for example in examples() {
        let (parsed, problems) = parse_and_check("README.md", example);
        assert!(problems.is_empty() && !parsed.is_empty(), "{problems}\n{example}");
    }
}

#[test]
fn every_example_comes_back_as_it_was() {
    for example in examples() {
        let (parsed, _) = parse("README.md", example);
        let resources: Vec<_> = parsed.into_iter().map(|parsed| parsed.resource).collect();
        let (again, problems) = parse("f", &to_yaml(&resources));
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(again.into_iter().map(|parsed| parsed.resource).collect::<Vec<_>>(), resources);
    }
}

#[test]
fn every_field_of_a_route_has_an_example() {
    let routes: String = examples().into_iter().filter(|example| example.contains("kind: Route")).collect();
    let words: Vec<&str> = routes.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let mut missing = Vec::new();
    let mut seen = Vec::new();
    let mut open = vec![".tollgate.v1.RouteSpec".to_owned()];
    while let Some(message) = open.pop() {
        for field in Message::find(&message).fields() {
            if !words.contains(&field.name.as_str()) {
                missing.push(format!("{message}.{}", field.name));
            }
            let (Shape::One(value) | Shape::List(value) | Shape::Map(value)) = &field.shape;
            if let ValueType::Message(inner) = value
                && !seen.contains(inner)
            {
                seen.push(inner.clone());
                open.push(inner.clone());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}
