//! The primitives: 64-bit little-endian numbers, padded byte strings, counts.
//!
//! Source: Nix manual, "Nix Daemon Protocol"; nix `src/libutil/serialise.cc`.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest byte string of a message. The largest seen in practice are the
/// texts of derivations and `__json` variables, of a few MiB.
pub const STRING_LEN_MAX: u64 = 32 << 20;

/// The longest text that names something (a path, a setting, an output).
pub const NAME_LEN_MAX: u64 = 8 << 10;

/// The longest list. A store with a million paths can still be asked about
/// all of them at once.
pub const LIST_LEN_MAX: u64 = 1 << 20;

/// What one message may make its reader hold in memory, payload streams not
/// counted, each item of a list counted as [`ITEM_BYTES`] on top of its text.
pub const MESSAGE_BYTES_MAX: u64 = 128 << 20;

/// What a list item is counted as, for its allocation and bookkeeping.
pub const ITEM_BYTES: u64 = 64;

/// What a message may hold before it needs a part of what [is shared](SharedBudget): more than
/// nearly all messages have.
pub const MESSAGE_BYTES_FREE: u64 = 256 << 10;

/// Shared bytes are taken in such steps.
const SHARED_STEP: u64 = 1 << 20;

/// How much is allocated before the bytes it is for have arrived.
const ALLOCATION_AHEAD_MAX: u64 = 64 << 10;

/// Why bytes are not a message.
///
/// After any of these the two sides are out of step, and the connection is of
/// no further use.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed.
    #[error("cannot read `{field}`")]
    Io {
        /// What was being read.
        field: &'static str,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The connection ended within a message.
    #[error("the connection ended within `{field}`")]
    End {
        /// What was being read.
        field: &'static str,
    },
    /// A length or count above its limit.
    #[error("`{field}` is announced with {len}, more than the {max} allowed")]
    TooLong {
        /// What was being read.
        field: &'static str,
        /// What was announced.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The message as a whole is above [`MESSAGE_BYTES_MAX`].
    #[error("the message is longer than allowed, at `{field}`")]
    MessageTooLong {
        /// What was being read.
        field: &'static str,
    },
    /// Too much is held for other messages.
    #[error("there is no room for `{field}`, since other messages are being read; try again")]
    Crowded {
        /// What was being read.
        field: &'static str,
    },
    /// Padding bytes that are not zero.
    #[error("`{field}` has padding that is not zero")]
    Padding {
        /// What was being read.
        field: &'static str,
    },
    /// A number that means nothing there.
    #[error("`{field}` cannot be {value}")]
    Number {
        /// What was being read.
        field: &'static str,
        /// What was sent.
        value: u64,
    },
    /// A text that is not of its field's form.
    #[error("`{field}` cannot be `{text}`")]
    Text {
        /// What was being read.
        field: &'static str,
        /// What was sent, shortened.
        text: String,
        /// What its parser says.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl WireError {
    /// A text error without a parser's cause.
    pub fn text(field: &'static str, text: &[u8]) -> Self {
        Self::Text {
            field,
            text: shorten(text),
            source: None,
        }
    }

    /// A text error with a parser's cause.
    pub fn text_from(
        field: &'static str,
        text: &[u8],
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Text {
            field,
            text: shorten(text),
            source: Some(source.into()),
        }
    }
}

/// What of a rejected text goes into a message.
fn shorten(text: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN_MAX)]);
    if text.len() > SHOWN_MAX {
        format!("{shown}…")
    } else {
        shown.into_owned()
    }
}

/// How many bytes the messages of several readers may hold together, small ones not counted.
#[derive(Debug)]
pub struct SharedBudget {
    held_bytes: AtomicU64,
    bytes_max: u64,
    /// Whose part it is.
    whole: Option<Arc<SharedBudget>>,
}

impl SharedBudget {
    /// So many bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Self::part(bytes_max, None)
    }

    /// So many bytes of another budget; parts may be more than the whole together.
    pub fn part_of(whole: &Arc<Self>, bytes_max: u64) -> Arc<Self> {
        Self::part(bytes_max, Some(Arc::clone(whole)))
    }

    fn part(bytes_max: u64, whole: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            held_bytes: AtomicU64::new(0),
            bytes_max,
            whole,
        })
    }

    /// How many bytes are held.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let before = self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room = before.saturating_add(bytes) <= self.bytes_max;
        if has_room && self.whole.as_ref().is_none_or(|whole| whole.take(bytes)) {
            return true;
        }
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    fn give_back(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// What one message holds of a shared budget.
#[derive(Default)]
struct Share {
    budget: Option<Arc<SharedBudget>>,
    bytes: u64,
}

impl Share {
    fn reach(&mut self, bytes: u64) -> bool {
        let Some(budget) = &self.budget else {
            return true;
        };
        if bytes <= self.bytes {
            return true;
        }
        let more = (bytes - self.bytes).next_multiple_of(SHARED_STEP);
        let has_room = budget.take(more);
        if has_room {
            self.bytes += more;
        }
        has_room
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some(budget) = self.budget.as_ref().filter(|_| bytes > 0) {
            budget.give_back(bytes);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Reads primitives and keeps the limits.
pub struct Reader<R> {
    inner: R,
    budget_bytes: u64,
    share: Share,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of a message. `inner` should be buffered.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            budget_bytes: MESSAGE_BYTES_MAX,
            share: Share::default(),
        }
    }

    /// Of messages that are not small, takes what they hold from this budget, until the next
    /// begins.
    pub fn sharing(mut self, budget: Option<Arc<SharedBudget>>) -> Self {
        self.share = Share { budget, bytes: 0 };
        self
    }

    /// A new message begins: its budget is whole again. What the one before held is given back, so
    /// it should be called as soon as that is done with, too.
    pub fn begin_message(&mut self) {
        self.budget_bytes = MESSAGE_BYTES_MAX;
        self.share.give_back();
    }

    /// The bytes after what was read, for payloads.
    pub fn inner(&mut self) -> &mut R {
        &mut self.inner
    }

    /// Gives the source back.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn charge(&mut self, field: &'static str, bytes: u64) -> Result<(), WireError> {
        match self.budget_bytes.checked_sub(bytes) {
            Some(rest) => {
                self.budget_bytes = rest;
                let held = MESSAGE_BYTES_MAX - rest;
                match held <= MESSAGE_BYTES_FREE || self.share.reach(held) {
                    true => Ok(()),
                    false => Err(WireError::Crowded { field }),
                }
            }
            None => Err(WireError::MessageTooLong { field }),
        }
    }

    fn fill(&mut self, field: &'static str, bytes: &mut [u8]) -> Result<(), WireError> {
        self.inner
            .read_exact(bytes)
            .map_err(|source| io_error(field, source))
    }

    /// A number, or `None` if the connection ended before its first byte.
    pub fn u64_or_end(&mut self, field: &'static str) -> Result<Option<u64>, WireError> {
        let mut bytes = [0; 8];
        let first = loop {
            match self.inner.read(&mut bytes[..1]) {
                Ok(len) => break len,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(WireError::Io { field, source }),
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.fill(field, &mut bytes[1..])?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    /// A number.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        let mut bytes = [0; 8];
        self.fill(field, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A number that is 0 for false; Nix takes any other for true.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, WireError> {
        Ok(self.u64(field)? != 0)
    }

    /// A number with an upper bound, both as the wire has them.
    pub fn u64_at_most(&mut self, field: &'static str, max: u64) -> Result<u64, WireError> {
        match self.u64(field)? {
            value if value > max => Err(WireError::Number { field, value }),
            value => Ok(value),
        }
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&mut self, field: &'static str, max: u64) -> Result<Vec<u8>, WireError> {
        let len = self.u64(field)?;
        if len > max {
            return Err(WireError::TooLong { field, len, max });
        }
        self.charge(field, len)?;
        let mut bytes = Vec::with_capacity(len.min(ALLOCATION_AHEAD_MAX) as usize);
        let got = (&mut self.inner)
            .take(len)
            .read_to_end(&mut bytes)
            .map_err(|source| io_error(field, source))?;
        if got as u64 != len {
            return Err(WireError::End { field });
        }
        self.padding(field, len)?;
        Ok(bytes)
    }

    /// The zeros that fill a string of this length up to a multiple of 8.
    pub(crate) fn padding(&mut self, field: &'static str, len: u64) -> Result<(), WireError> {
        let mut padding = [0; 7];
        let padding = &mut padding[..padding_len(len)];
        self.fill(field, padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(WireError::Padding { field });
        }
        Ok(())
    }

    /// A UTF-8 text of at most `max` bytes.
    pub fn text(&mut self, field: &'static str, max: u64) -> Result<String, WireError> {
        String::from_utf8(self.bytes(field, max)?)
            .map_err(|err| WireError::text(field, err.as_bytes()))
    }

    /// A UTF-8 text that names something.
    pub fn name(&mut self, field: &'static str) -> Result<String, WireError> {
        self.text(field, NAME_LEN_MAX)
    }

    /// A count of items that follow.
    pub fn count(&mut self, field: &'static str) -> Result<u64, WireError> {
        match self.u64(field)? {
            len if len > LIST_LEN_MAX => Err(WireError::TooLong {
                field,
                len,
                max: LIST_LEN_MAX,
            }),
            len => Ok(len),
        }
    }

    /// A counted list, collected into anything that can take it.
    pub fn list<T, C: Default + Extend<T>>(
        &mut self,
        field: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<C, WireError> {
        let mut items = C::default();
        for _ in 0..self.count(field)? {
            self.charge(field, ITEM_BYTES)?;
            items.extend(Some(item(self)?));
        }
        Ok(items)
    }
}

fn io_error(field: &'static str, source: io::Error) -> WireError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => WireError::End { field },
        _ => WireError::Io { field, source },
    }
}

const fn padding_len(len: u64) -> usize {
    ((8 - len % 8) % 8) as usize
}

/// Writes primitives to memory. Nothing here can fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A number.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u64(value.into())
    }

    /// A padded byte string.
    pub fn bytes(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.u64(value.len() as u64).raw(value);
        self.raw(&[0; 7][..padding_len(value.len() as u64)])
    }

    /// Bytes without a length.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self
    }

    /// A counted list.
    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut item: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        let items = items.into_iter();
        self.u64(items.len() as u64);
        for value in items {
            item(self, value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_and_lists_come_back(
            number: u64,
            strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
        ) {
            let mut writer = Writer::new();
            writer.u64(number).list(&strings, |w, s| {
                w.bytes(s);
            });
            let bytes = writer.into_bytes();
            prop_assert_eq!(bytes.len() % 8, 0);
            let mut reader = Reader::new(&bytes[..]);
            prop_assert_eq!(reader.u64("n").unwrap(), number);
            let read: Vec<Vec<u8>> = reader.list("s", |r| r.bytes("s", 64)).unwrap();
            prop_assert_eq!(read, strings);
            prop_assert_eq!(reader.u64_or_end("end").unwrap(), None);
        }
    }

    #[test]
    fn padding_that_is_not_zero_is_an_error() {
        let mut bytes = {
            let mut writer = Writer::new();
            writer.bytes(b"abc");
            writer.into_bytes()
        };
        bytes[15] = 1;
        let read = Reader::new(&bytes[..]).bytes("s", 64);
        assert!(matches!(read, Err(WireError::Padding { .. })), "{read:?}");
    }

    #[test]
    fn announced_lengths_are_bounded_before_anything_is_allocated() {
        for len in [
            u64::MAX,
            u64::MAX - 7,
            u64::MAX - 8,
            1 << 40,
            STRING_LEN_MAX + 1,
        ] {
            let bytes = len.to_le_bytes();
            let read = Reader::new(&bytes[..]).bytes("s", STRING_LEN_MAX);
            assert!(matches!(read, Err(WireError::TooLong { .. })), "{read:?}");
            let read = Reader::new(&bytes[..]).list::<_, Vec<u64>>("l", |r| r.u64("i"));
            assert!(matches!(read, Err(WireError::TooLong { .. })), "{read:?}");
        }
        let bytes = STRING_LEN_MAX.to_le_bytes();
        let read = Reader::new(&bytes[..]).bytes("s", STRING_LEN_MAX);
        assert!(matches!(read, Err(WireError::End { .. })), "{read:?}");
    }

    #[test]
    fn many_small_items_use_up_the_messages_budget() {
        struct Zeros;
        impl Read for Zeros {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                bytes.fill(0);
                Ok(bytes.len())
            }
        }
        let mut reader = Reader::new(Zeros);
        let mut lists = 0;
        let err = loop {
            // A list of as many empty strings as a list may have.
            let announced = LIST_LEN_MAX.to_le_bytes();
            let mut one = Reader {
                inner: announced.chain(&mut reader.inner),
                budget_bytes: reader.budget_bytes,
                share: Share::default(),
            };
            match one.list::<_, Vec<_>>("l", |r| r.bytes("s", 8)) {
                Ok(_) => lists += 1,
                Err(err) => break err,
            }
            reader.budget_bytes = one.budget_bytes;
        };
        assert!(matches!(err, WireError::MessageTooLong { .. }), "{err}");
        assert_eq!(lists, MESSAGE_BYTES_MAX / ITEM_BYTES / LIST_LEN_MAX);
    }
}
