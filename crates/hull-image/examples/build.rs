//! Builds an image: `cargo run -p hull-image --example build -- debian-12 OUT`.
#![allow(clippy::print_stdout)]

use std::path::Path;

use hull_image::{
    Progress,
    build::{Recipe, build},
};

#[tokio::main]
async fn main() -> hull_types::error::Result<()> {
    let mut words = std::env::args().skip(1);
    let (name, out) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let recipe = if name.ends_with(".yaml") { Recipe::load(Path::new(&name))? } else { Recipe::built_in(&name)? };
    let built = build(&recipe, Path::new(&out), &Progress::silent()).await?;
    println!("{built:#?}");
    Ok(())
}
