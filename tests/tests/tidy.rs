//! The house's rules, held against its sources: who may know whom, and what every file says of itself.
//!
//! Promises: each rule says why it is there, and `every_rule_finds_what_breaks_it` breaks each of them once.
//! Must never know: what the code does; it reads text.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/nevers.rs"]
mod nevers;
#[path = "tidy/source.rs"]
mod source;

use source::Source;

fn all() -> Vec<Source> {
    let found = source::sources();
    assert!(found.len() > 300, "only {} sources were found", found.len());
    found
}

fn none(broken: Vec<String>) {
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn crates_depend_as_drawn() {
    none(arrows::broken(&source::manifests()));
}

#[test]
fn nobody_knows_what_he_must_not() {
    none(all().iter().flat_map(nevers::broken).collect());
}

#[test]
fn every_file_says_what_it_is() {
    none(all().iter().flat_map(files::says_what_it_is).collect());
}

#[test]
fn documents_name_files_that_exist() {
    none(all().iter().flat_map(files::names_what_exists).collect());
}

#[test]
fn no_file_and_no_line_is_too_long() {
    none(all().iter().flat_map(files::too_long).collect());
}

/// A rule that nothing can break is none.
#[test]
fn every_rule_finds_what_breaks_it() {
    nevers::break_each();
    files::break_each();
    arrows::break_each();
}
