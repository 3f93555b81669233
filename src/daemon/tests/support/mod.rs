//! A small store in a directory, and a client, for the tests of connections.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use droste_daemon::{ConnectionOptions, Limits, Server, Trust};
use store_api::{
    BuildMode, BuildObserver, BuildResult, BuildStatus, BuildStore, ClientSettings, GcRequest,
    GcResult, KeyedBuildResult, Missing, Roots, Store, StoreError, Tell, VerifyRequest,
};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, ContentAddressMethod, Derivation, DerivedPath,
    DrvOutput, HashAlgorithm, PathInfo, Realisation, References, StoreDir, StorePath,
};
use store_wire::{
    FramedWriter, HandshakeError, Payload, Reader, RemoteError, Request, Response, Session,
    StderrFrame, Version, Writer, handshake_as_client,
};

/// A chroot store whose database is in memory, and whose builder runs on the
/// machine as it is.
pub struct DirStore {
    pub root: tempfile::TempDir,
    dir: StoreDir,
    infos: Mutex<BTreeMap<StorePath, PathInfo>>,
    realisations: Mutex<Vec<Realisation>>,
    build_trace: Mutex<Vec<BuildTraceEntry>>,
    temp_files: AtomicUsize,
    pub cancelled: AtomicBool,
    pub settings: Mutex<ClientSettings>,
}

impl DirStore {
    pub fn new() -> Arc<Self> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("nix/store")).unwrap();
        fs::create_dir_all(root.path().join("nix/var/nix/profiles")).unwrap();
        Arc::new(Self {
            root,
            dir: StoreDir::default(),
            infos: Mutex::default(),
            realisations: Mutex::default(),
            build_trace: Mutex::default(),
            temp_files: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            settings: Mutex::default(),
        })
    }

    pub fn physical(&self) -> PathBuf {
        self.root.path().join("nix/store")
    }

    pub fn paths(&self) -> BTreeSet<StorePath> {
        self.infos.lock().unwrap().keys().cloned().collect()
    }

    /// What lies in the store's directory without being valid.
    pub fn leftovers(&self) -> Vec<String> {
        let valid: BTreeSet<String> = self.paths().iter().map(|p| p.to_string()).collect();
        fs::read_dir(self.physical())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !valid.contains(name))
            .collect()
    }

    fn temp(&self) -> String {
        let number = self.temp_files.fetch_add(1, Ordering::Relaxed);
        format!("tmp-{number}")
    }

    fn parent(&self) -> File {
        File::open(self.physical()).unwrap()
    }

    fn remove(&self, name: &str) {
        let path = self.physical().join(name);
        let _ = store_nar::remove_tree(self.parent().as_fd(), OsStr::new(name));
        let _ = fs::remove_file(path);
    }

    fn register(&self, temp: &str, info: PathInfo) -> PathInfo {
        let mut infos = self.infos.lock().unwrap();
        if infos.contains_key(&info.path) {
            self.remove(temp);
        } else {
            let to = self.physical().join(info.path.base_name());
            fs::rename(self.physical().join(temp), to).unwrap();
            infos.insert(info.path.clone(), info.clone());
        }
        info
    }

    fn scan_info(&self, path: StorePath, temp: &str, ca: Option<ContentAddress>) -> PathInfo {
        let (nar_hash, nar_size) =
            store_nar::dump_and_hash(self.parent().as_fd(), OsStr::new(temp)).unwrap();
        PathInfo {
            path,
            nar_hash,
            nar_size,
            references: BTreeSet::new(),
            deriver: None,
            registration_time: 1,
            ultimate: false,
            signatures: Vec::new(),
            ca,
        }
    }

    fn derivation(&self, drv: &StorePath) -> Result<Derivation, StoreError> {
        if !self.infos.lock().unwrap().contains_key(drv) {
            return Err(StoreError::NotValid { path: drv.clone() });
        }
        let bytes = fs::read(self.physical().join(drv.base_name())).unwrap();
        Derivation::parse(&self.dir, &bytes)
            .map_err(StoreError::failed(format!("read derivation `{drv}`")))
    }

    fn build(
        &self,
        drv_path: &StorePath,
        drv: &Derivation,
        observer: &mut dyn BuildObserver,
    ) -> BuildResult {
        let Some(out) = drv.outputs.get("out").and_then(|output| output.path()) else {
            return BuildResult::new(BuildStatus::InputRejected, "no output path");
        };
        if self.infos.lock().unwrap().contains_key(out) {
            let mut result = BuildResult::new(BuildStatus::AlreadyValid, "");
            let realisation = Realisation {
                id: DrvOutput {
                    drv_hash: store_types::sha256(drv_path.base_name().as_bytes()),
                    output_name: "out".to_owned(),
                },
                out_path: out.clone(),
                signatures: Vec::new(),
                dependent_realisations: BTreeMap::new(),
            };
            result.built_outputs.insert("out".to_owned(), realisation);
            return result;
        }
        let temp = self.temp();
        observer.started(drv_path, BuildMode::Normal);
        let builder = drv.builder.to_string();
        let mut child = Command::new(builder)
            .args(drv.args.iter().map(|arg| arg.to_string()))
            .env("out", self.physical().join(&temp))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        let reading = thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                let _ = sender.send(line.unwrap());
            }
        });
        loop {
            match lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => observer.log_line(drv_path, &line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if observer.is_cancelled() {
                child.kill().unwrap();
                self.cancelled.store(true, Ordering::SeqCst);
            }
        }
        reading.join().unwrap();
        let status = child.wait().unwrap();
        let result = if status.success() {
            self.register(&temp, self.scan_info(out.clone(), &temp, None));
            BuildResult::new(BuildStatus::Built, "")
        } else {
            self.remove(&temp);
            let message = format!("builder for '{drv_path}' failed: {status}");
            BuildResult::new(BuildStatus::PermanentFailure, message)
        };
        observer.finished(drv_path, &result);
        result
    }
}

fn refused<T>(operation: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Refused { operation })
}

impl Store for DirStore {
    fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    fn set_settings(&self, settings: &ClientSettings) -> Result<Vec<String>, StoreError> {
        *self.settings.lock().unwrap() = settings.clone();
        let refused = settings.others.keys().filter(|_| !settings.is_trusted);
        Ok(refused
            .map(|name| ClientSettings::restricted(name))
            .collect())
    }

    fn set_hashes_offsets(&self, _client_does: bool) {}

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError> {
        Ok(self.infos.lock().unwrap().contains_key(path))
    }

    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.infos.lock().unwrap().get(path).cloned())
    }

    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        _substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.paths().intersection(paths).cloned().collect())
    }

    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.paths())
    }

    fn query_substitutable_paths(
        &self,
        _paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        let infos = self.infos.lock().unwrap();
        Ok(infos
            .values()
            .filter(|info| info.references.contains(path))
            .map(|info| info.path.clone())
            .collect())
    }

    fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        Ok(self
            .paths()
            .into_iter()
            .find(|path| path.hash_part() == hash_part))
    }

    fn query_valid_derivers(&self, _path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(BTreeSet::new())
    }

    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let outputs = self.derivation(drv)?.outputs;
        Ok(outputs
            .into_iter()
            .map(|(name, output)| (name, output.path().cloned()))
            .collect())
    }

    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let realisations = self.realisations.lock().unwrap();
        Ok(realisations.iter().find(|known| known.id == *id).cloned())
    }

    fn register_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.realisations.lock().unwrap().push(realisation.clone());
        Ok(())
    }

    fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, StoreError> {
        let entries = self.build_trace.lock().unwrap();
        Ok(entries.iter().find(|known| known.key == *key).cloned())
    }

    fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), StoreError> {
        self.build_trace.lock().unwrap().push(entry.clone());
        Ok(())
    }

    fn nar_from_path(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), StoreError> {
        if !self.is_valid_path(path)? {
            return Err(StoreError::NotValid { path: path.clone() });
        }
        store_nar::dump(self.parent().as_fd(), OsStr::new(path.base_name()), out)
            .map_err(StoreError::failed(format!("read `{path}`")))
    }

    fn add_content_addressed(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &BTreeSet<StorePath>,
        _repair: bool,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError> {
        for path in references {
            if !self.is_valid_path(path)? {
                return Err(StoreError::NotValid { path: path.clone() });
            }
        }
        let mut bytes = Vec::new();
        dump.read_to_end(&mut bytes)
            .map_err(StoreError::io(format!("read the content of `{name}`")))?;
        let ca = ContentAddress {
            method,
            hash: algorithm.digest(&bytes),
        };
        let path = self
            .dir
            .content_addressed_path(name, &ca, &References::to_others(references.clone()))
            .map_err(StoreError::failed(format!("name `{name}`")))?;
        let temp = self.temp();
        if method == ContentAddressMethod::Nar {
            let restored = store_nar::restore(
                &mut &bytes[..],
                self.parent().as_fd(),
                OsStr::new(temp.as_str()),
            );
            if let Err(err) = restored {
                self.remove(&temp);
                return Err(StoreError::failed(format!("unpack `{name}`"))(err));
            }
        } else {
            fs::write(self.physical().join(&temp), &bytes).unwrap();
        }
        let mut info = self.scan_info(path, &temp, Some(ca));
        info.references = references.clone();
        Ok(self.register(&temp, info))
    }

    fn add_nar(
        &self,
        info: &PathInfo,
        _repair: bool,
        check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError> {
        if check_signatures && info.ca.is_none() && info.signatures.is_empty() {
            return Err(StoreError::Untrusted {
                path: info.path.clone(),
            });
        }
        let temp = self.temp();
        let restored = store_nar::restore(nar, self.parent().as_fd(), OsStr::new(temp.as_str()));
        if let Err(err) = restored {
            self.remove(&temp);
            return Err(StoreError::failed(format!("unpack `{}`", info.path))(err));
        }
        let found = self.scan_info(info.path.clone(), &temp, info.ca);
        if (found.nar_hash, found.nar_size) != (info.nar_hash, info.nar_size) {
            self.remove(&temp);
            let what = format!("hash mismatch in `{}`", info.path);
            return Err(StoreError::BadRequest { what });
        }
        self.register(&temp, info.clone());
        Ok(())
    }

    fn add_signatures(&self, path: &StorePath, signatures: &[String]) -> Result<(), StoreError> {
        match self.infos.lock().unwrap().get_mut(path) {
            Some(info) => {
                info.signatures.extend_from_slice(signatures);
                Ok(())
            }
            None => Err(StoreError::NotValid { path: path.clone() }),
        }
    }

    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError> {
        match self.is_valid_path(path)? {
            true => Ok(()),
            false => Err(StoreError::NotValid { path: path.clone() }),
        }
    }

    fn add_temp_root(&self, _path: &StorePath) -> Result<(), StoreError> {
        Ok(())
    }

    fn add_indirect_root(&self, _link: &Path) -> Result<(), StoreError> {
        Ok(())
    }

    fn add_perm_root(&self, path: &StorePath, _link: &Path) -> Result<(), StoreError> {
        match self.is_valid_path(path)? {
            true => Ok(()),
            false => Err(StoreError::NotValid { path: path.clone() }),
        }
    }

    fn find_roots(&self, _censor: bool) -> Result<Roots, StoreError> {
        Ok(self
            .paths()
            .into_iter()
            .map(|path| (path, BTreeSet::from([PathBuf::from("/a"), "/b".into()])))
            .collect())
    }

    fn build_paths(
        &self,
        paths: &[DerivedPath],
        _mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        paths
            .iter()
            .map(|path| {
                let result = match path {
                    DerivedPath::Opaque(path) => match self.is_valid_path(path)? {
                        true => BuildResult::new(BuildStatus::AlreadyValid, ""),
                        false => BuildResult::new(BuildStatus::NoSubstituters, ""),
                    },
                    DerivedPath::Built { drv, .. } => {
                        self.build(&drv.base, &self.derivation(&drv.base)?, observer)
                    }
                };
                Ok(KeyedBuildResult {
                    path: path.clone(),
                    result,
                })
            })
            .collect()
    }

    fn build_derivation(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        _mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError> {
        Ok(self.build(drv_path, derivation, observer))
    }

    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        let mut missing = Missing::default();
        for path in paths {
            if let DerivedPath::Built { drv, .. } = path {
                for out in self.query_derivation_output_map(&drv.base)?.into_values() {
                    if !out.is_some_and(|out| self.paths().contains(&out)) {
                        missing.will_build.insert(drv.base.clone());
                    }
                }
            }
        }
        Ok(missing)
    }

    fn add_build_log(&self, _drv: &StorePath, log: &mut dyn Read) -> Result<(), StoreError> {
        io::copy(log, &mut io::sink())
            .map(|_| ())
            .map_err(StoreError::io("read a log"))
    }

    fn collect_garbage(
        &self,
        _request: &GcRequest,
        _tell: Tell<'_>,
    ) -> Result<GcResult, StoreError> {
        Ok(GcResult {
            paths: self.paths(),
            bytes_freed: 0,
        })
    }

    fn optimise(&self, _tell: Tell<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    fn verify(&self, _request: VerifyRequest, _tell: Tell<'_>) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn of_build(&self) -> Option<&dyn BuildStore> {
        None
    }
}

pub fn options(trust: Trust) -> ConnectionOptions {
    ConnectionOptions {
        trust,
        nix_version: "2.34.8".to_owned(),
    }
}

/// A server on a socket beside the store.
pub fn serve(store: &Arc<DirStore>, trust: Trust, limits: Limits) -> (Server, PathBuf) {
    let socket = store.root.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let served = store.clone();
    let server = Server::start(
        listener,
        Arc::new(move || served.clone() as Arc<dyn Store>),
        options(trust),
        limits,
    )
    .unwrap();
    (server, socket)
}

/// A client of any version.
pub struct Client {
    pub session: Session,
    reader: Reader<BufReader<UnixStream>>,
    writer: UnixStream,
    /// The frames before the last reply.
    pub frames: Vec<StderrFrame>,
}

impl Client {
    pub fn connect(stream: UnixStream, version: Version) -> Result<Self, HandshakeError> {
        let mut reader = Reader::new(BufReader::new(stream.try_clone()?));
        let mut writer = stream;
        let (session, _) = handshake_as_client(
            &mut reader,
            &mut writer,
            version,
            &BTreeSet::new(),
            &StoreDir::default(),
        )?;
        Ok(Self {
            session,
            reader,
            writer,
            frames: Vec::new(),
        })
    }

    /// Sends a request and what belongs to it.
    pub fn send(&mut self, request: &Request, payload: &[u8]) {
        let mut w = Writer::new();
        request.write(&self.session, &mut w);
        match request.payload(&self.session) {
            Payload::Nothing | Payload::Pulled(_) => {}
            Payload::Nar => {
                w.raw(payload);
            }
            Payload::Framed => {
                let mut framed = FramedWriter::new(Vec::new());
                framed.write_all(payload).unwrap();
                w.raw(&framed.finish().unwrap());
            }
        }
        self.writer.write_all(&w.into_bytes()).unwrap();
    }

    /// Reads the reply, answering what the server asks for meanwhile.
    pub fn reply(&mut self, request: &Request, payload: &[u8]) -> Result<Response, RemoteError> {
        let mut rest = payload;
        self.frames.clear();
        loop {
            match StderrFrame::read(&self.session, &mut self.reader).unwrap() {
                StderrFrame::Last => break,
                StderrFrame::Error(error) => return Err(error),
                StderrFrame::Read(wanted) => {
                    let (piece, after) = rest.split_at(rest.len().min(wanted as usize));
                    rest = after;
                    let mut w = Writer::new();
                    w.bytes(piece);
                    self.writer.write_all(&w.into_bytes()).unwrap();
                }
                frame => self.frames.push(frame),
            }
        }
        Ok(Response::read(request, &self.session, &mut self.reader).unwrap())
    }

    /// Bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// The next frame.
    pub fn frame(&mut self) -> StderrFrame {
        StderrFrame::read(&self.session, &mut self.reader).unwrap()
    }

    pub fn call(&mut self, request: Request, payload: &[u8]) -> Result<Response, RemoteError> {
        self.send(&request, payload);
        self.reply(&request, payload)
    }

    /// The NAR after the reply to `NarFromPath`.
    pub fn nar(&mut self) -> Vec<u8> {
        let mut nar = Vec::new();
        store_wire::NarReader::new(self.reader.inner())
            .read_to_end(&mut nar)
            .unwrap();
        nar
    }
}

/// The NAR of one regular file.
pub fn nar_of_file(content: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    for word in ["nix-archive-1", "(", "type", "regular", "contents"] {
        w.bytes(word);
    }
    w.bytes(content).bytes(")");
    w.into_bytes()
}

/// A derivation that runs `/bin/sh -c script`, added to the store.
pub fn add_script(client: &mut Client, name: &str, script: &str) -> StorePath {
    use store_types::DerivationOutput;
    let out = StorePath::from_hash_and_name(&[7; 20], name).unwrap();
    let derivation = Derivation {
        outputs: BTreeMap::from([("out".to_owned(), DerivationOutput::InputAddressed(out))]),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Derivation::default()
    };
    let text = derivation.to_aterm(&client.session.store_dir);
    let added = client.call(
        Request::AddTextToStore {
            name: format!("{name}.drv"),
            text,
            references: BTreeSet::new(),
        },
        b"",
    );
    match added.unwrap() {
        Response::Path(path) => path,
        other => panic!("{other:?}"),
    }
}

pub fn all_of(drv: &StorePath) -> Vec<DerivedPath> {
    vec![DerivedPath::Built {
        drv: drv.clone().into(),
        outputs: store_types::OutputsSpec::All,
    }]
}
