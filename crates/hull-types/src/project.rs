//! Projects (tenants) and what they may hold.
//!
//! Everything that is counted is one line of the table below; the enum, the limits, the usage, the command's options and
//! the sums over them follow from it, so that a kind cannot be counted in one place and forgotten in another.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{id::ProjectId, name::Name, units::Bytes};

/// A project. Its name is unique in the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// What it may hold at most.
    pub quota: Quota,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $field:ident: $unit:ident, $default:expr;)*) => {
        /// What quotas count. Words on the wire are the fields of [`Quota`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum QuotaKind {$(
            $(#[doc = $doc])*
            $kind,
        )*}

        impl QuotaKind {
            /// Every kind, in the order people read them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// Its word.
            pub const fn name(self) -> &'static str {
                match self {$(Self::$kind => stringify!($field),)*}
            }

            /// What it is, as a help text says.
            pub const fn help(self) -> &'static str {
                match self {$(Self::$kind => concat!($($doc),*),)*}
            }

            /// An amount of it, for people.
            pub fn show(self, amount: u64) -> String {
                match self {$(Self::$kind => $unit::from(amount).to_string(),)*}
            }

            /// An amount of it, as people write it.
            ///
            /// # Errors
            /// Why it is none.
            pub fn parse(self, text: &str) -> Result<u64, String> {
                match self {$(Self::$kind => text.parse::<$unit>().map(u64::from).map_err(|why| why.to_string()),)*}
            }
        }

        /// Upper limits of a project. `null` is no limit, and so is a kind that an older document does not know.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub struct Quota {$(
            $(#[doc = $doc])*
            #[serde(default)]
            pub $field: Option<$unit>,
        )*}

        impl Quota {
            /// What a project may hold where nobody says.
            pub const fn of_new_projects() -> Self {
                Self {$($field: Some($default),)*}
            }

            /// The limit of one kind.
            pub fn limit(&self, kind: QuotaKind) -> Option<u64> {
                match kind {$(QuotaKind::$kind => self.$field.map(u64::from),)*}
            }
        }

        /// Limits to change: absent kinds stay, `null` lifts the limit.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct QuotaUpdate {$(
            $(#[doc = $doc])*
            #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
            #[schema(value_type = Option<$unit>)]
            pub $field: Option<Option<$unit>>,
        )*}

        impl QuotaUpdate {
            /// The limits after the change.
            pub fn on(&self, before: &Quota) -> Quota {
                Quota {$($field: self.$field.unwrap_or(before.$field),)*}
            }

            /// Sets one limit; none lifts it.
            pub fn set(&mut self, kind: QuotaKind, limit: Option<u64>) {
                match kind {$(QuotaKind::$kind => self.$field = Some(limit.map($unit::from)),)*}
            }
        }

        impl From<Quota> for QuotaUpdate {
            /// All limits, none left as it is.
            fn from(quota: Quota) -> Self {
                Self {$($field: Some(quota.$field),)*}
            }
        }

        /// What a project holds now; changes in the same transaction as the resources it counts.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub struct Usage {$(
            $(#[doc = $doc])*
            #[serde(default)]
            pub $field: $unit,
        )*}

        impl Usage {
            /// How much of one kind.
            pub fn get(&self, kind: QuotaKind) -> u64 {
                match kind {$(QuotaKind::$kind => self.$field.into(),)*}
            }

            /// Sets how much of one kind.
            pub fn set(&mut self, kind: QuotaKind, amount: u64) {
                match kind {$(QuotaKind::$kind => self.$field = amount.into(),)*}
            }
        }
    };
}

kinds! {
    /// VMs.
    Vms = vms: u64, 100;
    /// Virtual CPUs over all VMs.
    Vcpus = vcpus: u64, 400;
    /// Memory over all VMs.
    Memory = memory: Bytes, Bytes::gib(1 << 10);
    /// Root disks over all VMs.
    Disk = disk: Bytes, Bytes::gib(10 << 10);
    /// Volumes. There are none yet: the limit is kept and nothing is counted.
    Volumes = volumes: u64, 200;
    /// Space of all volumes. There are none yet: the limit is kept and nothing is counted.
    VolumeSpace = volume_space: Bytes, Bytes::gib(20 << 10);
    /// Snapshots. There are none yet: the limit is kept and nothing is counted.
    Snapshots = snapshots: u64, 200;
    /// Networks.
    Networks = networks: u64, 50;
    /// Subnets.
    Subnets = subnets: u64, 100;
    /// Routers.
    Routers = routers: u64, 20;
    /// Ports.
    Ports = ports: u64, 1000;
    /// Security groups, the one that comes with the project among them.
    SecurityGroups = security_groups: u64, 100;
    /// Floating IPs.
    FloatingIps = floating_ips: u64, 50;
    /// Images.
    Images = images: u64, 100;
    /// Keypairs.
    Keypairs = keypairs: u64, 200;
}

impl Usage {
    /// So much of one kind.
    pub fn of(kind: QuotaKind, amount: u64) -> Self {
        let mut usage = Self::default();
        usage.set(kind, amount);
        usage
    }

    /// One of one kind.
    pub fn one(kind: QuotaKind) -> Self {
        Self::of(kind, 1)
    }
}

/// Tells `null` (given, no limit) from absent.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_fields() {
        for &kind in QuotaKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let usage = serde_json::to_value(Usage::of(kind, 7)).unwrap();
            assert_eq!(usage[kind.name()], 7);
            assert_eq!(usage.as_object().unwrap().values().filter(|v| **v != 0).count(), 1);
            let mut update = QuotaUpdate::default();
            update.set(kind, Some(7));
            assert_eq!(update.on(&Quota::default()).limit(kind), Some(7));
            assert_eq!(serde_json::to_string(&update).unwrap(), format!("{{\"{}\":7}}", kind.name()));
            assert!(!kind.help().is_empty());
        }
    }

    #[test]
    fn documents_of_older_and_newer_versions_are_read() {
        let older = r#"{"vms":1,"vcpus":2,"memory":3,"disk":4,"images":5,"ports":6}"#;
        let usage: Usage = serde_json::from_str(older).unwrap();
        assert_eq!((usage.vms, usage.ports, usage.networks), (1, 6, 0));
        let quota: Quota = serde_json::from_str(r#"{"vms":1,"moon_rocks":3}"#).unwrap();
        assert_eq!((quota.vms, quota.networks), (Some(1), None));
    }

    #[test]
    fn an_update_tells_null_from_absent() {
        let update: QuotaUpdate = serde_json::from_str(r#"{"vms":null,"memory":5}"#).unwrap();
        let before = Quota { vms: Some(1), vcpus: Some(2), ..Quota::default() };
        let after = update.on(&before);
        assert_eq!((after.vms, after.vcpus, after.memory), (None, Some(2), Some(Bytes(5))));
        assert!(serde_json::from_str::<QuotaUpdate>(r#"{"vmz":1}"#).is_err(), "a misspelt kind changes nothing");
    }

    #[test]
    fn people_write_amounts_in_units() {
        assert_eq!(QuotaKind::Memory.parse("64GiB"), Ok(64 << 30));
        assert_eq!(QuotaKind::Memory.show(64 << 30), "64 GiB");
        assert_eq!(QuotaKind::Vms.parse("20"), Ok(20));
        assert!(QuotaKind::Vms.parse("20GiB").is_err());
    }
}
