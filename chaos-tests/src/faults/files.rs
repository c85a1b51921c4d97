//! Damage to files of a node that does not run.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Every file below `dir`, sorted.
///
/// # Errors
/// The directory can't be read.
pub fn tree(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a whole directory; what stood at `to` before is gone.
///
/// # Errors
/// A file can't be read or written.
pub fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for file in tree(from)? {
        let target = to.join(file.strip_prefix(from)?);
        fs::create_dir_all(target.parent().unwrap_or(to))?;
        fs::copy(&file, &target)?;
    }
    Ok(())
}

/// Turns over one bit.
///
/// # Errors
/// The file is shorter, or can't be written.
pub fn flip_bit(path: &Path, offset: u64, bit: u8) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(&[byte[0] ^ (1 << (bit % 8))])?;
    Ok(())
}

/// Makes the file end at `length`.
///
/// # Errors
/// It can't be written.
pub fn truncate(path: &Path, length: u64) -> anyhow::Result<()> {
    Ok(OpenOptions::new().write(true).open(path)?.set_len(length)?)
}

/// Zeroes `length` bytes from `offset` on, as a write that never reached the disk leaves them.
///
/// # Errors
/// It can't be written.
pub fn zero(path: &Path, offset: u64, length: usize) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(&vec![0; length])?;
    Ok(())
}

/// Where the file's content ends and only preallocated zeros follow.
///
/// # Errors
/// It can't be read.
pub fn used_length(path: &Path) -> anyhow::Result<u64> {
    let bytes = fs::read(path)?;
    Ok(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1) as u64)
}

/// Every file below `dir` that holds `secret` somewhere.
///
/// # Errors
/// A file can't be read.
pub fn holding(dir: &Path, secret: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in tree(dir)? {
        let bytes = fs::read(&path)?;
        if bytes.windows(secret.len()).any(|window| window == secret.as_bytes()) {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_done_where_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/file");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"abcdef\0\0\0").unwrap();
        assert_eq!(used_length(&file).unwrap(), 6);
        flip_bit(&file, 0, 1).unwrap();
        zero(&file, 4, 2).unwrap();
        truncate(&file, 7).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"cbcd\0\0\0");
        copy_tree(dir.path(), &dir.path().with_extension("copy")).unwrap();
        let copy = dir.path().with_extension("copy");
        assert_eq!(holding(&copy, "bcd").unwrap(), [copy.join("deep/file")]);
        fs::remove_dir_all(copy).unwrap();
    }
}
