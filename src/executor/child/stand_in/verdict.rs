//! Whether what a child with stand-ins left is, after putting the hashes back, what the
//! plain call leaves.

use memchr::memmem;

use super::elf::sections;
use super::{Mapping, Refusal, StandIns, Which, seeds};

/// What a child left: its files in order, then standard output and standard error.
pub type Left = Vec<Vec<u8>>;

/// What is known of a child with first stand-ins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can be used by every derivation. Hashes have to be put back in these of what it
    /// [left](Left), and in no others.
    Restore(Vec<usize>),
    /// It cannot be used.
    Refused(Refusal),
}

impl Verdict {
    /// The verdict as a line of text.
    pub fn print(&self) -> String {
        match self {
            Self::Restore(which) => {
                let numbers: Vec<String> = which.iter().map(usize::to_string).collect();
                format!("restore {}", numbers.join(" "))
            }
            Self::Refused(refusal) => format!("refused {}", refusal.name()),
        }
    }

    /// A verdict that [`Self::print`] has made; `None` for any other text.
    pub fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("restore", "") => Some(Self::Restore(Vec::new())),
            ("restore", numbers) => numbers
                .split(' ')
                .map(|number| number.parse().ok())
                .collect::<Option<_>>()
                .map(Self::Restore),
            ("refused", name) => Refusal::named(name).map(Self::Refused),
            _ => None,
        }
    }
}

/// Looks at what a child with first stand-ins left. `words` are its arguments and the
/// values of its environment. Where this gives no refusal, everything in which hashes have to
/// be put back is told.
pub fn look(stand_ins: &StandIns, words: &[&[u8]], left: &Left) -> Result<Vec<usize>, Refusal> {
    let marks = seed_marks(stand_ins, words)?;
    let files = left.len().saturating_sub(2);
    let mut to_restore = Vec::new();
    for (number, bytes) in left.iter().enumerate() {
        let hits = stand_ins.restore().hits(bytes)?;
        let is_text = number >= files;
        let sections = sections(bytes);
        // What is in these cannot be looked at.
        for section in sections.iter().flatten() {
            if section.is_compressed() {
                return Err(Refusal::COMPRESSED);
            }
            if section.is_intermediate_code() {
                return Err(Refusal::INTERMEDIATE_CODE);
            }
        }
        if marks.iter().any(|mark| memmem::find(bytes, mark).is_some()) {
            return Err(Refusal::SEED_NUMBER);
        }
        if hits.is_empty() {
            continue;
        }
        to_restore.push(number);
        if is_text {
            continue;
        }
        let sections = sections.ok_or(Refusal::FILE_KIND)?;
        for hit in hits {
            let section = sections.iter().find(|section| {
                section.range.start <= hit.at && hit.at + hit.len <= section.range.end
            });
            match section {
                Some(section) if section.is_plain_data() => {}
                Some(section) if section.is_debug() => return Err(Refusal::DEBUG_STRINGS),
                _ => return Err(Refusal::SECTION),
            }
        }
    }
    Ok(to_restore)
}

/// Whether two children left the same, but for the stand-ins that they were compiled with.
pub fn is_same_but_for_stand_ins(
    stand_ins: &StandIns,
    first: &Left,
    second: &Left,
) -> Result<(), Refusal> {
    let own_again = stand_ins.restore();
    let to_second: &Mapping = stand_ins.replace(Which::Second);
    let is_same = |first: &[u8], second: &[u8]| -> Result<bool, Refusal> {
        Ok(to_second.applied(&own_again.applied(first)?)? == second)
    };
    if first.len() != second.len() {
        return Err(Refusal::DIFFERENT);
    }
    for (first, second) in first.iter().zip(second) {
        if !is_same(first, second)? {
            return Err(Refusal::DIFFERENT);
        }
    }
    Ok(())
}

/// The forms in which the number that GCC makes of a seed can be in a file.
///
/// By experiment (`-flto`, whose section names end with it): a seed that is no number gives the
/// CRC of POSIX's polynomial, from zero, over the text and its NUL.
fn seed_marks(stand_ins: &StandIns, words: &[&[u8]]) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut marks = Vec::new();
    for seed in words.iter().flat_map(|word| seeds(word)) {
        if stand_ins
            .restore()
            .hits(&[super::SEED_FLAG, seed].concat())?
            .is_empty()
        {
            continue;
        }
        let number = seed_number(seed);
        marks.extend([
            format!("{number:x}").into_bytes(),
            format!("{number:X}").into_bytes(),
            number.to_le_bytes().to_vec(),
            number.to_be_bytes().to_vec(),
        ]);
    }
    marks.sort_unstable();
    marks.dedup();
    Ok(marks)
}

fn seed_number(seed: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x04c1_1db7;
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            let carry = crc & 0x8000_0000 != 0;
            (crc << 1) ^ if carry { POLYNOMIAL } else { 0 }
        })
    };
    seed.iter().chain(&[0]).fold(0, step)
}

#[cfg(test)]
mod tests;
