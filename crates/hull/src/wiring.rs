//! Puts the parts together into a process.
use hull_types::error::Result;
use std::{net::SocketAddr, path::Path};
#[derive(Clone, Debug)]
pub(crate) enum Parts {
    All { listen: SocketAddr },
    Server { listen: SocketAddr, names: Vec<String> },
    Node,
}
pub(crate) fn log(_json: bool) -> Result<()> {
    Ok(())
}
pub(crate) fn run(_data: &Path, _parts: &Parts) -> Result<()> {
    Ok(())
}
pub(crate) fn running(_data: &Path) -> Option<i32> {
    None
}
pub(crate) fn ready(_data: &Path, _parts: &Parts, answers: bool) -> bool {
    answers
}
