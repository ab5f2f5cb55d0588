//! Answers that carry the revision of what they show. It is known only once the transaction has committed.

use hull_types::wire::{List, Revised, Secret, VmView};

use super::Done;

/// An answer that learns its revision.
pub trait Answer {
    /// Sets it.
    fn revise(&mut self, revision: u64);
}

impl<T> Answer for Revised<T> {
    fn revise(&mut self, revision: u64) {
        self.revision = revision;
    }
}

impl Answer for VmView {
    fn revise(&mut self, revision: u64) {
        self.revision = revision;
    }
}

impl<T: Answer> Answer for List<T> {
    fn revise(&mut self, revision: u64) {
        self.revision = revision;
        self.items.iter_mut().for_each(|item| item.revise(revision));
    }
}

impl Answer for () {
    fn revise(&mut self, _: u64) {}
}

impl Answer for Secret {
    fn revise(&mut self, _: u64) {}
}

impl<T: Answer> Done<T> {
    /// The answer, of the revision that made it true.
    pub fn revised(self) -> T {
        let mut answer = self.answer;
        answer.revise(self.revision);
        answer
    }
}
