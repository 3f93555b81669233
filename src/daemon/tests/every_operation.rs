//! Every operation at every version, as bytes: what is sent and what comes back is written and read
//! here by hand, by Nix's source, and not by the codec that the server uses. Real Nix's daemon, if it
//! is there (see `real_nix.rs`), gets the same bytes and must answer in the same shapes.
//!
//! Source: nix `src/libstore/daemon.cc` (`performOp`), `worker-protocol.cc`.

mod support;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use droste_daemon::{Limits, Server, Trust};
use store_types::{
    ContentAddress, ContentAddressMethod, Derivation, DerivationOutput, References, StoreDir,
    StorePath, sha256,
};

use support::{DirStore, nar_of_file, serve};

const VERSIONS: std::ops::RangeInclusive<u64> = 21..=38;

/// The feature with which realisations are keyed by the paths of their derivations.
const BY_PATH: &str = "realisation-with-path-not-hash";

/// How long an answer may take: what hangs is a failure, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a reply is made of.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Nothing,
    Number,
    Text,
    Texts,
    /// Pairs of texts.
    Map,
    /// A number, and with 1 an info without its path.
    OptionalInfo,
    /// An info after its path.
    Info,
    /// 0: nothing is known to a substituter.
    NoInfo,
    Missing,
    Garbage,
    BuildResult,
    /// A path before each.
    BuildResults,
    /// Of `QueryRealisation`.
    Realisations,
    /// This NAR.
    Nar,
}

/// What follows a request.
#[derive(Clone, Debug)]
enum Payload {
    Nothing,
    /// In frames.
    Framed(Vec<u8>),
    /// With nothing around it.
    Bare(Vec<u8>),
    /// In pieces that the server asks for.
    Pulled(Vec<u8>),
}

struct Row {
    number: u64,
    name: &'static str,
    fields: Vec<u8>,
    payload: Payload,
    shape: Shape,
}

/// Numbers and texts, as bytes.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn n(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn s(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let mut bytes = self.n(text.len() as u64);
        bytes.0.extend(text);
        let len = bytes.0.len();
        bytes.0.resize(len.next_multiple_of(8), 0);
        bytes
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn list(self, texts: &[&str]) -> Self {
        let begun = self.n(texts.len() as u64);
        texts.iter().fold(begun, |bytes, text| bytes.s(text))
    }
}

/// What lies in the store that is asked.
struct World {
    dir: StoreDir,
    content: &'static [u8],
    /// A file with that content, and the derivation of which it is the output.
    file: String,
    drv: String,
    derivation: Derivation,
    /// A place for links.
    links: PathBuf,
}

impl World {
    fn new(links: PathBuf) -> Self {
        let dir = StoreDir::default();
        let content = b"the content";
        let ca = ContentAddress {
            method: ContentAddressMethod::Flat,
            hash: sha256(content),
        };
        let file = dir
            .content_addressed_path("file", &ca, &References::default())
            .unwrap();
        let derivation = Derivation {
            env: [("out".into(), dir.display(&file).into())].into(),
            outputs: [(
                "out".to_owned(),
                DerivationOutput::Fixed {
                    ca,
                    path: file.clone(),
                },
            )]
            .into(),
            system: "x86_64-linux".into(),
            builder: "/bin/sh".into(),
            ..Derivation::default()
        };
        let drv = derivation.drv_path(&dir, "file").unwrap();
        Self {
            file: dir.display(&file),
            drv: dir.display(&drv),
            dir,
            content,
            derivation,
            links,
        }
    }

    /// An object that is not there yet, its path and the rest of its info.
    fn new_object(&self, digit: u8) -> (String, Bytes, Vec<u8>) {
        let path = StorePath::from_hash_and_name(&[digit; 20], "object").unwrap();
        let nar = nar_of_file(b"object");
        let hash: String = sha256(&nar)
            .bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let info = Bytes::default()
            .s("")
            .s(hash)
            .list(&[])
            .n(1)
            .n(nar.len() as u64)
            .n(0)
            .list(&[])
            .s("");
        (self.dir.display(&path), info, nar)
    }

    /// All operations, in an order in which each can be answered. `by_path` is said of
    /// realisations.
    fn rows(&self, minor: u64, by_path: bool) -> Vec<Row> {
        let (file, drv) = (self.file.as_str(), self.drv.as_str());
        let base = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        let bytes = Bytes::default;
        let wanted = match minor < 30 {
            true => drv.to_owned(),
            false => format!("{drv}!*"),
        };
        let wanted = wanted.as_str();
        let hash_part = &base(file)[..32];
        let id = format!("sha256:{}!out", "ab".repeat(32));
        let realisation = format!(
            r#"{{"dependentRealisations":{{}},"id":"{id}","outPath":"{}","signatures":[]}}"#,
            base(file)
        );
        let link = self.links.join(format!("link-{minor}"));
        let link = link.to_str().unwrap();
        let signature = format!("key:{}==", "A".repeat(86));
        let aterm = self.derivation.to_aterm(&self.dir);
        let ca = match &self.derivation.outputs["out"] {
            DerivationOutput::Fixed { ca, .. } => ca.hash,
            _ => unreachable!("it is a fixed one"),
        };
        let hex: String = ca.bytes().iter().map(|b| format!("{b:02x}")).collect();
        let basic = bytes()
            .s(drv)
            .n(1)
            .s("out")
            .s(file)
            .s("sha256")
            .s(hex)
            .list(&[])
            .s("x86_64-linux")
            .s("/bin/sh")
            .list(&[])
            .n(1)
            .s("out")
            .s(file)
            .n(0);
        let (one, one_info, one_nar) = self.new_object(minor as u8);
        let (two, two_info, two_nar) = self.new_object(100 + minor as u8);
        let nothing = || Payload::Nothing;
        let mut rows = Vec::new();
        let mut row = |number, name, fields: Bytes, payload, shape| {
            let fields = fields.0;
            rows.push(Row {
                number,
                name,
                fields,
                payload,
                shape,
            });
        };
        match minor {
            // Since 1.25 the way is named, and there may be references.
            25.. => row(
                7,
                "AddToStore",
                bytes().s("file").s("fixed:sha256").list(&[]).n(0),
                Payload::Framed(self.content.to_vec()),
                Shape::Info,
            ),
            // Fixed, not recursive.
            _ => row(
                7,
                "AddToStore",
                bytes().s("file").n(1).n(0).s("sha256"),
                Payload::Bare(nar_of_file(self.content)),
                Shape::Text,
            ),
        }
        row(
            8,
            "AddTextToStore",
            bytes().s("file.drv").s(aterm).list(&[]),
            nothing(),
            Shape::Text,
        );
        row(1, "IsValidPath", bytes().s(file), nothing(), Shape::Number);
        row(
            6,
            "QueryReferrers",
            bytes().s(file),
            nothing(),
            Shape::Texts,
        );
        row(
            9,
            "BuildPaths",
            bytes().list(&[file, wanted]).n(0),
            nothing(),
            Shape::Number,
        );
        row(10, "EnsurePath", bytes().s(file), nothing(), Shape::Number);
        row(11, "AddTempRoot", bytes().s(file), nothing(), Shape::Number);
        row(
            12,
            "AddIndirectRoot",
            bytes().s(link),
            nothing(),
            Shape::Number,
        );
        row(13, "SyncWithGC", bytes(), nothing(), Shape::Number);
        row(14, "FindRoots", bytes(), nothing(), Shape::Map);
        row(18, "QueryDeriver", bytes().s(file), nothing(), Shape::Text);
        let options = bytes()
            .n(0)
            .n(0)
            .n(0)
            .n(3)
            .n(1)
            .n(0)
            .n(1)
            .n(0)
            .n(0)
            .n(0)
            .n(0)
            .n(0);
        let options = options
            .n(2)
            .s("no-such-setting")
            .s("x")
            .s("timeout")
            .s("100");
        row(19, "SetOptions", options, nothing(), Shape::Nothing);
        let collect = bytes().n(0).list(&[]).n(0).n(u64::MAX).n(0).n(0).n(0);
        row(20, "CollectGarbage", collect, nothing(), Shape::Garbage);
        row(
            21,
            "QuerySubstitutablePathInfo",
            bytes().s(file),
            nothing(),
            Shape::NoInfo,
        );
        row(
            22,
            "QueryDerivationOutputs",
            bytes().s(drv),
            nothing(),
            Shape::Texts,
        );
        row(23, "QueryAllValidPaths", bytes(), nothing(), Shape::Texts);
        row(
            26,
            "QueryPathInfo",
            bytes().s(file),
            nothing(),
            Shape::OptionalInfo,
        );
        row(
            28,
            "QueryDerivationOutputNames",
            bytes().s(drv),
            nothing(),
            Shape::Texts,
        );
        row(
            29,
            "QueryPathFromHashPart",
            bytes().s(hash_part),
            nothing(),
            Shape::Text,
        );
        let infos = match minor < 22 {
            true => bytes().list(&[file]),
            false => bytes().n(1).s(file).s(""),
        };
        row(
            30,
            "QuerySubstitutablePathInfos",
            infos,
            nothing(),
            Shape::NoInfo,
        );
        let valid = bytes().list(&[file, drv]);
        let valid = match minor < 27 {
            true => valid,
            false => valid.n(0),
        };
        row(31, "QueryValidPaths", valid, nothing(), Shape::Texts);
        row(
            32,
            "QuerySubstitutablePaths",
            bytes().list(&[file]),
            nothing(),
            Shape::Texts,
        );
        row(
            33,
            "QueryValidDerivers",
            bytes().s(file),
            nothing(),
            Shape::Texts,
        );
        row(34, "OptimiseStore", bytes(), nothing(), Shape::Number);
        row(
            35,
            "VerifyStore",
            bytes().n(0).n(0),
            nothing(),
            Shape::Number,
        );
        row(36, "BuildDerivation", basic, nothing(), Shape::BuildResult);
        row(
            37,
            "AddSignatures",
            bytes().s(file).list(&[&signature]),
            nothing(),
            Shape::Number,
        );
        row(38, "NarFromPath", bytes().s(file), nothing(), Shape::Nar);
        let add = bytes().s(one).raw(&one_info.0).n(0).n(1);
        let nar = match minor < 23 {
            true => Payload::Pulled(one_nar),
            false => Payload::Framed(one_nar),
        };
        row(39, "AddToStoreNar", add, nar, Shape::Nothing);
        row(
            40,
            "QueryMissing",
            bytes().list(&[wanted]),
            nothing(),
            Shape::Missing,
        );
        row(
            41,
            "QueryDerivationOutputMap",
            bytes().s(drv),
            nothing(),
            Shape::Map,
        );
        let register = match minor {
            _ if by_path => bytes().s(drv).s("out").s(file).list(&[&signature]),
            ..31 => bytes().s(&id).s(base(file)),
            _ => bytes().s(realisation),
        };
        let query = match by_path {
            true => bytes().s(drv).s("out"),
            false => bytes().s(&id),
        };
        row(42, "RegisterDrvOutput", register, nothing(), Shape::Nothing);
        row(
            43,
            "QueryRealisation",
            query,
            nothing(),
            Shape::Realisations,
        );
        let several = bytes().n(1).s(two).raw(&two_info.0).raw(&two_nar);
        row(
            44,
            "AddMultipleToStore",
            bytes().n(0).n(1),
            Payload::Framed(several.0),
            Shape::Nothing,
        );
        let log = Payload::Framed(b"a log".to_vec());
        // Harmonia sends the path.
        let logged = match by_path {
            true => drv.to_owned(),
            false => base(drv),
        };
        row(45, "AddBuildLog", bytes().s(logged), log, Shape::Number);
        let build = bytes().list(&[file, wanted]).n(0);
        row(
            46,
            "BuildPathsWithResults",
            build,
            nothing(),
            Shape::BuildResults,
        );
        let root = format!("{link}-root");
        row(
            47,
            "AddPermRoot",
            bytes().s(file).s(root),
            nothing(),
            Shape::Text,
        );
        rows
    }
}

/// A connection that is spoken by hand.
struct Hand {
    stream: UnixStream,
    minor: u64,
    /// Whether `realisation-with-path-not-hash` was agreed on.
    by_path: bool,
}

/// How an operation was answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Reply,
    Error(String),
}

impl Hand {
    fn greet(stream: UnixStream, minor: u64, features: &[&str]) -> io::Result<(Self, u64)> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut hand = Self {
            stream,
            minor,
            by_path: false,
        };
        hand.send(&Bytes::default().n(0x6e69_7863).n(1 << 8 | minor).0)?;
        assert_eq!(hand.n()?, 0x6478_696f);
        assert_eq!(hand.n()?, 1 << 8 | 38);
        if minor >= 38 {
            hand.send(&Bytes::default().list(features).0)?;
            let offered = hand.texts()?;
            hand.by_path = features.contains(&BY_PATH) && offered.contains(&BY_PATH.into());
        }
        hand.send(&Bytes::default().n(0).n(0).0)?;
        if minor >= 33 {
            hand.s()?;
        }
        let trust = match minor >= 35 {
            true => hand.n()?,
            false => 0,
        };
        assert_eq!(hand.frames(&Payload::Nothing)?, Answer::Reply);
        Ok((hand, trust))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn n(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn s(&mut self) -> io::Result<Vec<u8>> {
        let len = self.n()? as usize;
        assert!(len < 1 << 20, "a text of {len} bytes");
        let mut bytes = vec![0; len.next_multiple_of(8)];
        self.stream.read_exact(&mut bytes)?;
        assert!(bytes[len..].iter().all(|byte| *byte == 0), "padding");
        bytes.truncate(len);
        Ok(bytes)
    }

    fn texts(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let count = self.n()?;
        assert!(count < 1 << 16, "{count} texts");
        (0..count).map(|_| self.s()).collect()
    }

    /// Reads frames to the last one, or to an error, and gives what is asked for.
    fn frames(&mut self, payload: &Payload) -> io::Result<Answer> {
        let mut rest: &[u8] = match payload {
            Payload::Pulled(bytes) => bytes,
            _ => &[],
        };
        loop {
            match self.n()? {
                // Next.
                0x6f6c_6d67 => drop(self.s()?),
                // Read.
                0x6461_7461 => {
                    let wanted = self.n()? as usize;
                    let (piece, after) = rest.split_at(rest.len().min(wanted));
                    rest = after;
                    self.send(&Bytes::default().s(piece).0)?;
                }
                // Last.
                0x616c_7473 => return Ok(Answer::Reply),
                // Error.
                0x6378_7470 => {
                    let text = match self.minor >= 26 {
                        true => {
                            assert_eq!(self.s()?, b"Error");
                            self.n()?;
                            self.s()?;
                            let text = self.s()?;
                            self.n()?;
                            for _ in 0..self.n()? {
                                self.n()?;
                                self.s()?;
                            }
                            text
                        }
                        false => {
                            let text = self.s()?;
                            self.n()?;
                            text
                        }
                    };
                    return Ok(Answer::Error(String::from_utf8_lossy(&text).into_owned()));
                }
                // An activity begins.
                0x5354_5254 => {
                    for _ in 0..3 {
                        self.n()?;
                    }
                    self.s()?;
                    self.activity_fields()?;
                    self.n()?;
                }
                // It ends.
                0x5354_4f50 => drop(self.n()?),
                // It has a result.
                0x5253_4c54 => {
                    self.n()?;
                    self.n()?;
                    self.activity_fields()?;
                }
                other => panic!("there is no frame {other:#x}"),
            }
        }
    }

    fn activity_fields(&mut self) -> io::Result<()> {
        for _ in 0..self.n()? {
            match self.n()? {
                0 => drop(self.n()?),
                1 => drop(self.s()?),
                other => panic!("there is no field {other}"),
            }
        }
        Ok(())
    }

    fn info(&mut self) -> io::Result<()> {
        self.s()?;
        assert_eq!(self.s()?.len(), 64, "a hash in hexadecimal digits");
        self.texts()?;
        self.n()?;
        self.n()?;
        assert!(self.n()? <= 1, "ultimate");
        self.texts()?;
        self.s()?;
        Ok(())
    }

    fn realisation(&mut self) -> io::Result<()> {
        let text = self.s()?;
        assert!(text.starts_with(b"{"), "{}", String::from_utf8_lossy(&text));
        Ok(())
    }

    /// A path, and signatures.
    fn unkeyed_realisation(&mut self) -> io::Result<()> {
        assert!(self.s()?.starts_with(b"/nix/store/"));
        drop(self.texts()?);
        Ok(())
    }

    fn build_result(&mut self) -> io::Result<()> {
        assert!(self.n()? <= 14, "status");
        self.s()?;
        if self.minor >= 29 {
            for _ in 0..4 {
                self.n()?;
            }
        }
        if self.minor >= 37 {
            for _ in 0..2 {
                if self.n()? == 1 {
                    self.n()?;
                }
            }
        }
        if self.by_path {
            for _ in 0..self.n()? {
                assert_eq!(self.s()?, b"out");
                self.unkeyed_realisation()?;
            }
        } else if self.minor >= 28 {
            for _ in 0..self.n()? {
                assert!(self.s()?.starts_with(b"sha256:"));
                self.realisation()?;
            }
        }
        Ok(())
    }

    fn reply(&mut self, shape: Shape, world: &World) -> io::Result<()> {
        match shape {
            Shape::Nothing => {}
            Shape::Number => assert!(self.n()? <= 1),
            Shape::Text => drop(self.s()?),
            Shape::Texts => drop(self.texts()?),
            Shape::Map => {
                for _ in 0..self.n()? {
                    self.s()?;
                    self.s()?;
                }
            }
            Shape::OptionalInfo => {
                assert_eq!(self.n()?, 1);
                self.info()?;
            }
            Shape::Info => {
                self.s()?;
                self.info()?;
            }
            Shape::NoInfo => assert_eq!(self.n()?, 0),
            Shape::Missing => {
                for _ in 0..3 {
                    self.texts()?;
                }
                self.n()?;
                self.n()?;
            }
            Shape::Garbage => {
                self.texts()?;
                self.n()?;
                self.n()?;
            }
            Shape::BuildResult => self.build_result()?,
            Shape::BuildResults => {
                assert_eq!(self.n()?, 2);
                for _ in 0..2 {
                    self.s()?;
                    self.build_result()?;
                }
            }
            Shape::Realisations => {
                assert_eq!(self.n()?, 1);
                match self.minor {
                    _ if self.by_path => self.unkeyed_realisation()?,
                    ..31 => drop(self.s()?),
                    _ => self.realisation()?,
                }
            }
            Shape::Nar => {
                let wanted = nar_of_file(world.content);
                let mut nar = vec![0; wanted.len()];
                self.stream.read_exact(&mut nar)?;
                assert_eq!(nar, wanted);
            }
        }
        Ok(())
    }

    fn ask(&mut self, row: &Row, world: &World) -> io::Result<Answer> {
        let mut bytes = Bytes::default().n(row.number).raw(&row.fields);
        match &row.payload {
            Payload::Nothing | Payload::Pulled(_) => {}
            Payload::Bare(payload) => bytes = bytes.raw(payload),
            Payload::Framed(payload) => {
                // In two pieces, and the end.
                let (one, two) = payload.split_at(payload.len() / 2);
                for piece in [one, two] {
                    bytes = bytes.n(piece.len() as u64).raw(piece);
                }
                bytes = bytes.n(0);
            }
        }
        self.send(&bytes.0)?;
        let answer = self.frames(&row.payload)?;
        if answer == Answer::Reply {
            self.reply(row.shape, world)?;
        }
        Ok(answer)
    }

    /// Asks something of which the answer is known: only who is in step gets it.
    fn is_in_step(&mut self, world: &World) -> io::Result<()> {
        let absent = world
            .dir
            .display(&StorePath::from_hash_and_name(&[255; 20], "no").unwrap());
        self.send(&Bytes::default().n(1).s(absent).0)?;
        assert_eq!(self.frames(&Payload::Nothing)?, Answer::Reply);
        assert_eq!(self.n()?, 0);
        Ok(())
    }
}

/// Who answers.
enum Judged {
    Ours {
        store: Arc<DirStore>,
        socket: PathBuf,
        _server: Server,
    },
    /// `nix-daemon --stdio`, one for each connection.
    Nix {
        bin: PathBuf,
        home: tempfile::TempDir,
    },
}

impl Judged {
    fn ours() -> Self {
        let store = DirStore::new();
        let (server, socket) = serve(&store, Trust::Trusted, Limits::default());
        Self::Ours {
            store,
            socket,
            _server: server,
        }
    }

    fn nix() -> Option<Self> {
        let Some(bin) = std::env::var_os("DROSTE_TEST_NIX_234") else {
            println!("skipped for Nix 2.34: DROSTE_TEST_NIX_234 does not name its directory");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("root/nix/var/nix")).unwrap();
        Some(Self::Nix {
            bin: bin.into(),
            home,
        })
    }

    fn links(&self) -> PathBuf {
        match self {
            Self::Ours { store, .. } => store.root.path().to_owned(),
            Self::Nix { home, .. } => home.path().to_owned(),
        }
    }

    fn connect(&self) -> (UnixStream, Option<Child>) {
        match self {
            Self::Ours { socket, .. } => (UnixStream::connect(socket).unwrap(), None),
            Self::Nix { bin, home } => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let home = home.path();
                let daemon = Command::new(bin.join("nix-daemon"))
                    .arg("--stdio")
                    .arg("--store")
                    .arg(home.join("root"))
                    .current_dir(home)
                    .env_clear()
                    .env("HOME", home)
                    .env("NIX_CONF_DIR", home)
                    .env("NIX_STATE_DIR", home.join("state"))
                    .env("PATH", "/usr/bin:/bin")
                    .env(
                        "NIX_CONFIG",
                        "experimental-features = nix-command ca-derivations\nsubstituters =\nbuild-users-group =",
                    )
                    .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
                    .stdout(OwnedFd::from(theirs))
                    .spawn()
                    .unwrap();
                (ours, Some(daemon))
            }
        }
    }
}

fn every_operation_of(judged: &Judged) {
    let world = World::new(judged.links());
    for minor in VERSIONS {
        let (stream, daemon) = judged.connect();
        let (mut hand, _) = Hand::greet(stream, minor, &[]).unwrap();
        for row in world.rows(minor, false) {
            let what = format!("{} (1.{minor})", row.name);
            let answer = hand.ask(&row, &world);
            assert_eq!(
                answer.unwrap_or_else(|err| panic!("{what}: {err}")),
                Answer::Reply,
                "{what}"
            );
            let is_in_step = hand.is_in_step(&world);
            is_in_step.unwrap_or_else(|err| panic!("after {what}: {err}"));
        }
        drop(hand);
        if let Some(mut daemon) = daemon {
            daemon.wait().unwrap();
        }
    }
}

#[test]
fn every_operation_is_answered_at_every_version_in_its_shape_and_the_next_in_step() {
    every_operation_of(&Judged::ours());
}

#[test]
fn nixs_own_daemon_answers_the_same_bytes_in_the_same_shapes() {
    if let Some(nix) = Judged::nix() {
        every_operation_of(&nix);
    }
}

/// Operations that there never were, are not any more, or are not yet.
const NONE: [u64; 18] = [
    0,
    2,
    3,
    4,
    5,
    15,
    16,
    17,
    24,
    25,
    27,
    48,
    49,
    50,
    1000,
    1001,
    u32::MAX as u64,
    u64::MAX,
];

#[test]
fn an_operation_that_is_none_is_refused_by_its_number_and_ends_the_connection() {
    let judged = Judged::ours();
    for minor in VERSIONS {
        for number in NONE {
            let (stream, _) = judged.connect();
            let (mut hand, _) = Hand::greet(stream, minor, &[]).unwrap();
            hand.send(&Bytes::default().n(number).s("what belongs to it").0)
                .unwrap();
            let Answer::Error(why) = hand.frames(&Payload::Nothing).unwrap() else {
                panic!("operation {number} was answered (1.{minor})");
            };
            assert!(why.contains(&number.to_string()), "{why}");
            let mut rest = Vec::new();
            // With what was not read, the end may be a reset.
            let _ = hand.stream.read_to_end(&mut rest);
            assert_eq!(rest, b"", "operation {number} (1.{minor})");
        }
    }
}

/// As clients of harmonia and of Nix since 2.35 do it.
#[test]
fn who_offers_features_is_served_with_that_which_changes_realisations_alone() {
    let judged = Judged::ours();
    let world = World::new(judged.links());
    let offered = [
        "add-to-store-scanning",
        "submit-output",
        "disable-set-options",
        BY_PATH,
        "no-such-feature",
    ];
    let (stream, _) = judged.connect();
    let (mut hand, trust) = Hand::greet(stream, 38, &offered).unwrap();
    assert_eq!(trust, 1);
    assert!(hand.by_path);
    for row in world.rows(38, true) {
        let answer = hand.ask(&row, &world).unwrap();
        assert_eq!(answer, Answer::Reply, "{}", row.name);
        hand.is_in_step(&world).unwrap();
    }
    // What is not known is told, too.
    let unknown = Bytes::default().n(43).s(&world.drv).s("doc");
    hand.send(&unknown.0).unwrap();
    assert_eq!(hand.frames(&Payload::Nothing).unwrap(), Answer::Reply);
    assert_eq!(hand.n().unwrap(), 0);
    hand.is_in_step(&world).unwrap();
}
