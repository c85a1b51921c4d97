//! The format of a snapshot file, written and read in chunks.
//!
//! `magic`, then chunks: length (u32), CRC-32C (u32, over the chunk's number and payload), payload. The first chunk is
//! the snapshot's meta, the last, empty of rows, says how many there were; a file without it was never finished. In
//! between are rows: key length (u32), key, value length (u32), value. All integers are little-endian.

use std::io::{self, Read, Write};

use crate::{machine::Row, types::SnapshotMeta};

const MAGIC: &[u8; 8] = b"tgsnap01";

/// Rows are gathered up to this much; one row may be larger than that.
const CHUNK_BYTES: usize = 256 << 10;

/// No chunk is larger: a length beyond it is damage, and must not become an allocation.
const MAX_CHUNK_BYTES: usize = 64 << 20;

const META: u8 = b'M';
const ROWS: u8 = b'R';
const END: u8 = b'E';

/// Writes a whole snapshot.
pub(super) fn write(out: &mut impl Write, meta: &SnapshotMeta, rows: impl Iterator<Item = Row>) -> io::Result<()> {
    let mut chunks = Chunks { out, number: 0 };
    chunks.out.write_all(MAGIC)?;
    let mut payload = vec![META];
    payload.extend(postcard::to_stdvec(meta).map_err(io::Error::other)?);
    chunks.write(&payload)?;
    let mut count = 0u64;
    payload = vec![ROWS];
    for (key, value) in rows {
        put_bytes(&mut payload, &key)?;
        put_bytes(&mut payload, &value)?;
        count += 1;
        if payload.len() >= CHUNK_BYTES {
            chunks.write(&payload)?;
            payload.truncate(1);
        }
    }
    if payload.len() > 1 {
        chunks.write(&payload)?;
    }
    payload = vec![END];
    payload.extend(count.to_le_bytes());
    chunks.write(&payload)
}

struct Chunks<'a, W> {
    out: &'a mut W,
    number: u64,
}

impl<W: Write> Chunks<'_, W> {
    fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_CHUNK_BYTES);
        let len = len.ok_or_else(|| io::Error::other("a row is too large for a snapshot"))?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&checksum(self.number, payload).to_le_bytes())?;
        self.out.write_all(payload)?;
        self.number += 1;
        Ok(())
    }
}

/// Over the number too, so that a chunk lost, doubled or moved is noticed.
fn checksum(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}

fn put_bytes(payload: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    payload.extend(len.to_le_bytes());
    payload.extend_from_slice(bytes);
    Ok(())
}

/// Reads a snapshot, checking every chunk before anything of it is given out.
pub(super) struct Reader<R> {
    input: R,
    number: u64,
    chunk: Vec<u8>,
    /// Where in the file the chunk begins, and where the next one does.
    begins: u64,
    ends: u64,
    at: usize,
    rows: u64,
    done: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read: the meta is there at once, the rows follow.
    pub(super) fn open(mut input: R) -> io::Result<(SnapshotMeta, Self)> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|error| cut_short(error, 0))?;
        if &magic != MAGIC {
            return Err(damaged(0, "it does not begin like a snapshot"));
        }
        let begins = MAGIC.len() as u64;
        let mut reader =
            Self { input, number: 0, chunk: Vec::new(), begins, ends: begins, at: 0, rows: 0, done: false };
        reader.next_chunk()?;
        if reader.chunk.first() != Some(&META) {
            return Err(damaged(begins, "the first chunk is not the meta"));
        }
        let meta = postcard::from_bytes(&reader.chunk[1..]).map_err(|_| damaged(begins, "the meta can't be read"))?;
        reader.at = reader.chunk.len();
        Ok((meta, reader))
    }

    /// The next row; `None` after the last, when the file was complete.
    fn next_row(&mut self) -> io::Result<Option<Row>> {
        while self.at == self.chunk.len() {
            self.next_chunk()?;
            match self.chunk.first() {
                Some(&ROWS) => self.at = 1,
                Some(&END) => return self.end().map(|()| None),
                _ => return Err(damaged(self.begins, "a chunk of an unknown kind")),
            }
        }
        self.rows += 1;
        Ok(Some((self.take_bytes()?, self.take_bytes()?)))
    }

    fn end(&mut self) -> io::Result<()> {
        self.done = true;
        if self.chunk[1..] != self.rows.to_le_bytes() {
            return Err(damaged(self.begins, "rows are missing before it"));
        }
        match self.input.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(damaged(self.ends, "something follows the end")),
        }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        self.begins = self.ends;
        let mut head = [0; 8];
        self.input.read_exact(&mut head).map_err(|error| cut_short(error, self.begins))?;
        let (len, sum) = head.split_first_chunk::<4>().expect("eight bytes");
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(io::Error::other)?;
        if len > MAX_CHUNK_BYTES {
            return Err(damaged(self.begins, "a chunk's length is impossible"));
        }
        self.chunk.resize(len, 0);
        self.input.read_exact(&mut self.chunk).map_err(|error| cut_short(error, self.begins))?;
        if checksum(self.number, &self.chunk).to_le_bytes() != *sum {
            return Err(damaged(self.begins, "a chunk's checksum does not match"));
        }
        self.number += 1;
        self.ends += (head.len() + len) as u64;
        Ok(())
    }

    fn take_bytes(&mut self) -> io::Result<Vec<u8>> {
        let rest = &self.chunk[self.at..];
        let cut = || damaged(self.begins, "a row in the chunk is cut short");
        let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(io::Error::other)?;
        let bytes = rest.get(..len).ok_or_else(cut)?.to_vec();
        self.at += 4 + len;
        Ok(bytes)
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = io::Result<Row>;

    fn next(&mut self) -> Option<io::Result<Row>> {
        if self.done {
            return None;
        }
        let row = self.next_row().transpose();
        self.done |= !matches!(row, Some(Ok(_)));
        row
    }
}

fn damaged(offset: u64, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged at byte {offset}: {what}"))
}

fn cut_short(error: io::Error, offset: u64) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(offset, "it ends too soon"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: u32) -> Vec<Row> {
        (0..n).map(|n| (n.to_be_bytes().to_vec(), vec![7; 1_000])).collect()
    }

    fn file(rows: Vec<Row>) -> Vec<u8> {
        let mut file = Vec::new();
        write(&mut file, &SnapshotMeta::default(), rows.into_iter()).unwrap();
        file
    }

    fn read(file: &[u8]) -> io::Result<Vec<Row>> {
        Reader::open(file)?.1.collect()
    }

    #[test]
    fn what_is_written_is_read() {
        for n in [0, 1, 1_000] {
            assert_eq!(read(&file(rows(n))).unwrap(), rows(n));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = file(rows(3));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let error = read(&bad).unwrap_err();
            assert!(error.to_string().contains("damaged at byte "), "at {at}: {error}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_not_complete() {
        let good = file(rows(3));
        for len in 0..good.len() {
            assert!(read(&good[..len]).is_err(), "cut to {len}");
        }
        assert!(read(&[&good[..], b"x"].concat()).is_err());
    }
}
