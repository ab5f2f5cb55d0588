//! Amounts. Bytes are always bytes on the wire; people may write `2GiB`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = u64)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// Whole MiB, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }

    /// Sum, at most `u64::MAX`.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Difference, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<u64> for Bytes {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<Bytes> for u64 {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

/// Why an amount of bytes was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of bytes: write it like 512MiB, 2GiB or 1073741824")]
pub struct BytesError(pub String);

impl FromStr for Bytes {
    type Err = BytesError;

    /// `1073741824`, `512MiB`, `2G`, `1.5GiB`. Powers of two throughout: a `G` of memory is a GiB.
    fn from_str(text: &str) -> Result<Self, BytesError> {
        let refuse = || BytesError(text.to_owned());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(refuse()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(refuse);
        }
        let fraction: f64 = number.parse().map_err(|_| refuse())?;
        let bytes = fraction * (1u64 << shift) as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(refuse()) }
    }
}

impl fmt::Display for Bytes {
    /// The largest unit that keeps the number at one or above, with one decimal where it is not whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = match self.0 {
            0..=0x3ff => return f.pad(&format!("{} B", self.0)),
            0x400..=0xf_ffff => ("KiB", 10),
            0x10_0000..=0x3fff_ffff => ("MiB", 20),
            0x4000_0000..=0xff_ffff_ffff => ("GiB", 30),
            _ => ("TiB", 40),
        };
        let whole = self.0 >> shift;
        if whole << shift == self.0 {
            f.pad(&format!("{whole} {unit}"))
        } else {
            f.pad(&format!("{:.1} {unit}", self.0 as f64 / (1u64 << shift) as f64))
        }
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_may_write_units() {
        for (text, bytes) in
            [("512MiB", Bytes::mib(512)), ("2G", Bytes::gib(2)), ("1.5GiB", Bytes::mib(1536)), ("7", Bytes(7))]
        {
            assert_eq!(text.parse(), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "1XB", "99999999999T"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn shown_in_the_largest_fitting_unit() {
        assert_eq!(Bytes::mib(512).to_string(), "512 MiB");
        assert_eq!(Bytes::mib(1536).to_string(), "1.5 GiB");
        assert_eq!(Bytes(12).to_string(), "12 B");
    }
}
