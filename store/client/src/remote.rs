//! The store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use store_api::{
    BuildMode, BuildObserver, BuildResult, BuildStatus, BuildStore, ClientSettings, GcRequest,
    GcResult, KeyedBuildResult, MessageLevel, Missing, Roots, Store, StoreError, Tell,
    VerifyRequest,
};
use store_types::{
    BuildTraceEntry, BuildTraceKey, ContentAddress, ContentAddressMethod, Derivation, DerivedPath,
    DrvOutput, HashAlgorithm, PathInfo, Realisation, SingleDerivedPath, StoreDir, StorePath,
    output_path_name,
};
use store_wire::{
    ClientOptions, Hello, NarReader, Payload, Request, Response, STRING_LEN_MAX, Session,
    SubstitutablePathInfo, Version, WireError, Writer, feature,
};

use crate::connect::{Connect, UnixSocket};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::log::Log;
use crate::pool::Pool;
use crate::spool::{nar_around_file, spool};

/// Nix's verbosity "info": messages and warnings, but no more.
const VERBOSITY: u64 = 3;

/// Takes what a server wants shown: one message a call, without its line end.
pub type Messages = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How a store is used.
#[derive(Clone)]
pub struct RemoteOptions {
    /// The logical directory of its paths; the server must have the same.
    pub store_dir: StoreDir,
    /// The newest version to speak.
    pub version: Version,
    /// The features to speak, where the server has them, too.
    pub features: BTreeSet<String>,
    /// How many connections may be open. An operation waits for one.
    pub connections_max: usize,
    /// The settings that each connection begins with; none are sent otherwise.
    pub settings: Option<ClientOptions>,
    /// Who is told what the server wants shown. What builds log goes to their
    /// observers.
    pub messages: Option<Messages>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            store_dir: StoreDir::default(),
            version: Version::LATEST,
            features: BTreeSet::new(),
            connections_max: 4,
            settings: None,
            messages: None,
        }
    }
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("store_dir", &self.store_dir)
            .field("version", &self.version)
            .field("features", &self.features)
            .field("connections_max", &self.connections_max)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Opens a stream that begins with the NAR of an object.
pub type OpenNar<'a, 'r> = &'a mut dyn FnMut(&PathInfo) -> Result<Box<dyn Read + 'r>, StoreError>;

/// A store behind a server.
///
/// Connections are made when they are needed. What the server keeps for a
/// connection, its temporary roots above all, ends with it: with
/// `connections_max` of 1 that is when this store is dropped, or the connection
/// breaks.
///
/// Errors: what the server says comes as [`StoreError::Remote`], in its own words;
/// all else that can go wrong as [`StoreError::Failed`] with a
/// [`ClientError`] as its cause.
///
/// ```no_run
/// use store_api::Store;
/// use store_client::{RemoteOptions, RemoteStore};
///
/// let store = RemoteStore::at_socket(
///     "/nix/var/nix/daemon-socket/socket",
///     RemoteOptions::default(),
/// );
/// println!("{} paths are valid", store.query_all_valid_paths()?.len());
/// # Ok::<(), store_api::StoreError>(())
/// ```
pub struct RemoteStore {
    options: RemoteOptions,
    pool: Pool,
    /// The settings that connections are to have, and how often they were changed.
    settings: Mutex<(Option<ClientOptions>, u64)>,
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What a client that does not say it has for `max-jobs`.
fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// A reply of another kind than its request has: `Response::read` makes none.
fn wrong_kind() -> ClientError {
    ClientError::Frame { frame: "reply" }
}

macro_rules! expect {
    ($response:expr, $kind:ident) => {
        match $response {
            Response::$kind(value) => Ok(value),
            _ => Err(wrong_kind()),
        }
    };
}

impl RemoteStore {
    /// The store of a server that is reached so.
    pub fn new(connect: impl Connect + 'static, options: RemoteOptions) -> Self {
        let settings = (options.settings.clone(), 1);
        Self {
            options,
            pool: Pool::new(Box::new(connect)),
            settings: Mutex::new(settings),
        }
    }

    /// The store of the server at a socket.
    pub fn at_socket(socket: impl Into<PathBuf>, options: RemoteOptions) -> Self {
        Self::new(UnixSocket::new(socket), options)
    }

    /// What the server says of itself, and what was agreed on with it.
    pub fn hello(&self) -> Result<(Session, Hello), StoreError> {
        self.with("handshake", None, |connection, _| {
            Ok((connection.session.clone(), connection.hello.clone()))
        })
    }

    /// The settings that all connections have from their next operation on.
    #[doc(alias = "SetOptions")]
    pub fn set_options(&self, settings: ClientOptions) {
        let mut current = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (Some(settings), current.1 + 1);
    }

    /// What substituters know of paths, for the content addresses that are given.
    #[doc(alias = "QuerySubstitutablePathInfos")]
    pub fn query_substitutable_path_infos(
        &self,
        paths: &BTreeMap<StorePath, Option<ContentAddress>>,
    ) -> Result<BTreeMap<StorePath, SubstitutablePathInfo>, StoreError> {
        let response = self.call(Request::QuerySubstitutablePathInfos(paths.clone()))?;
        self.expected(
            "QuerySubstitutablePathInfos",
            expect!(response, SubstitutablePathInfos),
        )
    }

    /// Makes a link to a path, on the server's machine, and it a root. Servers
    /// before Nix 2.12 do not have this.
    #[doc(alias = "AddPermRoot")]
    pub fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<PathBuf, StoreError> {
        let response = self.call(Request::AddPermRoot {
            path: path.clone(),
            link: link.as_os_str().as_bytes().to_vec(),
        })?;
        self.expected("AddPermRoot", expect!(response, Link))
    }

    /// Adds an object inside a build, where the server finds its references in the content, of all
    /// that the build may see. [`RemoteOptions::features`] must have the feature's name.
    #[doc(alias = "AddToStoreScanning")]
    pub fn add_scanning(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError> {
        let operation = "AddToStoreScanning";
        self.check_feature(operation, feature::ADD_TO_STORE_SCANNING)?;
        let request = Request::AddToStoreScanning {
            name: name.to_owned(),
            method,
            algorithm,
        };
        let response = self.with(operation, None, |connection, log| {
            connection.call_framed(&request, dump, log)
        })?;
        self.expected(operation, expect!(response, PathInfo))
    }

    /// Makes an object that was added inside a build an output of the derivation that is being
    /// built. [`RemoteOptions::features`] must have the feature's name.
    #[doc(alias = "SubmitOutput")]
    pub fn submit_output(&self, path: &SingleDerivedPath, output: &str) -> Result<(), StoreError> {
        self.check_feature("SubmitOutput", feature::SUBMIT_OUTPUT)?;
        let (path, output) = (path.clone(), output.to_owned());
        let response = self.call(Request::SubmitOutput { path, output })?;
        self.expected("SubmitOutput", expect!(response, Bool))
            .map(drop)
    }

    /// Adds objects in one stream (before 1.32, one by one), in their order, in
    /// which references come first; those that are valid are left out, unless they
    /// are to be repaired. The server makes them valid one after the other: if it
    /// fails, those before are. A connection is held meanwhile: `open` must not
    /// need another of this store.
    #[doc(alias = "AddMultipleToStore")]
    pub fn add_multiple(
        &self,
        infos: &[PathInfo],
        repair: bool,
        check_signatures: bool,
        open: OpenNar<'_, '_>,
    ) -> Result<(), StoreError> {
        let operation = "AddMultipleToStore";
        // Nix 2.8 is out of step after an object in the stream that was valid.
        let valid = match repair {
            true => BTreeSet::new(),
            false => {
                let paths = infos.iter().map(|info| info.path.clone()).collect();
                self.query_valid_paths(&paths, false)?
            }
        };
        let infos: Vec<_> = infos
            .iter()
            .filter(|info| !valid.contains(&info.path))
            .collect();
        if infos.is_empty() {
            return Ok(());
        }
        if !self.session()?.since(32) {
            for info in infos {
                self.add_nar(info, repair, check_signatures, &mut open(info)?)?;
            }
            return Ok(());
        }
        let request = Request::AddMultipleToStore {
            repair,
            dont_check_signatures: !check_signatures,
        };
        // What cannot be opened goes past the connection.
        let mut failure = None;
        let result = self.with(operation, None, |connection, log| {
            let mut start = Writer::new();
            start.u64(infos.len() as u64);
            let mut stream = ObjectStream {
                session: &connection.session.clone(),
                infos: infos.into_iter(),
                open,
                head: io::Cursor::new(start.into_bytes()),
                nar: None,
                failure: &mut failure,
            };
            connection.call_framed(&request, &mut stream, log)
        });
        match failure {
            Some(failure) => Err(failure),
            None => result.map(|_| ()),
        }
    }

    /// An operation of whose course somebody is told.
    fn call_told(&self, request: Request, tell: Tell<'_>) -> Result<Response, StoreError> {
        let mut told = Told(tell);
        self.with(request.operation().0, Some(&mut told), |connection, log| {
            connection.call(&request, log)
        })
    }

    /// Does something on a connection.
    fn with<'a, T>(
        &'a self,
        operation: &'static str,
        observer: Option<&'a mut dyn BuildObserver>,
        act: impl FnOnce(&mut Connection, &mut Log<'_>) -> Result<T, ClientError>,
    ) -> Result<T, StoreError> {
        let mut taken = self
            .pool
            .take(&self.options)
            .map_err(|err| err.in_store(operation))?;
        let mut log = Log::new(
            &self.options.store_dir,
            observer,
            self.options.messages.as_deref(),
        );
        let connection = taken.connection();
        let result = self
            .send_settings(connection, &mut log)
            .and_then(|()| act(connection, &mut log));
        if result
            .as_ref()
            .map_or_else(ClientError::is_in_step, |_| true)
        {
            taken.give_back();
        }
        result.map_err(|err| err.in_store(operation))
    }

    fn send_settings(
        &self,
        connection: &mut Connection,
        log: &mut Log<'_>,
    ) -> Result<(), ClientError> {
        let (settings, count) = self
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if connection.settings != count {
            if let Some(settings) = settings
                && !connection.session.features.contains("disable-set-options")
            {
                connection.call(&Request::SetOptions(settings), log)?;
            }
            connection.settings = count;
        }
        Ok(())
    }

    fn call(&self, request: Request) -> Result<Response, StoreError> {
        self.call_observed(request, None)
    }

    fn call_observed<'a>(
        &'a self,
        request: Request,
        observer: Option<&'a mut dyn BuildObserver>,
    ) -> Result<Response, StoreError> {
        self.with(request.operation().0, observer, |connection, log| {
            connection.call(&request, log)
        })
    }

    fn expected<T>(
        &self,
        operation: &'static str,
        value: Result<T, ClientError>,
    ) -> Result<T, StoreError> {
        value.map_err(|err| err.in_store(operation))
    }

    fn paths(&self, request: Request) -> Result<BTreeSet<StorePath>, StoreError> {
        let operation = request.operation().0;
        let response = self.call(request)?;
        self.expected(operation, expect!(response, Paths))
    }

    fn nothing(&self, request: Request) -> Result<(), StoreError> {
        self.call(request).map(|_| ())
    }

    /// What became of paths that were asked for together, of which the server told
    /// only that all of them are valid, or that not all are.
    fn results_of(
        &self,
        paths: &[DerivedPath],
        built: Result<(), StoreError>,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let message = match built {
            Ok(()) => None,
            Err(StoreError::Remote { message, .. }) => Some(message),
            Err(err) => return Err(err),
        };
        let mut results = Vec::new();
        for path in paths {
            let is_built = message.is_none() || self.is_realised(path)?;
            let result = match (path, &message) {
                (DerivedPath::Opaque(_), _) if is_built => {
                    BuildResult::new(BuildStatus::Substituted, "")
                }
                (_, Some(message)) if !is_built => {
                    BuildResult::new(BuildStatus::MiscFailure, message.as_str())
                }
                _ => BuildResult::new(BuildStatus::Built, ""),
            };
            results.push(KeyedBuildResult {
                path: path.clone(),
                result,
            });
        }
        Ok(results)
    }

    fn is_realised(&self, path: &DerivedPath) -> Result<bool, StoreError> {
        let (drv, wanted) = match path {
            DerivedPath::Opaque(path) => return self.is_valid_path(path),
            DerivedPath::Built { drv, outputs } => (drv, outputs),
        };
        // It may not be valid itself.
        let query = |drv: &StorePath| match self.query_derivation_output_map(drv) {
            Err(StoreError::Remote { .. }) => Ok(None),
            outputs => outputs.map(Some),
        };
        let mut drv_path = drv.base.clone();
        for output in &drv.outputs {
            let outputs = query(&drv_path)?.unwrap_or_default();
            let Some(Some(made)) = outputs.get(output) else {
                return Ok(false);
            };
            drv_path = made.clone();
        }
        let Some(outputs) = query(&drv_path)? else {
            return Ok(false);
        };
        for (name, output) in outputs {
            if wanted.contains(&name) && !output.is_some_and(|path| self.is_valid(&path)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_valid(&self, path: &StorePath) -> bool {
        self.is_valid_path(path).unwrap_or(false)
    }

    fn session(&self) -> Result<Session, StoreError> {
        self.hello().map(|(session, _)| session)
    }

    /// Whether the server's Nix takes the hash of a content-addressed object with the places where
    /// it refers to itself.
    ///
    /// # Errors
    /// If there is no connection and none can be made.
    pub fn hashes_offsets(&self) -> Result<bool, StoreError> {
        Ok(self.session()?.hashes_offsets())
    }

    fn check_feature(
        &self,
        operation: &'static str,
        feature: &'static str,
    ) -> Result<(), StoreError> {
        match self.session()?.has(feature) {
            true => Ok(()),
            false => Err(ClientError::NoFeature { feature }.in_store(operation)),
        }
    }

    fn too_old<T>(&self, operation: &'static str, session: &Session) -> Result<T, StoreError> {
        let version = session.version;
        Err(ClientError::TooOld { version }.in_store(operation))
    }

    /// `AddToStore` before 1.25, which has no references and tells the path only.
    fn add_content_addressed_before_25(
        &self,
        session: &Session,
        request: &Request,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError> {
        let Request::AddToStore {
            name,
            method,
            references,
            repair,
            ..
        } = request
        else {
            return Err(wrong_kind().in_store("AddToStore"));
        };
        let reading = |err| ClientError::Payload(err).in_store("AddToStore");
        let is_text = *method == ContentAddressMethod::Text;
        let is_known = *method != ContentAddressMethod::Git && !*repair;
        if !is_known || (!is_text && !references.is_empty()) {
            io::copy(dump, &mut io::sink()).map_err(reading)?;
            return self.too_old("AddToStore", session);
        }
        let response = match method {
            ContentAddressMethod::Text => {
                let mut text = Vec::new();
                let (max, field) = (STRING_LEN_MAX, "text");
                let len = dump.take(max + 1).read_to_end(&mut text).map_err(reading)? as u64;
                if len > max {
                    io::copy(dump, &mut io::sink()).map_err(reading)?;
                    let err = WireError::TooLong { field, len, max };
                    return Err(ClientError::Payload(io::Error::other(err)).in_store("AddToStore"));
                }
                self.call(Request::AddTextToStore {
                    name: name.clone(),
                    text,
                    references: references.clone(),
                })?
            }
            ContentAddressMethod::Nar | ContentAddressMethod::Git => {
                self.with("AddToStore", None, |connection, log| {
                    connection.call_bare(request, &mut NarReader::new(&mut { dump }), log)
                })?
            }
            ContentAddressMethod::Flat => {
                let (mut content, len) = spool(dump).map_err(reading)?;
                let (before, after) = nar_around_file(len);
                let mut nar = before.chain(content.by_ref()).chain(&after[..]);
                self.with("AddToStore", None, |connection, log| {
                    connection.call_bare(request, &mut nar, log)
                })?
            }
        };
        let path = self.expected("AddToStore", expect!(response, Path))?;
        self.query_path_info(&path)?
            .ok_or(StoreError::NotValid { path })
    }
}

/// The stream of `AddMultipleToStore`.
struct ObjectStream<'a, 'r> {
    session: &'a Session,
    infos: std::vec::IntoIter<&'a PathInfo>,
    open: OpenNar<'a, 'r>,
    head: io::Cursor<Vec<u8>>,
    nar: Option<WholeNar<Box<dyn Read + 'r>>>,
    failure: &'a mut Option<StoreError>,
}

impl Read for ObjectStream<'_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.head.read(bytes)?;
            if len > 0 || bytes.is_empty() {
                return Ok(len);
            }
            if let Some(nar) = &mut self.nar {
                let len = nar.read(bytes)?;
                if len > 0 {
                    return Ok(len);
                }
                self.nar = None;
            }
            let Some(info) = self.infos.next() else {
                return Ok(0);
            };
            let mut w = Writer::new();
            self.session.write_keyed_path_info(&mut w, info);
            self.head = io::Cursor::new(w.into_bytes());
            match (self.open)(info) {
                Ok(nar) => self.nar = Some(WholeNar(nar.take(info.nar_size))),
                Err(failure) => {
                    *self.failure = Some(failure);
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Store for RemoteStore {
    fn store_dir(&self) -> &StoreDir {
        &self.options.store_dir
    }

    /// Who is trusted there need not be here: what this client may not set is not passed on. What
    /// the server warns of comes as [messages](RemoteOptions::messages).
    /// Seen by the server in the versions that are spoken.
    fn set_hashes_offsets(&self, _client_does: bool) {}

    fn set_settings(&self, settings: &ClientSettings) -> Result<Vec<String>, StoreError> {
        let mut warnings = Vec::new();
        let mut overrides = settings.others.clone();
        overrides.retain(|name, value| {
            let may = settings.is_trusted || ClientSettings::is_free(name, value);
            if !may {
                warnings.push(ClientSettings::restricted(name));
            }
            may
        });
        let own = |name: &str| settings.own.get(name).map(String::as_str);
        let flag = |name: &str| own(name) == Some("true");
        let number = |name: &str| own(name).and_then(|text| text.parse().ok());
        RemoteStore::set_options(
            self,
            ClientOptions {
                keep_failed: flag("keep-failed"),
                keep_going: flag("keep-going"),
                try_fallback: flag("fallback"),
                verbosity: VERBOSITY,
                max_build_jobs: number("max-jobs").unwrap_or_else(processors),
                max_silent_time: number("max-silent-time").unwrap_or(0),
                build_verbosity: VERBOSITY,
                build_cores: number("cores").unwrap_or(0),
                use_substitutes: own("substitute") != Some("false"),
                overrides,
            },
        );
        Ok(warnings)
    }

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, StoreError> {
        let response = self.call(Request::IsValidPath(path.clone()))?;
        self.expected("IsValidPath", expect!(response, Bool))
    }

    fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, StoreError> {
        let response = self.call(Request::QueryPathInfo(path.clone()))?;
        self.expected("QueryPathInfo", expect!(response, OptionalPathInfo))
    }

    /// Before 1.27 nothing is substituted.
    fn query_valid_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        substitute: bool,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        let paths = paths.clone();
        self.paths(Request::QueryValidPaths { paths, substitute })
    }

    fn query_all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        self.paths(Request::QueryAllValidPaths)
    }

    fn query_substitutable_paths(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, StoreError> {
        self.paths(Request::QuerySubstitutablePaths(paths.clone()))
    }

    fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.paths(Request::QueryReferrers(path.clone()))
    }

    fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, StoreError> {
        let response = self.call(Request::QueryPathFromHashPart(hash_part.to_owned()))?;
        self.expected("QueryPathFromHashPart", expect!(response, OptionalPath))
    }

    fn query_valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        self.paths(Request::QueryValidDerivers(path.clone()))
    }

    /// Before 1.22 only outputs whose paths the derivation itself says.
    fn query_derivation_output_map(
        &self,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>, StoreError> {
        let operation = "QueryDerivationOutputMap";
        if self.session()?.since(22) {
            let response = self.call(Request::QueryDerivationOutputMap(drv.clone()))?;
            return self.expected(operation, expect!(response, OutputMap));
        }
        let response = self.call(Request::QueryDerivationOutputNames(drv.clone()))?;
        let names = self.expected(operation, expect!(response, Names))?;
        let mut paths = self.paths(Request::QueryDerivationOutputs(drv.clone()))?;
        // An output's name is in its path's.
        let drv_name = drv.derivation_name().unwrap_or(drv.name());
        Ok(names
            .into_iter()
            .map(|name| {
                let path_name = output_path_name(drv_name, &name);
                let path = paths.iter().find(|path| path.name() == path_name).cloned();
                if let Some(path) = &path {
                    paths.remove(path);
                }
                (name, path)
            })
            .collect())
    }

    /// Before 1.27 nothing is known, nor where realisations are keyed by paths.
    fn query_realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let session = self.session()?;
        if !session.since(27) || session.has(feature::REALISATION_WITH_PATH) {
            return Ok(None);
        }
        let response = self.call(Request::QueryRealisation(id.clone()))?;
        self.expected("QueryRealisation", expect!(response, Realisation))
    }

    fn register_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        let session = self.session()?;
        if !session.since(27) {
            return self.too_old("RegisterDrvOutput", &session);
        }
        if session.has(feature::REALISATION_WITH_PATH) {
            return Err(ClientError::ByPath.in_store("RegisterDrvOutput"));
        }
        self.nothing(Request::RegisterDrvOutput(realisation.clone()))
    }

    /// Without the feature, what is known of the outputs of a valid derivation.
    fn query_build_trace(
        &self,
        key: &BuildTraceKey,
    ) -> Result<Option<BuildTraceEntry>, StoreError> {
        if self.session()?.has(feature::REALISATION_WITH_PATH) {
            let response = self.call(Request::QueryBuildTrace(key.clone()))?;
            return self.expected("QueryRealisation", expect!(response, BuildTrace));
        }
        if !self.is_valid_path(&key.drv_path)? {
            return Ok(None);
        }
        let mut outputs = self.query_derivation_output_map(&key.drv_path)?;
        let out_path = outputs.remove(&key.output_name).flatten();
        Ok(out_path.map(|out_path| BuildTraceEntry::unsigned(key.clone(), out_path)))
    }

    fn register_build_trace(&self, entry: &BuildTraceEntry) -> Result<(), StoreError> {
        self.check_feature("RegisterDrvOutput", feature::REALISATION_WITH_PATH)?;
        self.nothing(Request::RegisterBuildTrace(entry.clone()))
    }

    fn nar_from_path(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), StoreError> {
        let request = Request::NarFromPath(path.clone());
        self.with("NarFromPath", None, |connection, log| {
            connection.call_for_nar(&request, out, log)
        })
    }

    /// Before 1.25 an object with references must be a text, and none is repaired.
    fn add_content_addressed(
        &self,
        name: &str,
        method: ContentAddressMethod,
        algorithm: HashAlgorithm,
        references: &BTreeSet<StorePath>,
        repair: bool,
        dump: &mut dyn Read,
    ) -> Result<PathInfo, StoreError> {
        let request = Request::AddToStore {
            name: name.to_owned(),
            method,
            algorithm,
            references: references.clone(),
            repair,
        };
        let session = self.session()?;
        if !session.since(25) {
            return self.add_content_addressed_before_25(&session, &request, dump);
        }
        let response = self.with("AddToStore", None, |connection, log| {
            connection.call_framed(&request, dump, log)
        })?;
        self.expected("AddToStore", expect!(response, PathInfo))
    }

    /// Reads `info.nar_size` bytes.
    fn add_nar(
        &self,
        info: &PathInfo,
        repair: bool,
        check_signatures: bool,
        nar: &mut dyn Read,
    ) -> Result<(), StoreError> {
        let request = Request::AddToStoreNar {
            info: info.clone(),
            repair,
            dont_check_signatures: !check_signatures,
        };
        let mut nar = WholeNar(nar.take(info.nar_size));
        self.with("AddToStoreNar", None, |connection, log| {
            match request.payload(&connection.session) {
                Payload::Pulled(_) => connection.call_pulled(&request, &mut nar, log),
                _ => connection.call_framed(&request, &mut nar, log),
            }
        })
        .map(|_| ())
    }

    fn add_signatures(&self, path: &StorePath, signatures: &[String]) -> Result<(), StoreError> {
        self.nothing(Request::AddSignatures {
            path: path.clone(),
            signatures: signatures.to_vec(),
        })
    }

    fn ensure_path(&self, path: &StorePath) -> Result<(), StoreError> {
        self.nothing(Request::EnsurePath(path.clone()))
    }

    fn add_temp_root(&self, path: &StorePath) -> Result<(), StoreError> {
        self.nothing(Request::AddTempRoot(path.clone()))
    }

    fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError> {
        let link = link.as_os_str().as_bytes().to_vec();
        self.nothing(Request::AddIndirectRoot(link))
    }

    fn add_perm_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError> {
        // The inherent method, which tells the link, too.
        Self::add_perm_root(self, path, link).map(drop)
    }

    /// What is censored is up to the server.
    fn find_roots(&self, _censor: bool) -> Result<Roots, StoreError> {
        let response = self.call(Request::FindRoots)?;
        self.expected("FindRoots", expect!(response, Roots))
    }

    /// Before 1.34 results have neither times nor `built_outputs`, and a failure is
    /// that of all that is not valid afterwards. The observer is told of every
    /// build's end that it was [`BuildStatus::Built`]: the protocol has no more.
    fn build_paths(
        &self,
        paths: &[DerivedPath],
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<Vec<KeyedBuildResult>, StoreError> {
        let paths = paths.to_vec();
        if self.session()?.since(34) {
            let request = Request::BuildPathsWithResults { paths, mode };
            let response = self.call_observed(request, Some(observer))?;
            return self.expected(
                "BuildPathsWithResults",
                expect!(response, KeyedBuildResults),
            );
        }
        let request = Request::BuildPaths {
            paths: paths.clone(),
            mode,
        };
        let built = self.call_observed(request, Some(observer)).map(|_| ());
        self.results_of(&paths, built)
    }

    fn build_derivation(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        mode: BuildMode,
        observer: &mut dyn BuildObserver,
    ) -> Result<BuildResult, StoreError> {
        let request = Request::BuildDerivation {
            drv_path: drv_path.clone(),
            derivation: derivation.clone(),
            mode,
        };
        let response = self.call_observed(request, Some(observer))?;
        self.expected("BuildDerivation", expect!(response, BuildResult))
    }

    fn query_missing(&self, paths: &[DerivedPath]) -> Result<Missing, StoreError> {
        let response = self.call(Request::QueryMissing(paths.to_vec()))?;
        self.expected("QueryMissing", expect!(response, Missing))
    }

    /// Before 1.32 no server has this.
    fn add_build_log(&self, drv: &StorePath, log: &mut dyn Read) -> Result<(), StoreError> {
        let session = self.session()?;
        if !session.since(32) {
            return self.too_old("AddBuildLog", &session);
        }
        let request = Request::AddBuildLog(drv.clone());
        self.with("AddBuildLog", None, |connection, messages| {
            connection.call_framed(&request, log, messages)
        })
        .map(|_| ())
    }

    fn collect_garbage(&self, request: &GcRequest, tell: Tell<'_>) -> Result<GcResult, StoreError> {
        let response = self.call_told(Request::CollectGarbage(request.clone()), tell)?;
        self.expected("CollectGarbage", expect!(response, GcResult))
    }

    fn optimise(&self, tell: Tell<'_>) -> Result<(), StoreError> {
        self.call_told(Request::OptimiseStore, tell).map(drop)
    }

    fn verify(&self, request: VerifyRequest, tell: Tell<'_>) -> Result<bool, StoreError> {
        let response = self.call_told(Request::VerifyStore(request), tell)?;
        self.expected("VerifyStore", expect!(response, Bool))
    }

    fn of_build(&self) -> Option<&dyn BuildStore> {
        None
    }
}

/// Passes on what a server wants shown.
struct Told<'a>(Tell<'a>);

impl BuildObserver for Told<'_> {
    fn started(&mut self, _drv: &StorePath, _mode: BuildMode) {}

    fn log_line(&mut self, _drv: &StorePath, _line: &[u8]) {}

    fn message(&mut self, text: &[u8]) {
        // How much it matters is not said.
        (self.0)(MessageLevel::Info, &String::from_utf8_lossy(text));
    }

    fn finished(&mut self, _drv: &StorePath, _result: &BuildResult) {}
}

/// A NAR of known length, whose end before it is an error.
struct WholeNar<R>(io::Take<R>);

impl<R: Read> Read for WholeNar<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.0.read(bytes)? {
            0 if self.0.limit() > 0 && !bytes.is_empty() => {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            len => Ok(len),
        }
    }
}
