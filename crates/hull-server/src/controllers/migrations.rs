//! Gives up migrations that cannot be done any more: their time is over, or the node they lead to is away. All else happens
//! as the two nodes report (`hull_core::migration`).

use hull_core::{change::Changes, migration::give_up};
use hull_types::{error::Result, id::VmId};

use crate::{
    app::{
        App,
        ctx::{Caller, Ctx},
        migration::under_way,
        node,
    },
    state::view::State,
};

/// One round over all VMs on their way.
///
/// # Errors
/// The store's.
pub async fn round(app: &App) -> Result<()> {
    let leaving: Vec<VmId> = app.cache.read(|state| state.leaving().collect());
    for vm in leaving {
        let decide = |state: &State, call: &mut hull_core::call::Call<'_>| {
            let given_up = under_way(state, vm).and_then(|it| give_up(&it, node::seen(state, it.migration.to), call));
            Ok((given_up.unwrap_or_else(Changes::none), ()))
        };
        app.change(&Ctx::of(Caller::SERVER), decide).await?;
    }
    Ok(())
}
