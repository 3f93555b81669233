//! The server's side of the serve protocol, `nix-store --serve`, over any store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter, Read, Write};

use store_api::{
    BuildMode, BuildObserver, BuildResult, BuilderMessage, ClientSettings, MessageLevel, Store,
    StoreError,
};
use store_types::StorePath;
use store_wire::{
    HandshakeError, Reader, ServeBuildOptions, ServeRequest, ServeSession, WireError, Writer,
};

/// How much is read and written at once.
const BUFFER_LEN: usize = 64 << 10;

/// Why a connection ended before its client left in order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There was no connection.
    #[error("cannot greet the client")]
    Greeting(#[from] HandshakeError),
    /// The client sent what is no command.
    #[error("cannot read the client's command")]
    Command(#[from] WireError),
    /// The client is gone.
    #[error("cannot answer the client")]
    Write(#[source] io::Error),
    /// The store refused, or failed: there is no other way to say so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client may only read, in Nix's words.
    #[error("{what} paths is not allowed")]
    ReadOnly {
        /// What it wanted: `importing`, `building`.
        what: &'static str,
    },
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeAccess {
    /// Ask, and read what is valid: `nix-store --serve`.
    Read,
    /// Add and build, too: `nix-store --serve --write`.
    Write,
}

impl ServeAccess {
    fn to_write(self, what: &'static str) -> Result<(), ServeError> {
        match self {
            Self::Read => Err(ServeError::ReadOnly { what }),
            Self::Write => Ok(()),
        }
    }
}

/// Answers a client until it leaves. What builds log goes to `log`; so should the error.
pub fn serve_over_ssh(
    input: impl Read,
    output: impl Write,
    log: &mut (dyn Write + Send),
    store: &dyn Store,
    access: ServeAccess,
) -> Result<(), ServeError> {
    let may_write = access == ServeAccess::Write;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER_LEN, input));
    let mut output = BufWriter::with_capacity(BUFFER_LEN, output);
    let session = ServeSession::greet(&mut reader, &mut output, store.store_dir().clone())?;
    while let Some(request) = session.read(&mut reader)? {
        let mut w = Writer::new();
        match request {
            ServeRequest::QueryValidPaths {
                lock,
                substitute,
                paths,
            } => {
                if lock && may_write {
                    // Before it is asked which are valid, so that they stay so.
                    for path in &paths {
                        store.add_temp_root(path)?;
                    }
                }
                let substitute = substitute && may_write;
                session.put_paths(&mut w, &store.query_valid_paths(&paths, substitute)?);
            }
            ServeRequest::QueryPathInfos(paths) => {
                for path in &paths {
                    if let Some(info) = store.query_path_info(path)? {
                        session.put_path_info(&mut w, &info);
                    }
                }
                w.bytes("");
            }
            ServeRequest::DumpStorePath(path) => store.nar_from_path(&path, &mut output)?,
            ServeRequest::BuildPaths { paths, options } => {
                access.to_write("building")?;
                set_limits(store, options, log)?;
                let mut observer = Logged { log: &mut *log };
                let results = store.build_paths(&paths, BuildMode::Normal, &mut observer)?;
                match results.iter().find(|keyed| !keyed.result.is_success()) {
                    Some(failed) => {
                        w.u64(1).bytes(&failed.result.error_msg);
                    }
                    None => {
                        w.u64(0);
                    }
                }
            }
            ServeRequest::QueryClosure {
                paths,
                include_outputs,
            } => {
                session.put_paths(&mut w, &closure(store, paths, include_outputs)?);
            }
            ServeRequest::BuildDerivation {
                drv_path,
                derivation,
                options,
            } => {
                access.to_write("building")?;
                set_limits(store, options, log)?;
                let mut observer = Logged { log: &mut *log };
                let result = store.build_derivation(
                    &drv_path,
                    &derivation,
                    BuildMode::Normal,
                    &mut observer,
                )?;
                session.put_build_result(&mut w, &result);
            }
            ServeRequest::AddToStoreNar(info) => {
                access.to_write("importing")?;
                let mut nar = reader.inner().take(info.nar_size);
                store.add_nar(&info, false, false, &mut nar)?;
                io::copy(&mut nar, &mut io::sink())
                    .map_err(StoreError::io(format!("read the NAR of `{}`", info.path)))?;
                w.u64(1);
            }
        }
        output
            .write_all(&w.into_bytes())
            .and_then(|()| output.flush())
            .map_err(ServeError::Write)?;
    }
    Ok(())
}

/// Has what is built from now on built as the client wants it. Who comes by SSH is who the other
/// side says, and so trusted.
///
/// Source: nix `src/nix/nix-store/nix-store.cc` (`getBuildSettings` of `opServe`).
fn set_limits(
    store: &dyn Store,
    options: ServeBuildOptions,
    log: &mut (dyn Write + Send),
) -> Result<(), StoreError> {
    let seconds = |limit: u64| limit.min(i64::MAX as u64).to_string();
    let settings = ClientSettings {
        own: BTreeMap::from([
            ("max-silent-time", seconds(options.max_silent_seconds)),
            ("keep-failed", options.keep_failed.to_string()),
        ]),
        others: BTreeMap::from([
            ("timeout".to_owned(), seconds(options.timeout_seconds)),
            (
                "max-build-log-size".to_owned(),
                options.log_bytes_max.to_string(),
            ),
        ]),
        is_trusted: true,
    };
    for warning in store.set_settings(&settings)? {
        // Nobody may be there to read it, and the build goes on.
        let _ = writeln!(log, "warning: {warning}");
    }
    Ok(())
}

/// All that these refer to; with `include_outputs`, what is valid of the outputs of the derivations
/// among it, too, and what those refer to.
fn closure(
    store: &dyn Store,
    paths: BTreeSet<StorePath>,
    include_outputs: bool,
) -> Result<BTreeSet<StorePath>, StoreError> {
    let mut closure = BTreeSet::new();
    let mut todo: Vec<StorePath> = paths.into_iter().collect();
    while let Some(path) = todo.pop() {
        if closure.contains(&path) {
            continue;
        }
        let info = store
            .query_path_info(&path)?
            .ok_or_else(|| StoreError::NotValid { path: path.clone() })?;
        todo.extend(info.references);
        if include_outputs && path.is_derivation() {
            let outputs = store.query_derivation_output_map(&path)?;
            let outputs = outputs.into_values().flatten().collect();
            todo.extend(store.query_valid_paths(&outputs, false)?);
        }
        closure.insert(path);
    }
    Ok(closure)
}

/// Passes on what builders log.
struct Logged<'a> {
    log: &'a mut (dyn Write + Send),
}

impl BuildObserver for Logged<'_> {
    fn started(&mut self, _drv: &StorePath, _mode: BuildMode) {}

    fn log_line(&mut self, _drv: &StorePath, line: &[u8]) {
        // Nobody may be there to read it, and the build goes on.
        let _ = self
            .log
            .write_all(line)
            .and_then(|()| self.log.write_all(b"\n"));
    }

    fn builder_message(&mut self, _drv: &StorePath, message: &BuilderMessage) {
        if let BuilderMessage::Text { level, text } = message
            && *level <= MessageLevel::Info as u64
        {
            let _ = writeln!(self.log, "{text}");
        }
    }

    fn dependency_failed(&mut self, error: &str) {
        let error = error.replace('\n', "\n       ");
        let _ = writeln!(self.log, "error: {error}");
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.log, "note: {text}");
    }

    fn finished(&mut self, _drv: &StorePath, _result: &BuildResult) {}
}
