//! The kept corpus of the fuzz target `mqtt_decode`, run as a test as well.

use std::path::Path;

use protocols::mqtt::{Side, Version};

use crate::round_trip::{check_any_input, split_at_each_byte};

#[test]
fn the_corpus_is_decoded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/mqtt_decode");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if let Err(error) = check_any_input(&bytes) {
            panic!("{}: {error}", path.display());
        }
        for version in [Version::V311, Version::V5] {
            for side in [Side::Server, Side::Client] {
                split_at_each_byte(&bytes, version, side);
            }
        }
        files += 1;
    }
    assert!(files > 50, "the corpus is there");
}
