//! The `hull` command.
fn main() {}
