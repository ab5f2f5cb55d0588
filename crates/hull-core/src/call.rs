//! What a decision is told of the world: who asks, when, and where fresh ids come from.

use hull_types::{Timestamp, event::Actor};
use uuid::Uuid;

/// Where a decision gets what must never repeat. The server's draws from the operating system, the simulator's from its seed.
pub trait Fresh {
    /// A new id, of version 7 so that ids sort by creation.
    fn uuid(&mut self) -> Uuid;

    /// Random bytes for a MAC address.
    fn mac_bytes(&mut self) -> [u8; 3];
}

/// The circumstances of one call.
pub struct Call<'a> {
    /// Now.
    pub now: Timestamp,
    /// Who asks.
    pub actor: Actor,
    /// Fresh ids.
    pub fresh: &'a mut dyn Fresh,
}

impl Call<'_> {
    /// A new id of the noun wanted.
    pub fn id<I: From<Uuid>>(&mut self) -> I {
        self.fresh.uuid().into()
    }
}
