//! Building from real packages: slow and in need of a mirror, so run by `make test-slow` and not with the others.
#![allow(clippy::unwrap_used)]

use std::fs;

use hull_image::{
    Progress,
    build::{Recipe, build},
};

#[tokio::test]
#[ignore = "downloads a distribution twice"]
async fn the_same_recipe_built_twice_gives_the_same_bytes() {
    let recipe = Recipe::parse("name: tiny\nsuite: bookworm\nsize: 1GiB\npackages: [dash]\n").unwrap();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = build(&recipe, one.path(), &Progress::silent()).await.unwrap();
    let second = build(&recipe, two.path(), &Progress::silent()).await.unwrap();
    let (first, second) = (fs::read(first.disk).unwrap(), fs::read(second.disk).unwrap());
    let differ = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!((first.len(), differ), (second.len(), None));
}
