//! The README claims no more than the tests show: each row of its table names tests, and they exist.

use std::fs;
use std::path::Path;

const MARKS: [&str; 2] = ["<!-- supported begin -->", "<!-- supported end -->"];

#[test]
fn each_row_of_the_readme_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let table = readme.split_once(MARKS[0]).and_then(|(_, rest)| Some(rest.split_once(MARKS[1])?.0)).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 5, "the table is gone");
    for row in rows {
        let tests: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows this: {row}");
        for test in tests {
            let (module, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} is no module::test"));
            let file = root.join(format!("tests/capture/{module}.rs"));
            let source = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let wanted = format!("#[test]\nfn {name}() {{");
            assert!(source.contains(&wanted), "{test} is not there, so the README must not claim: {row}");
        }
    }
}
