//! What goes over the socket. Both sides are this program, of the same build or not: the first
//! number tells.
//!
//! ```text
//! client   number, fields of the request; then each file's content as a framed stream
//! server   any number of tagged replies: lines of the log, notes; then one of
//!          - failed, and why
//!          - for each output its name and its NAR as a framed stream; then the builder's end
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use bstr::BString;
use droste_executor::{BuilderStart, Exit, ExternalBuild};
use store_types::{StoreDir, StorePath};
use store_wire::{
    FramedReader, FramedWriter, NAME_LEN_MAX, Reader, STRING_LEN_MAX, WireError, Writer,
};

/// `drosteX` and a version.
const REQUEST: u64 = 0x5865_7473_6f72_6401;

/// What the files of a build directory may have in all.
pub const FILES_BYTES_MAX: u64 = 256 << 20;

/// The longest line of a log; the executor cuts longer ones.
const LINE_LEN_MAX: u64 = 1 << 20;

const LINE: u64 = 1;
const NOTE: u64 = 2;
const FAILED: u64 = 3;
const OUTPUT: u64 = 4;
const ENDED: u64 = 5;

/// A request that is none.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is not of the form.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It is for another version of this program, or for something else.
    #[error("the other side is another version of droste, or something else")]
    Version,
    /// Its paths are elsewhere.
    #[error("its store is in `{theirs}`, not in `{ours}`")]
    StoreDir {
        /// Where it is.
        theirs: String,
        /// Where ours is.
        ours: String,
    },
    /// A path that is none.
    #[error("`{0}` is not a store path")]
    Path(String),
    /// A file's name that would lead out of the build directory.
    #[error("`{0}` names no file of the build directory")]
    FileName(String),
    /// Too much for the build directory.
    #[error("the files of the build directory have more than {FILES_BYTES_MAX} bytes")]
    Files,
    /// The connection ended.
    #[error("cannot read a file of the build directory")]
    Io(#[source] io::Error),
}

/// Writes what is to be built.
pub fn write_request(
    out: &mut impl Write,
    store_dir: &StoreDir,
    build: &ExternalBuild,
) -> io::Result<()> {
    let mut w = Writer::new();
    w.u64(REQUEST)
        .bytes(store_dir.as_str())
        .bytes(&build.system)
        .bytes(&build.builder)
        .list(&build.start.args, |w, arg| {
            w.bytes(arg);
        })
        .list(&build.start.env, |w, (name, value)| {
            w.bytes(name).bytes(value);
        })
        .list(&build.inputs, |w, path| {
            w.bytes(store_dir.display(path));
        })
        .list(&build.outputs, |w, (name, path)| {
            w.bytes(name).bytes(store_dir.display(path));
        })
        .bool(build.is_fixed)
        .list(&build.start.files, |w, (name, _)| {
            w.bytes(name);
        });
    out.write_all(&w.into_bytes())?;
    for (_, contents) in &build.start.files {
        let mut framed = FramedWriter::new(&mut *out);
        framed.write_all(contents)?;
        framed.finish()?;
    }
    out.flush()
}

/// Reads what is to be built; the store is in `store_dir`.
///
/// # Errors
/// If it is not a request, or too large.
pub fn read_request(
    input: &mut impl Read,
    store_dir: &StoreDir,
) -> Result<ExternalBuild, RequestError> {
    let mut r = Reader::new(input);
    if r.u64("version")? != REQUEST {
        return Err(RequestError::Version);
    }
    let theirs = r.name("store directory")?;
    if theirs != store_dir.as_str() {
        return Err(RequestError::StoreDir {
            theirs,
            ours: store_dir.as_str().to_owned(),
        });
    }
    let path = |text: String| store_dir.parse(&text).map_err(|_| RequestError::Path(text));
    let system = r.name("system")?;
    let builder = r.bytes("builder", NAME_LEN_MAX)?.into();
    let args: Vec<BString> = r.list("args", |r| Ok(r.bytes("argument", STRING_LEN_MAX)?.into()))?;
    let env: BTreeMap<BString, BString> = r.list("env", |r| {
        let name = r.bytes("variable", STRING_LEN_MAX)?.into();
        Ok((name, r.bytes("value", STRING_LEN_MAX)?.into()))
    })?;
    let inputs: Vec<String> = r.list("inputs", |r| r.name("input"))?;
    let outputs: Vec<(String, String)> =
        r.list("outputs", |r| Ok((r.name("output")?, r.name("path")?)))?;
    let is_fixed = r.bool("fixed")?;
    let names: Vec<String> = r.list("files", |r| r.name("file"))?;
    let mut left = FILES_BYTES_MAX;
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        if matches!(name.as_str(), "" | "." | "..") || name.contains('/') {
            return Err(RequestError::FileName(name));
        }
        let mut contents = Vec::new();
        let mut framed = FramedReader::new(r.inner());
        let len = (&mut framed)
            .take(left + 1)
            .read_to_end(&mut contents)
            .map_err(RequestError::Io)? as u64;
        left = left.checked_sub(len).ok_or(RequestError::Files)?;
        files.push((name, contents.into()));
    }
    Ok(ExternalBuild {
        builder,
        system,
        start: BuilderStart { env, args, files },
        inputs: inputs
            .into_iter()
            .map(path)
            .collect::<Result<BTreeSet<StorePath>, _>>()?,
        outputs: outputs
            .into_iter()
            .map(|(name, text)| Ok((name, path(text)?)))
            .collect::<Result<BTreeMap<_, _>, RequestError>>()?,
        is_fixed,
    })
}

/// What is answered, but for the NAR that follows an output's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The builder wrote a line; its end is not part of it.
    Line(Vec<u8>),
    /// Something worth telling the user.
    Note(String),
    /// It could not be built, or has failed otherwise than by the builder's exit.
    Failed(String),
    /// An output, which follows as a framed stream.
    Output(String),
    /// The builder has ended, and all outputs were sent if it succeeded.
    Ended(Exit),
}

impl Reply {
    /// Writes it.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut w = Writer::new();
        match self {
            Self::Line(line) => w.u64(LINE).bytes(line),
            Self::Note(text) => w.u64(NOTE).bytes(text),
            Self::Failed(text) => w.u64(FAILED).bytes(text),
            Self::Output(name) => w.u64(OUTPUT).bytes(name),
            Self::Ended(Exit::Code(code)) => w.u64(ENDED).u64(0).u64(*code as u64),
            Self::Ended(Exit::Signal(signal)) => w.u64(ENDED).u64(1).u64(*signal as u64),
        };
        out.write_all(&w.into_bytes())
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is none, or the connection has ended.
    pub fn read(input: &mut impl Read) -> Result<Self, WireError> {
        let mut r = Reader::new(input);
        Ok(match r.u64("reply")? {
            LINE => Self::Line(r.bytes("line", LINE_LEN_MAX)?),
            NOTE => Self::Note(r.text("note", STRING_LEN_MAX)?),
            FAILED => Self::Failed(r.text("failure", STRING_LEN_MAX)?),
            OUTPUT => Self::Output(r.name("output")?),
            ENDED => {
                let is_signal = r.bool("signal")?;
                let value = r.u64_at_most("end", 255)? as i32;
                Self::Ended(match is_signal {
                    true => Exit::Signal(value),
                    false => Exit::Code(value),
                })
            }
            value => {
                return Err(WireError::Number {
                    field: "reply",
                    value,
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> ExternalBuild {
        let path = |name: &str| {
            StorePath::from_base_name(&format!("{}-{name}", "a".repeat(32))).expect("a path")
        };
        ExternalBuild {
            builder: "/bin/sh".into(),
            system: "x86_64-linux".to_owned(),
            start: BuilderStart {
                env: BTreeMap::from([("a".into(), "b\n".into())]),
                args: vec!["-c".into(), "".into()],
                files: vec![
                    (".attrs.json".to_owned(), "{}".into()),
                    ("empty".to_owned(), "".into()),
                    ("long".to_owned(), vec![b'x'; 200_000].into()),
                ],
            },
            inputs: BTreeSet::from([path("in"), path("other")]),
            outputs: BTreeMap::from([("out".to_owned(), path("out"))]),
            is_fixed: true,
        }
    }

    #[test]
    fn a_request_comes_back() {
        let dir = StoreDir::default();
        let mut bytes = Vec::new();
        write_request(&mut bytes, &dir, &build()).expect("memory can be written");
        let mut input = &bytes[..];
        let read = read_request(&mut input, &dir).expect("it is a request");
        assert_eq!(format!("{read:?}"), format!("{:?}", build()));
        assert!(input.is_empty());
        for len in 0..bytes.len().min(2000) {
            assert!(read_request(&mut &bytes[..len], &dir).is_err(), "{len}");
        }
    }

    #[test]
    fn files_lie_in_the_build_directory() {
        let dir = StoreDir::default();
        for name in ["", ".", "..", "/etc/passwd", "../f", "a/b"] {
            let mut build = build();
            build.start.files = vec![(name.to_owned(), "x".into())];
            let mut bytes = Vec::new();
            write_request(&mut bytes, &dir, &build).expect("memory can be written");
            let read = read_request(&mut &bytes[..], &dir);
            assert!(matches!(read, Err(RequestError::FileName(_))), "{name}");
        }
    }

    #[test]
    fn a_reply_comes_back() {
        for reply in [
            Reply::Line(b"\xff".to_vec()),
            Reply::Note("n".to_owned()),
            Reply::Failed("f".to_owned()),
            Reply::Output("dev".to_owned()),
            Reply::Ended(Exit::Code(3)),
            Reply::Ended(Exit::Signal(9)),
        ] {
            let mut bytes = Vec::new();
            reply.write(&mut bytes).expect("memory can be written");
            assert_eq!(Reply::read(&mut &bytes[..]).expect("a reply"), reply);
        }
    }
}
