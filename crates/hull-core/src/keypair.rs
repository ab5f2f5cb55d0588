//! Keypairs: public keys with names. VMs copy the key, so a keypair may go while VMs of it run.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hull_types::{
    error::Result,
    keypair::{Keypair, PublicKey},
    meta::Meta,
    project::{Project, QuotaKind, Usage},
    wire::KeypairCreate,
};
use sha2::{Digest, Sha256};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    event, quota,
};

/// `SHA256:<base64>`, as `ssh-keygen -l` prints it (RFC 4716 names the older MD5 form; OpenSSH 6.8 and later this one).
pub fn fingerprint(key: &PublicKey) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(key.blob())))
}

/// Decides on a new keypair.
pub fn create(project: &Project, usage: Usage, request: &KeypairCreate, call: &mut Call<'_>) -> Result<Changes> {
    let keypair = Keypair {
        id: call.id(),
        meta: Meta::new(project.id, request.name.clone(), call.now),
        public_key: request.public_key.clone(),
        fingerprint: fingerprint(&request.public_key),
    };
    let event = told(&keypair, "keypair.create", "created", call);
    let changes = quota::charge(Changes::none(), project, usage, Usage::one(QuotaKind::Keypairs))?;
    Ok(changes.and(Write::Claim(claim(&keypair))).and(Write::PutKeypair(Box::new(keypair))).event(event))
}

/// Deletes a keypair.
pub fn delete(keypair: &Keypair, usage: Usage, call: &mut Call<'_>) -> Changes {
    let project = keypair.meta.project;
    let event = told(keypair, "keypair.delete", "deleted", call);
    let changes = Changes::none().unchanged(Doc::Keypair(keypair.id));
    quota::refund(changes, project, usage, Usage::one(QuotaKind::Keypairs))
        .and(Write::DeleteKeypair(keypair.id))
        .and(Write::Release(claim(keypair)))
        .event(event)
}

fn claim(keypair: &Keypair) -> Claim {
    let Meta { project, name, .. } = &keypair.meta;
    Claim::Name { kind: Named::Keypair, project: Some(*project), name: name.clone(), id: keypair.id.0 }
}

fn told(keypair: &Keypair, action: &str, message: &str, call: &mut Call<'_>) -> hull_types::event::Event {
    let resource = ("keypair", keypair.id.0, keypair.meta.name.as_str());
    event::about(call, Some(keypair.meta.project), resource, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, call, name, project};

    #[test]
    fn fingerprints_are_openssh_s() {
        // `ssh-keygen -lf` of this very key.
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        assert_eq!(fingerprint(&key.parse().unwrap()), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
    }

    #[test]
    fn usage_goes_up_and_down() {
        let mut fresh = Seeded::new(1);
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a@b";
        let request = KeypairCreate { name: name("me"), public_key: key.parse().unwrap() };
        let made = create(&project(), Usage::default(), &request, &mut call(&mut fresh)).unwrap();
        let keypair =
            made.writes.iter().find_map(|w| if let Write::PutKeypair(k) = w { Some(k) } else { None }).unwrap();
        let gone = delete(keypair, Usage::one(QuotaKind::Keypairs), &mut call(&mut fresh));
        assert!(gone.writes.contains(&Write::PutUsage { project: project().id, usage: Usage::default() }));
    }
}
