//! Flavors: named sizes, the cloud's own. VMs copy the size, so a flavor may go while VMs of it run.

use hull_types::{error::Result, flavor::Flavor, wire::FlavorCreate};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event,
};

/// Decides on a new flavor.
pub fn create(request: &FlavorCreate, call: &mut Call<'_>) -> Result<Changes> {
    check::description(&request.description)?;
    check::resources(&request.resources)?;
    let flavor = Flavor {
        id: call.id(),
        name: request.name.clone(),
        description: request.description.clone(),
        resources: request.resources,
        created_at: call.now,
    };
    let event = event::about(call, None, ("flavor", flavor.id.0, flavor.name.as_str()), "flavor.create", "created");
    Ok(Changes::none().and(Write::Claim(claim(&flavor))).and(Write::PutFlavor(Box::new(flavor))).event(event))
}

/// Deletes a flavor.
pub fn delete(flavor: &Flavor, call: &mut Call<'_>) -> Changes {
    let event = event::about(call, None, ("flavor", flavor.id.0, flavor.name.as_str()), "flavor.delete", "deleted");
    Changes::none()
        .unchanged(Doc::Flavor(flavor.id))
        .and(Write::DeleteFlavor(flavor.id))
        .and(Write::Release(claim(flavor)))
        .event(event)
}

fn claim(flavor: &Flavor) -> Claim {
    Claim::Name { kind: Named::Flavor, project: None, name: flavor.name.clone(), id: flavor.id.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{flavor::Resources, units::Bytes};

    use super::*;
    use crate::testing::{Seeded, call, name};

    #[test]
    fn sizes_are_checked_and_names_claimed() {
        let mut fresh = Seeded::new(1);
        let mut make = |vcpus| {
            let resources = Resources { vcpus, memory: Bytes::mib(64), disk: Bytes::ZERO };
            let request = FlavorCreate { name: name("tiny"), description: String::new(), resources };
            create(&request, &mut call(&mut fresh))
        };
        assert_eq!(make(0).unwrap_err().field.as_deref(), Some("/vcpus"));
        let made = make(1).unwrap();
        let Some(Write::PutFlavor(flavor)) = made.writes.get(1) else { panic!("{made:?}") };
        assert_eq!(made.writes[0], Write::Claim(claim(flavor)));
        let gone = delete(flavor, &mut call(&mut fresh));
        assert!(gone.writes.contains(&Write::Release(claim(flavor))));
    }
}
