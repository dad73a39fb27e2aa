//! Memory for bodies that are buffered whole because a plugin asked for them (rule E4).
//!
//! Half a body is of no use to anybody: a dozen slow clients whose bodies fill the memory together would wait for each
//! other. So what a body may need is reserved before it is read, and a request for which there is not enough left is
//! answered with 503. A request that has a reservation is read in full, however short memory is.

use std::cell::Cell;
use std::rc::Rc;

/// What the bodies of one worker may take together. A clone shares it.
#[derive(Clone, Debug)]
pub struct BodyMemory {
    left: Rc<Cell<usize>>,
}

impl BodyMemory {
    /// At most so many bytes.
    pub fn of(most: usize) -> BodyMemory {
        BodyMemory { left: Rc::new(Cell::new(most)) }
    }
}

/// What one exchange has reserved. It is given back when this is dropped.
#[derive(Debug, Default)]
pub struct Reservation {
    bytes: usize,
    memory: Option<BodyMemory>,
}

impl Reservation {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it at least `bytes`; returns whether there was enough left.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize, memory: &BodyMemory) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let Some(left) = memory.left.get().checked_sub(more) else { return false };
        memory.left.set(left);
        self.bytes += more;
        self.memory.get_or_insert_with(|| memory.clone());
        true
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        if let Some(memory) = &self.memory {
            memory.left.set(memory.left.get() + excess);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4_no_more_is_reserved_than_there_is_and_all_of_it_comes_back() {
        let memory = BodyMemory::of(100);
        let (mut first, mut second) = (Reservation::default(), Reservation::default());
        assert!(first.grow_to(60, &memory) && first.grow_to(50, &memory), "it has more already");
        assert!(!second.grow_to(41, &memory));
        assert!(second.grow_to(40, &memory) && !first.grow_to(61, &memory));
        first.shrink_to(10);
        assert_eq!((first.bytes(), second.bytes(), memory.left.get()), (10, 40, 50));
        drop((first, second));
        assert_eq!(memory.left.get(), 100);
    }
}
