//! Checks on what strangers send, shared by several nouns. Each names the field at fault as a JSON pointer.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    meta::Metadata,
    network::DhcpOption,
    units::Bytes,
};

/// The longest description, in characters.
pub const DESCRIPTION_MAX: usize = 4096;
/// The most labels on a resource.
pub const METADATA_PAIRS_MAX: usize = 64;
/// The longest key or value of a label, in characters.
pub const METADATA_TEXT_MAX: usize = 255;
/// The most tags on a resource.
pub const TAGS_MAX: usize = 50;
/// The longest tag, in characters.
pub const TAG_MAX: usize = 60;
/// The most DHCP options of a subnet or port.
pub const DHCP_OPTIONS_MAX: usize = 32;
/// The DHCP options Hull decides on, and what sets them instead.
const DHCP_OWN: &[(&[u8], &str)] = &[
    (&[0, 255], "it only marks padding and the end"),
    (&[1, 28], "it follows from the subnet's range"),
    (&[3], "give the subnet a gateway"),
    (&[6], "give the subnet name servers (dns)"),
    (&[12], "give the port a host name"),
    (&[15], "give the network a domain"),
    (&[26], "give the network an MTU"),
    (&[33, 121, 249], "give the subnet routes"),
    (&[50, 51, 53, 54, 58, 59], "leases are the server's own"),
    (&[52, 55, 56, 57, 60, 61, 80, 82, 90], "it is part of the protocol, not of the configuration"),
];
/// The most user data, decoded.
pub const USER_DATA_MAX: usize = 64 << 10;
/// The most virtual CPUs of a VM.
pub const VCPUS_MAX: u16 = 255;
/// The least memory of a VM.
pub const MEMORY_MIN: Bytes = Bytes::mib(16);
/// The most memory of a VM.
pub const MEMORY_MAX: Bytes = Bytes::gib(16 << 10);
/// The largest disk.
pub const DISK_MAX: Bytes = Bytes::gib(64 << 10);
/// The longest kernel command line, in bytes (x86 Linux' `COMMAND_LINE_SIZE`, less its final zero).
pub const CMDLINE_MAX: usize = 2047;

/// A description: bounded, no control characters but line feeds and tabs.
pub fn description(text: &str) -> Result<()> {
    let length = text.chars().count();
    if length > DESCRIPTION_MAX {
        return Err(Error::invalid(format!(
            "a description has at most {DESCRIPTION_MAX} characters, this one has {length}; shorten it"
        ))
        .at("/description"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Error::invalid("a description cannot contain control characters; remove them").at("/description"));
    }
    Ok(())
}

/// Labels: bounded in number and length, keys not empty, no control characters.
pub fn metadata(labels: &Metadata) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/metadata"));
    if labels.len() > METADATA_PAIRS_MAX {
        return refuse(format!("at most {METADATA_PAIRS_MAX} labels, {} were given; remove some", labels.len()));
    }
    for (key, value) in labels {
        let shown: String = key.chars().take(40).collect();
        if key.is_empty() {
            return refuse("a label's key cannot be empty; name it or remove it".to_owned());
        }
        if key.chars().count() > METADATA_TEXT_MAX || value.chars().count() > METADATA_TEXT_MAX {
            return refuse(format!("label {shown:?}: keys and values have at most {METADATA_TEXT_MAX} characters"));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return refuse(format!("label {shown:?} contains control characters; remove them"));
        }
    }
    Ok(())
}

/// Tags: bounded in number and length; no commas, no control characters.
pub fn tags(tags: &BTreeSet<String>) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/tags"));
    if tags.len() > TAGS_MAX {
        return refuse(format!("at most {TAGS_MAX} tags, {} were given; remove some", tags.len()));
    }
    for tag in tags {
        let shown: String = tag.chars().take(40).collect();
        if !(1..=TAG_MAX).contains(&tag.chars().count()) {
            return refuse(format!("tag {shown:?}: a tag has 1 to {TAG_MAX} characters"));
        }
        if tag.chars().any(|c| c.is_control() || c == ',') {
            return refuse(format!("tag {shown:?} contains a comma or control characters; remove them"));
        }
    }
    Ok(())
}

/// A label of a host's name (RFC 1123): letters, digits and hyphens inside, at most 63, in lower case.
pub fn hostname(text: &str) -> Result<()> {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && text.chars().all(inside) && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    Err(Error::invalid(format!(
        "{shown:?} is no host name: give 1 to 63 lower-case letters, digits and hyphens, no hyphen at an end"
    ))
    .at("/hostname"))
}

/// A DNS domain: labels, joined by dots, at most 190 characters so that host names before it still fit.
pub fn domain(text: &str) -> Result<()> {
    if text.len() <= 190 && text.split('.').all(|label| hostname(label).is_ok()) {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    Err(Error::invalid(format!("{shown:?} is no domain: give host names joined by dots, such as hull.internal"))
        .at("/domain"))
}

/// DHCP options beyond Hull's own: none of those it decides on, values of 1 to 255 bytes.
pub fn dhcp_options(options: &[DhcpOption]) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/dhcp_options"));
    if options.len() > DHCP_OPTIONS_MAX {
        return refuse(format!("at most {DHCP_OPTIONS_MAX} DHCP options, {} were given; remove some", options.len()));
    }
    let mut codes = BTreeSet::new();
    for DhcpOption { code, value } in options {
        if let Some((_, instead)) = DHCP_OWN.iter().find(|(codes, _)| codes.contains(code)) {
            return refuse(format!("DHCP option {code} is Hull's own to send: {instead}"));
        }
        if !codes.insert(code) {
            return refuse(format!("DHCP option {code} is given twice; leave one out"));
        }
        if !(1..=255).contains(&value.len()) {
            return refuse(format!("DHCP option {code}'s value has {} bytes; give 1 to 255", value.len()));
        }
    }
    Ok(())
}

/// User data: base64 of at most 64 KiB.
pub fn user_data(text: &str) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/user_data"));
    // Refuse by length before decoding: base64 of 64 KiB has 87,384 characters.
    if text.len() > USER_DATA_MAX.div_ceil(3) * 4 {
        return refuse(format!("user data has at most 64 KiB, this has about {}", Bytes(text.len() as u64 / 4 * 3)));
    }
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() > USER_DATA_MAX => {
            refuse(format!("user data has at most 64 KiB, this has {}", Bytes(bytes.len() as u64)))
        }
        Ok(_) => Ok(()),
        Err(why) => refuse(format!("user data must be base64 (RFC 4648, with padding): {why}")),
    }
}

/// A size: CPUs and memory within bounds, memory in whole MiB, the disk not absurd.
pub fn resources(size: &Resources) -> Result<()> {
    if size.vcpus == 0 || size.vcpus > VCPUS_MAX {
        return Err(Error::invalid(format!("a VM has 1 to {VCPUS_MAX} vCPUs, not {}", size.vcpus)).at("/vcpus"));
    }
    if size.memory < MEMORY_MIN || size.memory > MEMORY_MAX {
        let detail = format!("a VM has {MEMORY_MIN} to {MEMORY_MAX} of memory, not {}", size.memory);
        return Err(Error::invalid(detail).at("/memory"));
    }
    if !size.memory.0.is_multiple_of(1 << 20) {
        let detail = format!("memory is given in whole MiB; {} bytes is not, round it", size.memory.0);
        return Err(Error::invalid(detail).at("/memory"));
    }
    if size.disk > DISK_MAX {
        return Err(Error::invalid(format!("a disk has at most {DISK_MAX}, not {}", size.disk)).at("/disk"));
    }
    Ok(())
}

/// A kernel's command line: one line, bounded.
pub fn cmdline(text: &str) -> Result<()> {
    if text.len() > CMDLINE_MAX || text.chars().any(char::is_control) {
        let detail = format!("a kernel command line is one line of at most {CMDLINE_MAX} bytes; shorten it");
        return Err(Error::invalid(detail).at("/kernel/cmdline"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn descriptions() {
        assert!(description("two\nlines\tand a tab, Übung").is_ok());
        assert!(description(&"ü".repeat(DESCRIPTION_MAX)).is_ok());
        assert!(description(&"x".repeat(DESCRIPTION_MAX + 1)).is_err());
        assert!(description("bell\u{7}").is_err());
        assert!(description("\u{1b}[31m").is_err());
    }

    #[test]
    fn labels() {
        let one = |k: &str, v: &str| metadata(&[(k.to_owned(), v.to_owned())].into());
        assert!(one("role", "web").is_ok());
        assert!(one(&"k".repeat(255), &"v".repeat(255)).is_ok());
        for (key, value) in [("", "v"), ("k\n", "v"), ("k", "\u{0}"), (&"k".repeat(256), "v"), ("k", &"v".repeat(256))]
        {
            assert_eq!(one(key, value).unwrap_err().field.as_deref(), Some("/metadata"), "{key:?}={value:?}");
        }
        assert!(metadata(&(0..64).map(|n| (n.to_string(), String::new())).collect()).is_ok());
        assert!(metadata(&(0..65).map(|n| (n.to_string(), String::new())).collect()).is_err());
    }

    #[test]
    fn tags_hostnames_and_domains() {
        let one = |text: &str| tags(&[text.to_owned()].into());
        assert!(one("production").is_ok() && one(&"t".repeat(60)).is_ok());
        assert!(one("").is_err() && one("a,b").is_err() && one("a\n").is_err() && one(&"t".repeat(61)).is_err());
        assert!(tags(&(0..51).map(|n| n.to_string()).collect()).is_err());
        assert!(hostname("web-1").is_ok());
        for text in ["", "-a", "a-", "A", "a.b", "ü", &"a".repeat(64)] {
            assert!(hostname(text).is_err(), "{text:?}");
        }
        assert!(domain("hull.internal").is_ok() && domain("").is_err() && domain("a..b").is_err());
    }

    #[test]
    fn dhcp_options_that_hull_decides_on_are_refused_saying_what_sets_them() {
        let option = |code, value: &str| dhcp_options(&[DhcpOption { code, value: value.to_owned() }]);
        assert!(option(66, "tftp.example").is_ok() && option(42, "x").is_ok());
        for code in [0, 1, 3, 6, 12, 15, 26, 28, 50, 51, 53, 54, 55, 58, 59, 61, 82, 121, 255] {
            assert!(option(code, "x").unwrap_err().detail.contains("Hull's own"), "{code}");
        }
        assert!(option(66, "").is_err() && option(66, &"x".repeat(256)).is_err());
        let twice = DhcpOption { code: 66, value: "x".into() };
        assert!(dhcp_options(&[twice.clone(), twice]).is_err());
    }

    #[test]
    fn user_data_is_bounded_base64() {
        assert!(user_data("").is_ok());
        assert!(user_data("I2Nsb3VkLWNvbmZpZwo=").is_ok());
        assert!(user_data(&STANDARD.encode(vec![7; USER_DATA_MAX])).is_ok());
        assert!(user_data(&STANDARD.encode(vec![7; USER_DATA_MAX + 1])).unwrap_err().detail.contains("64 KiB"));
        assert!(user_data(&"A".repeat(100 << 20)).unwrap_err().detail.contains("at most 64 KiB"));
        assert!(user_data("#cloud-config").unwrap_err().detail.contains("base64"));
        assert!(user_data("AAA").is_err());
    }

    #[test]
    fn sizes_have_bounds() {
        let size = |vcpus, memory, disk| resources(&Resources { vcpus, memory, disk });
        assert!(size(1, Bytes::mib(16), Bytes::ZERO).is_ok());
        assert!(size(255, MEMORY_MAX, DISK_MAX).is_ok());
        for (vcpus, memory, disk, field) in [
            (0, Bytes::mib(64), Bytes::ZERO, "/vcpus"),
            (256, Bytes::mib(64), Bytes::ZERO, "/vcpus"),
            (1, Bytes::mib(15), Bytes::ZERO, "/memory"),
            (1, Bytes(u64::MAX), Bytes::ZERO, "/memory"),
            (1, Bytes((64 << 20) + 1), Bytes::ZERO, "/memory"),
            (1, Bytes::mib(64), Bytes(u64::MAX), "/disk"),
        ] {
            assert_eq!(size(vcpus, memory, disk).unwrap_err().field.as_deref(), Some(field));
        }
    }
}
