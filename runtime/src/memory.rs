//! The memory limit of a request: one budget for all its memories and tables.

use wasmtime::ResourceLimiter;

/// What a table element costs the host: a pointer and its lazy-init tag.
const TABLE_ELEMENT: usize = 16;

/// Elements of each table for which the instance pool has room; more if the
/// component has a larger one from the beginning.
pub(crate) const TABLE_ELEMENTS: usize = 20_000;

/// Counts what a store has allocated and refuses growth past the limit.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: usize,
    used: usize,
    peak: usize,
    /// The largest total that was asked for and refused.
    refused: Option<usize>,
    /// The table that was too large for the pool: its elements, and the most
    /// it can have.
    table_refused: Option<(usize, usize)>,
}

impl MemoryBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            table_refused: None,
            used: 0,
            peak: 0,
            refused: None,
        }
    }

    /// A further request begins, with what the last one has left allocated.
    pub(crate) fn renew(&mut self) {
        self.peak = self.used;
        self.refused = None;
        self.table_refused = None;
    }

    /// The total in bytes that was refused, if any growth was.
    pub(crate) fn refused(&self) -> Option<usize> {
        self.refused
    }

    /// The elements of a table that was refused for its size, if one was, and
    /// how many it could have.
    pub(crate) fn table_refused(&self) -> Option<(usize, usize)> {
        self.table_refused
    }

    /// Most bytes in use at any one time.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let wanted = self.used.saturating_add(bytes);
        if wanted > self.limit {
            self.refused = Some(self.refused.map_or(wanted, |r| r.max(wanted)));
            return false;
        }
        self.used = wanted;
        self.peak = self.peak.max(wanted);
        true
    }

    /// A growth has failed after it was allowed, or without being asked for:
    /// its slot of the instance pool, or the system, has no room for it.
    ///
    /// It stays billed. Wasmtime reports failures of growth that was never
    /// billed too, and taking those back would let a guest lower its bill.
    fn failed(&mut self) {
        self.refused = Some(self.refused.map_or(self.used, |r| r.max(self.used)));
    }
}

impl ResourceLimiter for MemoryBudget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A growth beyond the memory's own maximum fails whatever we say and
        // must not be billed.
        if maximum.is_some_and(|max| desired > max) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if let Some(max) = maximum.filter(|max| desired > *max) {
            // A smaller maximum is the table's own.
            if max >= TABLE_ELEMENTS {
                self.table_refused = Some((desired, max));
            }
            return Ok(false);
        }
        let elements = desired.saturating_sub(current);
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65536;

    #[test]
    fn sums_over_memories_and_tables() {
        let mut budget = MemoryBudget::new(4 * PAGE);
        assert!(budget.memory_growing(0, 2 * PAGE, None).unwrap());
        assert!(budget.memory_growing(0, PAGE, None).unwrap());
        assert!(budget.table_growing(0, PAGE / TABLE_ELEMENT, None).unwrap());
        assert_eq!(budget.refused(), None);
        assert!(!budget.memory_growing(PAGE, 2 * PAGE, None).unwrap());
        assert_eq!(budget.refused(), Some(5 * PAGE));
        assert_eq!(budget.peak(), 4 * PAGE);
    }

    #[test]
    fn a_table_that_the_pool_has_no_room_for_is_noted() {
        let mut budget = MemoryBudget::new(4 * PAGE);
        assert!(!budget.table_growing(1, 101, Some(100)).unwrap());
        assert_eq!(budget.table_refused(), None);
        let (wanted, max) = (TABLE_ELEMENTS + 1, TABLE_ELEMENTS);
        assert!(!budget.table_growing(1, wanted, Some(max)).unwrap());
        assert_eq!(budget.table_refused(), Some((wanted, max)));
        assert_eq!((budget.refused(), budget.peak()), (None, 0));
    }

    #[test]
    fn failed_growth_stays_billed_and_gives_nothing_back() {
        let no = || wasmtime::format_err!("no");
        let mut budget = MemoryBudget::new(4 * PAGE);
        assert!(budget.memory_growing(0, 3 * PAGE, None).unwrap());
        // Wasmtime reports an overflow of a table's size without asking first.
        budget.table_grow_failed(no()).unwrap();
        budget.memory_grow_failed(no()).unwrap();
        assert_eq!(budget.refused(), Some(3 * PAGE));
        assert!(!budget.memory_growing(0, 2 * PAGE, None).unwrap());
        assert!(budget.memory_growing(0, PAGE, None).unwrap());
    }

    #[test]
    fn a_memory_at_its_own_maximum_is_not_the_limits_fault() {
        let mut budget = MemoryBudget::new(4 * PAGE);
        assert!(!budget.memory_growing(0, 2 * PAGE, Some(PAGE)).unwrap());
        assert_eq!(budget.refused(), None);
    }
}
