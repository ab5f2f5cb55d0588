//! Checks on what strangers send, shared by several nouns. Each names the field at fault as a JSON pointer.

use base64::{Engine, engine::general_purpose::STANDARD};
use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    meta::Metadata,
    units::Bytes,
};

/// The longest description, in characters.
pub const DESCRIPTION_MAX: usize = 4096;
/// The most labels on a resource.
pub const METADATA_PAIRS_MAX: usize = 64;
/// The longest key or value of a label, in characters.
pub const METADATA_TEXT_MAX: usize = 255;
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
