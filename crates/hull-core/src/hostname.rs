//! Host names: which label a VM gets where another's name comes to the same one.
//!
//! `Web 1` and `web-1` are two names and one label; DNS would answer for one of them only. So the later one gets a suffix.

/// The most characters of a label (RFC 1123).
const LABEL_MAX: usize = 63;

/// The label wanted, or the first of `label-2`, `label-3`, … that is free; shortened where the suffix needs the room.
pub fn free(wanted: String, taken: impl Fn(&str) -> bool) -> String {
    if !taken(&wanted) {
        return wanted;
    }
    let numbered = |number: u64| {
        let suffix = format!("-{number}");
        // Labels are ASCII, so every cut is between characters.
        let stem = wanted.get(..LABEL_MAX - suffix.len()).unwrap_or(&wanted).trim_end_matches('-');
        format!("{stem}{suffix}")
    };
    // There are more numbers than labels can be taken.
    (2..).map(numbered).find(|label| !taken(label)).unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_label_that_is_taken_gets_the_first_free_suffix() {
        let taken = BTreeSet::from(["web-1", "web-1-2", "db"]);
        let free = |wanted: &str| free(wanted.to_owned(), |label| taken.contains(label));
        assert_eq!(free("mail"), "mail");
        assert_eq!(free("db"), "db-2");
        assert_eq!(free("web-1"), "web-1-3");
    }

    #[test]
    fn a_long_label_makes_room_for_its_suffix() {
        let long = format!("{}-b", "a".repeat(61));
        let label = free(long.clone(), |label| label == long);
        assert_eq!(label, format!("{}-2", "a".repeat(61)));
        let long = "a".repeat(63);
        assert_eq!(free(long.clone(), |label| label == long).len(), 63);
    }
}
