//! Parsers of `/proc`, pure.

use hull_types::units::Bytes;

/// Memory of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: Bytes,
    /// What can be had without swapping.
    pub available: Bytes,
}

/// Reads `/proc/meminfo` (proc(5)): lines `Name:   123 kB`. What is missing is zero.
pub fn memory(meminfo: &str) -> Memory {
    let field = |name: &str| {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        Bytes(kib.unwrap_or(0).saturating_mul(1024))
    };
    Memory { total: field("MemTotal"), available: field("MemAvailable") }
}

/// The first `model name` of `/proc/cpuinfo`; none where there is none, as on some architectures.
pub fn cpu_model(cpuinfo: &str) -> Option<String> {
    let (_, model) = cpuinfo.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    let model = model.trim();
    (!model.is_empty()).then(|| model.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kib() {
        let text = "MemTotal:       16384 kB\nMemFree:         100 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n";
        assert_eq!(memory(text), Memory { total: Bytes::mib(16), available: Bytes::mib(2) });
    }

    #[test]
    fn the_processors_model_is_the_first_one_named() {
        let text = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: EPYC 7 @ 2:1\nmodel name\t: other\n";
        assert_eq!(cpu_model(text).as_deref(), Some("EPYC 7 @ 2:1"));
        assert_eq!((cpu_model(""), cpu_model("model name :")), (None, None));
    }

    #[test]
    fn what_is_missing_or_odd_is_zero() {
        for text in ["", "MemTotal", "MemTotal: x kB", "MemTotalX: 5 kB\n\0", "MemTotal:"] {
            assert_eq!(memory(text), Memory::default(), "{text:?}");
        }
    }
}
