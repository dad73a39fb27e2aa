//! Short numbers for what is counted by name. A name keeps its number for as long as the process lives, so that what was
//! counted under it survives a reload of the configuration.
//!
//! Only the first names get a number of their own, the others share one: what is counted, and what is told of it, stays
//! bounded however many routes there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many names get a number of their own.
pub const MOST_NAMES: usize = 1000;

/// The number of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label(u16);

impl Label {
    /// For what has no name.
    pub const NONE: Label = Label(0);
    /// For the names that came too late to get a number of their own.
    pub const OTHER: Label = Label(1);
    /// How many there are.
    pub const COUNT: usize = MOST_NAMES + 2;

    /// Every one there can be, in the order of [`Label::index`].
    pub fn all() -> impl Iterator<Item = Label> {
        (0..).map(Label).take(Label::COUNT)
    }

    /// For tables with [`Label::COUNT`] places.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// All names that have a number, shared by all workers; touched when a configuration is loaded and when somebody asks.
#[derive(Debug, Default)]
pub struct Labels {
    names: Mutex<Vec<Arc<str>>>,
}

impl Labels {
    /// The numbers of `names`, in their order; new ones where they are new.
    pub fn assign<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Arc<[Label]> {
        let mut known = self.lock();
        let mut numbers: HashMap<Arc<str>, Label> =
            (2..).map(Label).zip(known.iter()).map(|(l, n)| (Arc::clone(n), l)).collect();
        names
            .into_iter()
            .map(|name| match numbers.get(name) {
                Some(label) => *label,
                None if known.len() < MOST_NAMES => {
                    let name: Arc<str> = Arc::from(name);
                    let label = Label(u16::try_from(known.len() + 2).expect("MOST_NAMES is small"));
                    known.push(Arc::clone(&name));
                    numbers.insert(name, label);
                    label
                }
                None => Label::OTHER,
            })
            .collect()
    }

    /// Every number with its name. `none` and `other` stand for what has none; no name that is given here may be one of
    /// these.
    pub fn all(&self) -> Vec<(Label, Arc<str>)> {
        let known = self.lock();
        let names = [Arc::from("none"), Arc::from("other")].into_iter().chain(known.iter().cloned());
        (0..).map(Label).zip(names).collect()
    }

    /// A panic while it was held leaves the list whole: it changes in single steps.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let labels = Labels::default();
        let first = labels.assign(["/a", "/b"]);
        let second = labels.assign(["/c", "/b"]);
        assert_eq!(first[1], second[1]);
        let all: Vec<String> = labels.all().iter().map(|(label, name)| format!("{} {name}", label.index())).collect();
        assert_eq!(all, ["0 none", "1 other", "2 /a", "3 /b", "4 /c"]);
    }

    #[test]
    fn names_beyond_the_cap_share_a_number() {
        let labels = Labels::default();
        let names: Vec<String> = (0..MOST_NAMES + 5).map(|n| format!("/{n}")).collect();
        let given = labels.assign(names.iter().map(String::as_str));
        assert_ne!(given[MOST_NAMES - 1], Label::OTHER);
        assert!(given[MOST_NAMES..].iter().all(|label| *label == Label::OTHER));
        assert!(given.iter().all(|label| label.index() < Label::COUNT));
        assert_eq!(labels.assign(["/new", "/7"])[..], [Label::OTHER, given[7]]);
        assert_eq!(labels.all().len(), Label::COUNT);
    }
}
