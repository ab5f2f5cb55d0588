//! History, to read.

use hull_types::event::Event;

use super::list::Listing;
use crate::state::keys::Kind;

/// How events are listed: oldest first, as their ids sort.
pub const LISTING: Listing<Event, Event> = Listing {
    kinds: &[Kind::Event],
    table: |state| &state.events,
    shared: None,
    view: |_, doc, _| Event::clone(&doc.value),
};
