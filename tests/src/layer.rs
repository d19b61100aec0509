//! Layers that are what they claim to be: a tar archive, packed by gzip.
//!
//! gzip's "stored" blocks hold the archive uncompressed: random content would not get smaller, and a layer's size is then
//! known beforehand.

use sha2::{Digest as _, Sha256};
use transship_model::Digest;

/// A gzipped archive and the digest of the archive in it, which an image's config names (`diff_ids`).
pub(crate) struct Layer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: Digest,
}

/// An archive of these files.
pub(crate) fn tar_gz(files: &[(&str, &[u8])]) -> Layer {
    let mut tar = Vec::new();
    for (name, content) in files {
        tar.extend(header(name, content.len()));
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    Layer { diff_id: Digest::of(&tar), bytes: gzip(&tar) }
}

/// `size` bytes that depend on `seed` alone.
pub(crate) fn random_bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A number for a part of something seeded: the same for the same inputs, and unlike that of any other part.
pub(crate) fn seed_of(seed: u64, part: &str) -> u64 {
    let hash = Sha256::digest(format!("{seed}/{part}"));
    u64::from_be_bytes(hash[..8].try_into().unwrap())
}

/// A ustar header of a plain file.
fn header(name: &str, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 1000 + 64);
    out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    let mut blocks = data.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).unwrap();
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out
}

/// The checksum of gzip, four bytes a step: layers of many megabytes are made in builds without optimisation.
fn crc32(data: &[u8]) -> u32 {
    const TABLES: [[u32; 256]; 4] = {
        let mut tables = [[0; 256]; 4];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            tables[0][i] = crc;
            i += 1;
        }
        let mut t = 1;
        while t < 4 {
            let mut i = 0;
            while i < 256 {
                let crc: u32 = tables[t - 1][i];
                tables[t][i] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
                i += 1;
            }
            t += 1;
        }
        tables
    };
    let (words, rest) = data.as_chunks::<4>();
    let mut crc = !0u32;
    for word in words {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes(*word)).to_le_bytes();
        crc = TABLES[3][a as usize] ^ TABLES[2][b as usize] ^ TABLES[1][c as usize] ^ TABLES[0][d as usize];
    }
    for byte in rest {
        crc = crc >> 8 ^ TABLES[0][((crc ^ u32::from(*byte)) & 0xff) as usize];
    }
    !crc
}
