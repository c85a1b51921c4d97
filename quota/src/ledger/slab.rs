//! Records by number, in chunks that images share with the live ledger until it writes to them.
//!
//! A new record takes the lowest free number, and the last number is always in use, so both depend on nothing but the
//! records there are: a ledger restored from rows goes on exactly as the one that wrote them.

use std::sync::Arc;

use super::free::Free;

/// 256 records of some 64 bytes: 16 KiB to copy for the first write to a chunk after an image was taken.
const CHUNK: usize = 256;

#[derive(Debug, Clone)]
pub(super) struct Slab<T> {
    chunks: Vec<Arc<Vec<Option<T>>>>,
    end: usize,
    free: Free,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), end: 0, free: Free::default(), len: 0 }
    }
}

impl<T: Clone> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// One more than the greatest number in use.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.end).expect("records are bounded far below 2^32")
    }

    pub(super) fn insert(&mut self, record: T) -> u32 {
        let id = self.free.pop_first().unwrap_or_else(|| self.end());
        self.put(id, record);
        id
    }

    /// Puts a record under a given number: for restoring. Numbers left out below it are free.
    pub(super) fn put(&mut self, id: u32, record: T) {
        let at = id as usize;
        while self.end <= at {
            if self.end.is_multiple_of(CHUNK) {
                self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
            }
            Arc::make_mut(self.chunks.last_mut().expect("one was just pushed")).push(None);
            if self.end < at {
                self.free.insert(self.end());
            }
            self.end += 1;
        }
        self.free.remove(id);
        let slot = &mut Arc::make_mut(&mut self.chunks[at / CHUNK])[at % CHUNK];
        self.len += usize::from(slot.is_none());
        *slot = Some(record);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        self.get(id)?;
        let at = id as usize;
        self.free.insert(id);
        self.len -= 1;
        let record = Arc::make_mut(&mut self.chunks[at / CHUNK])[at % CHUNK].take();
        self.trim();
        record
    }

    fn trim(&mut self) {
        while let Some(last) = self.chunks.last_mut().filter(|chunk| chunk.last().is_some_and(Option::is_none)) {
            Arc::make_mut(last).pop();
            if last.is_empty() {
                self.chunks.pop();
            }
            self.end -= 1;
            self.free.remove(u32::try_from(self.end).expect("records are bounded far below 2^32"));
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        let at = id as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        let at = id as usize;
        let chunk = self.chunks.get_mut(at / CHUNK)?;
        chunk.get(at % CHUNK)?.as_ref()?;
        Arc::make_mut(chunk)[at % CHUNK].as_mut()
    }

    /// In order of the numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .zip(0u32..)
            .filter_map(|(slot, id)| slot.as_ref().map(|record| (id, record)))
    }

    /// The records, without what finds free numbers: for an image.
    pub(super) fn share(&self) -> Shared<T> {
        Shared { chunks: self.chunks.clone() }
    }
}

/// The records of a [`Slab`] as they were.
#[derive(Debug, Clone)]
pub(super) struct Shared<T> {
    chunks: Vec<Arc<Vec<Option<T>>>>,
}

impl<T> Shared<T> {
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        let at = id as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)?.as_ref()
    }

    pub(super) fn into_records(self) -> impl Iterator<Item = (u32, T)> + Send
    where
        T: Clone + Send + Sync,
    {
        let mut id = 0u32;
        self.chunks.into_iter().flat_map(move |chunk| {
            let first = id;
            id += u32::try_from(chunk.len()).expect("a chunk is small");
            (0..chunk.len()).zip(first..).filter_map(move |(at, id)| Some((id, chunk[at].clone()?)))
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter())
            .zip(0u32..)
            .filter_map(|(slot, id)| slot.as_ref().map(|record| (id, record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_taken_first() {
        let mut slab = Slab::default();
        for at in 0..600u32 {
            assert_eq!(slab.insert(at), at);
        }
        slab.remove(5);
        slab.remove(300);
        slab.remove(599);
        assert_eq!(slab.len(), 597);
        assert_eq!([slab.insert(0), slab.insert(0), slab.insert(0), slab.insert(0)], [5, 300, 599, 600]);
    }

    #[test]
    fn the_last_number_is_always_in_use() {
        let mut slab = Slab::default();
        assert_eq!((0..600u32).map(|at| slab.insert(at)).max(), Some(600 - 1));
        assert!((100..600).rev().all(|gone| slab.remove(gone).is_some()));
        assert_eq!((slab.end(), slab.len()), (100, 100));
        assert!((0..100).all(|gone| slab.remove(gone).is_some()));
        assert_eq!((slab.end(), slab.insert(1)), (0, 0));
    }

    #[test]
    fn a_restored_slab_gives_out_the_same_numbers() {
        let mut live = Slab::default();
        assert_eq!((0..900u32).map(|at| live.insert(at)).max(), Some(900 - 1));
        for gone in [0, 7, 256, 511, 512, 897, 898, 899] {
            live.remove(gone);
        }
        let mut restored = Slab::default();
        live.iter().for_each(|(id, record)| restored.put(id, *record));
        for _ in 0..20 {
            assert_eq!(live.insert(1), restored.insert(1));
        }
    }

    #[test]
    fn an_image_keeps_what_it_saw() {
        let mut slab = Slab::default();
        assert_eq!((0..300u32).map(|at| slab.insert(at)).max(), Some(300 - 1));
        let image = slab.share();
        *slab.get_mut(299).unwrap() = 0;
        slab.remove(1);
        slab.insert(7);
        assert_eq!(image.into_records().collect::<Vec<_>>(), (0..300).map(|at| (at, at)).collect::<Vec<_>>());
    }
}
