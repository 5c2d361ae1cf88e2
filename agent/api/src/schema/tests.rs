use super::*;

#[test]
fn the_whole_text_is_understood() {
    assert_eq!(SCHEMA.problems, Vec::<String>::new());
}
