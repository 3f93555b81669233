//! What each request asks of the store.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use store_api::{BuildMode, ClientSettings, KeyedBuildResult, MessageLevel, Store, StoreError};
use store_types::{ContentAddressMethod, Derivation, DerivationKind, HashAlgorithm, StorePath};
use store_wire::{
    ClientOptions, FramedReader, NarReader, Payload, Reader, RemoteError, Request, Response,
    Session, SharedBudget, StderrFrame, WireError,
};

use crate::connection::{Connection, ConnectionError, for_client, send_frame};
use crate::forward::Forwarder;
use crate::inside;
use crate::payload::{AfterLog, PullReader, only_file};

/// Nix's exit status for a failed build, which clients before 1.26 are told.
const EXIT_STATUS_BUILD_FAILED: u64 = 100;

/// Nix's verbosity "warn".
const LEVEL_WARN: u64 = 1;

/// How Nix begins a warning; clients take the colours out where nobody sees them.
const WARNING: &str = "\x1b[35;1mwarning:\x1b[0m";

/// Answers a request with a reply or an error. An `Err` ends the connection.
pub(crate) fn answer<R: Read, W: Write + Send>(
    connection: &mut Connection<'_, R, W>,
    request: Request,
) -> Result<(), ConnectionError> {
    let operation = request.operation().0;
    match request.payload(&connection.session) {
        Payload::Nothing => {}
        Payload::Framed => return answer_framed(connection, request),
        Payload::Nar => return answer_nar(connection, request),
        Payload::Pulled(len) => return answer_pulled(connection, request, len),
    }
    if let Err(err) = check_permitted(connection.store, operation) {
        return connection.send_error(&err);
    }
    if let Request::NarFromPath(path) = request {
        return answer_with_nar(connection, operation, &path);
    }
    match without_payload(connection, request) {
        Ok(Answer::Response(response)) => connection.send_response(&response),
        Ok(Answer::Failed(error)) => connection.send_frame(&StderrFrame::Error(error)),
        Err(err) => connection.send_error(&err),
    }
}

/// What becomes of a request that the store could deal with.
enum Answer {
    Response(Response),
    /// Builds failed, and the operation has no reply that could say so.
    Failed(RemoteError),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

/// What a client is told that must be trusted for what it wants, in Nix's words.
fn not_trusted(text: &str) -> StoreError {
    let what = text.to_owned();
    StoreError::BadRequest { what }
}

fn refused(operation: &'static str) -> StoreError {
    StoreError::Refused { operation }
}

/// What a client wants, by Nix's names.
fn client_settings(options: ClientOptions, is_trusted: bool) -> ClientSettings {
    let own = [
        ("keep-failed", options.keep_failed.to_string()),
        ("keep-going", options.keep_going.to_string()),
        ("fallback", options.try_fallback.to_string()),
        (
            "max-jobs",
            options.max_build_jobs.min(u32::MAX.into()).to_string(),
        ),
        (
            "max-silent-time",
            options.max_silent_time.min(i64::MAX as u64).to_string(),
        ),
        (
            "cores",
            options.build_cores.min(u32::MAX.into()).to_string(),
        ),
        ("substitute", options.use_substitutes.to_string()),
    ];
    ClientSettings {
        own: own.into(),
        others: options.overrides,
        is_trusted,
    }
}

/// What a build may ask for is not all that there is.
fn check_permitted(store: &dyn Store, operation: &'static str) -> Result<(), StoreError> {
    match store.of_build() {
        Some(build) if !inside::permits(build, operation) => Err(refused(operation)),
        _ => Ok(()),
    }
}

fn absolute(link: &[u8]) -> Result<&Path, StoreError> {
    let link = Path::new(OsStr::from_bytes(link));
    match link.is_absolute() {
        true => Ok(link),
        false => Err(StoreError::BadRequest {
            what: format!("`{}` is not an absolute path", link.display()),
        }),
    }
}

fn without_payload<R: Read, W: Write + Send>(
    connection: &mut Connection<'_, R, W>,
    request: Request,
) -> Result<Answer, StoreError> {
    let store = connection.store;
    let trusted = connection.trusted;
    let operation = request.operation().0;
    let response = match request {
        Request::IsValidPath(path) => Response::Bool(store.is_valid_path(&path)?),
        Request::QueryPathInfo(path) => Response::OptionalPathInfo(store.query_path_info(&path)?),
        Request::QueryDeriver(path) => match store.query_path_info(&path)? {
            Some(info) => Response::OptionalPath(info.deriver),
            None => return Err(StoreError::NotValid { path }),
        },
        Request::QueryValidPaths { paths, substitute } => {
            Response::Paths(store.query_valid_paths(&paths, substitute)?)
        }
        Request::QueryAllValidPaths => Response::Paths(store.query_all_valid_paths()?),
        Request::QuerySubstitutablePaths(paths) => {
            Response::Paths(store.query_substitutable_paths(&paths)?)
        }
        // Sizes of downloads are told by `QueryMissing`; what no substituter is
        // known to have is left out here, which is always allowed.
        Request::QuerySubstitutablePathInfo(_) => Response::SubstitutablePathInfo(None),
        Request::QuerySubstitutablePathInfos(_) => {
            Response::SubstitutablePathInfos(BTreeMap::new())
        }
        Request::QueryReferrers(path) => Response::Paths(store.query_referrers(&path)?),
        Request::QueryValidDerivers(path) => Response::Paths(store.query_valid_derivers(&path)?),
        Request::QueryDerivationOutputs(drv) => Response::Paths(
            store
                .query_derivation_output_map(&drv)?
                .into_values()
                .flatten()
                .collect(),
        ),
        Request::QueryDerivationOutputNames(drv) => Response::Names(
            store
                .query_derivation_output_map(&drv)?
                .into_keys()
                .collect(),
        ),
        Request::QueryDerivationOutputMap(drv) => {
            Response::OutputMap(store.query_derivation_output_map(&drv)?)
        }
        Request::QueryPathFromHashPart(hash_part) => {
            Response::OptionalPath(store.query_path_from_hash_part(&hash_part)?)
        }
        Request::QueryRealisation(id) => Response::Realisation(store.query_realisation(&id)?),
        Request::QueryBuildTrace(key) => Response::BuildTrace(store.query_build_trace(&key)?),
        Request::QueryMissing(paths) => Response::Missing(store.query_missing(&paths)?),

        Request::AddTextToStore {
            name,
            text,
            references,
        } => {
            let info = store.add_content_addressed(
                &name,
                ContentAddressMethod::Text,
                HashAlgorithm::Sha256,
                &references,
                false,
                &mut &text[..],
            )?;
            Response::Path(info.path)
        }
        Request::EnsurePath(path) => {
            store.ensure_path(&path)?;
            Response::Bool(true)
        }
        Request::AddTempRoot(path) => {
            store.add_temp_root(&path)?;
            Response::Bool(true)
        }
        Request::AddIndirectRoot(link) => {
            store.add_indirect_root(absolute(&link)?)?;
            Response::Bool(true)
        }
        // The link is made with the server's rights.
        Request::AddPermRoot { .. } if !trusted => {
            return Err(not_trusted(
                "you are not privileged to create perm roots\n\nhint: you can just do this client-side without special privileges, and probably want to do that instead.",
            ));
        }
        Request::AddPermRoot { path, link } => {
            let link = absolute(&link)?;
            store.add_perm_root(&path, link)?;
            Response::Link(link.to_owned())
        }
        Request::SyncWithGC => Response::Bool(true),
        Request::FindRoots => Response::Roots(store.find_roots(!trusted)?),
        Request::SetOptions(options) => {
            let verbosity = options.verbosity;
            connection.verbosity = verbosity;
            let warnings = store.set_settings(&client_settings(options, trusted))?;
            if verbosity >= LEVEL_WARN {
                for warning in warnings {
                    let text = format!("{WARNING} {warning}\n").into_bytes();
                    // Who does not take it is not going to take the reply.
                    let _ = connection.send_frame(&StderrFrame::Next(text));
                }
            }
            Response::Nothing
        }
        Request::AddSignatures { path, signatures } => {
            store.add_signatures(&path, &signatures)?;
            Response::Bool(true)
        }
        // What it says cannot be checked.
        Request::RegisterDrvOutput(_) | Request::RegisterBuildTrace(_) if !trusted => {
            return Err(refused(operation));
        }
        Request::RegisterDrvOutput(realisation) => {
            store.register_realisation(&realisation)?;
            Response::Nothing
        }
        Request::RegisterBuildTrace(entry) => {
            store.register_build_trace(&entry)?;
            Response::Nothing
        }
        Request::CollectGarbage(request) if request.ignore_liveness => {
            return Err(StoreError::BadRequest {
                what: "you are not allowed to ignore liveness".to_owned(),
            });
        }
        Request::CollectGarbage(request) => {
            Response::GcResult(store.collect_garbage(&request, &mut teller(connection))?)
        }
        Request::OptimiseStore => {
            store.optimise(&mut teller(connection))?;
            Response::Bool(true)
        }
        Request::VerifyStore(request) if request.repair && !trusted => {
            return Err(not_trusted("you are not privileged to repair paths"));
        }
        Request::VerifyStore(request) => {
            Response::Bool(store.verify(request, &mut teller(connection))?)
        }

        Request::BuildPaths { mode, .. }
        | Request::BuildPathsWithResults { mode, .. }
        | Request::BuildDerivation { mode, .. }
            if mode == BuildMode::Repair && !trusted =>
        {
            return Err(not_trusted(
                "repairing is not allowed because you are not in 'trusted-users'",
            ));
        }
        Request::BuildPaths { paths, mode } => {
            let results = store.build_paths(&paths, mode, &mut forwarder(connection))?;
            match failure(connection, &results) {
                Some(error) => return Ok(Answer::Failed(error)),
                None => Response::Bool(true),
            }
        }
        Request::BuildPathsWithResults { paths, mode } => Response::KeyedBuildResults(
            store.build_paths(&paths, mode, &mut forwarder(connection))?,
        ),
        Request::BuildDerivation {
            drv_path,
            derivation,
            mode,
        } => {
            if !drv_path.is_derivation() {
                let what = format!(
                    "store path '{}' is not a valid derivation path",
                    connection.session.store_dir.display(&drv_path)
                );
                return Err(StoreError::BadRequest { what });
            }
            let drv_path = match trusted {
                true => drv_path,
                false => add_derivation(connection, &drv_path, &derivation)?,
            };
            Response::BuildResult(store.build_derivation(
                &drv_path,
                &derivation,
                mode,
                &mut forwarder(connection),
            )?)
        }

        Request::SubmitOutput { path, output } => {
            let build = store.of_build().ok_or(refused("SubmitOutput"))?;
            build.submit_output(&path, &output)?;
            Response::Bool(true)
        }

        Request::AddToStore { .. }
        | Request::AddToStoreScanning { .. }
        | Request::AddToStoreNar { .. }
        | Request::AddMultipleToStore { .. }
        | Request::AddBuildLog(_)
        | Request::NarFromPath(_) => unreachable!("these have a payload"),
    };
    Ok(response.into())
}

/// Sends what is being done to the client's standard error.
fn teller<'a, R: Read, W: Write + Send>(
    connection: &'a mut Connection<'_, R, W>,
) -> impl FnMut(MessageLevel, &str) + Send + 'a {
    let (output, session) = (&mut connection.output, &connection.session);
    let verbosity = connection.verbosity;
    move |level, text| {
        if level as u64 <= verbosity {
            // Who does not take it is not going to take the reply.
            let _ = send_frame(
                output,
                session,
                &StderrFrame::Next(format!("{text}\n").into()),
            );
        }
    }
}

fn forwarder<'a, R: Read, W: Write>(
    connection: &'a mut Connection<'_, R, W>,
) -> Forwarder<'a, io::BufWriter<W>> {
    Forwarder::new(
        &mut connection.output,
        &connection.session,
        connection.is_hung_up,
        connection.verbosity,
    )
}

/// The error of `BuildPaths`, if something failed.
fn failure<R: Read, W: Write>(
    connection: &Connection<'_, R, W>,
    results: &[KeyedBuildResult],
) -> Option<RemoteError> {
    let messages: Vec<String> = results
        .iter()
        .filter(|keyed| !keyed.result.is_success())
        .map(|keyed| match keyed.result.error_msg.as_str() {
            "" => format!(
                "cannot build '{}'",
                keyed.path.display(&connection.session.store_dir)
            ),
            message => message.to_owned(),
        })
        .collect();
    (!messages.is_empty()).then(|| RemoteError {
        exit_status: EXIT_STATUS_BUILD_FAILED,
        ..RemoteError::new(messages.join("\n"))
    })
}

/// The true path of a derivation that an untrusted client wants built, made
/// valid. Outputs that are addressed by content need no trust; that others
/// belong to the derivation could not be checked.
fn add_derivation<R: Read, W: Write>(
    connection: &Connection<'_, R, W>,
    drv_path: &StorePath,
    derivation: &Derivation,
) -> Result<StorePath, StoreError> {
    let bad = |what: String| StoreError::BadRequest { what };
    let kind = derivation
        .kind()
        .map_err(|err| bad(format!("`{drv_path}` cannot be built: {err}")))?;
    let is_addressed_by_content = matches!(
        kind,
        DerivationKind::Fixed | DerivationKind::Floating | DerivationKind::Impure
    );
    if !is_addressed_by_content {
        return Err(not_trusted(
            "you are not privileged to build input-addressed derivations",
        ));
    }
    let text = derivation.to_aterm(&connection.session.store_dir);
    let info = connection.store.add_content_addressed(
        drv_path.name(),
        ContentAddressMethod::Text,
        HashAlgorithm::Sha256,
        &derivation.references(),
        false,
        &mut &text[..],
    )?;
    Ok(info.path)
}

/// Requests that a framed stream follows.
fn answer_framed<R: Read, W: Write + Send>(
    connection: &mut Connection<'_, R, W>,
    request: Request,
) -> Result<(), ConnectionError> {
    let operation = request.operation().0;
    let mut stream = FramedReader::new(connection.reader.inner());
    let result = from_framed(
        connection.store,
        connection.trusted,
        &connection.session,
        connection.budget.clone(),
        request,
        &mut stream,
    );
    // A client looks for an early error while it sends.
    let sent = match &result {
        Ok(_) => Ok(()),
        Err(err) => send_frame(
            &mut connection.output,
            &connection.session,
            &StderrFrame::Error(RemoteError::new(for_client(err, &connection.session))),
        ),
    };
    stream
        .drain()
        .map_err(|source| ConnectionError::Payload { operation, source })?;
    sent.map_err(ConnectionError::Write)?;
    match result {
        Ok(response) => connection.send_response(&response),
        Err(_) => Ok(()),
    }
}

fn from_framed(
    store: &dyn Store,
    trusted: bool,
    session: &Session,
    budget: Option<Arc<SharedBudget>>,
    request: Request,
    stream: &mut dyn Read,
) -> Result<Response, StoreError> {
    check_permitted(store, request.operation().0)?;
    match request {
        Request::AddToStoreScanning {
            name,
            method,
            algorithm,
        } => {
            let build = store.of_build().ok_or(refused("AddToStoreScanning"))?;
            build
                .add_scanning(&name, method, algorithm, stream)
                .map(Response::PathInfo)
        }
        Request::AddToStore {
            name,
            method,
            algorithm,
            references,
            repair,
        } => {
            let repair = repair && trusted;
            store
                .add_content_addressed(&name, method, algorithm, &references, repair, stream)
                .map(Response::PathInfo)
        }
        Request::AddToStoreNar {
            mut info,
            repair,
            dont_check_signatures,
        } => {
            info.ultimate &= trusted;
            let check_signatures = !(trusted && dont_check_signatures);
            store.add_nar(&info, repair && trusted, check_signatures, stream)?;
            Ok(Response::Nothing)
        }
        Request::AddMultipleToStore {
            repair,
            dont_check_signatures,
        } => {
            let check_signatures = !(trusted && dont_check_signatures);
            let wrong = |err: WireError| StoreError::Failed {
                action: "read what is to be added".to_owned(),
                source: err.into(),
            };
            let mut reader = Reader::new(stream).sharing(budget);
            for _ in 0..reader.u64("count").map_err(wrong)? {
                reader.begin_message();
                let mut info = session.read_keyed_path_info(&mut reader).map_err(wrong)?;
                info.ultimate = false;
                let mut nar = reader.inner().take(info.nar_size);
                store.add_nar(&info, repair && trusted, check_signatures, &mut nar)?;
                let rest = io::copy(&mut nar, &mut io::sink())
                    .map_err(StoreError::io(format!("read the NAR of `{}`", info.path)))?;
                if rest != 0 || nar.limit() != 0 {
                    return Err(StoreError::BadRequest {
                        what: format!("the NAR of `{}` is not as long as announced", info.path),
                    });
                }
            }
            Ok(Response::Nothing)
        }
        Request::AddBuildLog(_) if !trusted => {
            Err(not_trusted("you are not privileged to add logs"))
        }
        Request::AddBuildLog(drv) => {
            store.add_build_log(&drv, stream)?;
            Ok(Response::Bool(true))
        }
        _ => unreachable!("no framed stream follows"),
    }
}

/// `AddToStore` before 1.25: a NAR in any case, with nothing around it.
fn answer_nar<R: Read, W: Write + Send>(
    connection: &mut Connection<'_, R, W>,
    request: Request,
) -> Result<(), ConnectionError> {
    let operation = request.operation().0;
    let Request::AddToStore {
        name,
        method,
        algorithm,
        references,
        ..
    } = request
    else {
        unreachable!("no bare NAR follows");
    };
    let store = connection.store;
    let mut nar = NarReader::new(connection.reader.inner());
    let add = |dump: &mut dyn Read| {
        store.add_content_addressed(&name, method, algorithm, &references, false, dump)
    };
    let result = match method {
        ContentAddressMethod::Nar | ContentAddressMethod::Git => add(&mut nar),
        ContentAddressMethod::Flat | ContentAddressMethod::Text => only_file(&mut nar)
            .map_err(StoreError::io(format!("read the content of `{name}`")))
            .and_then(|mut file| add(&mut file)),
    };
    // The client listens only when it has sent everything.
    nar.drain()
        .map_err(|source| ConnectionError::Payload { operation, source })?;
    match result {
        Ok(info) => connection.send_response(&Response::Path(info.path)),
        Err(err) => connection.send_error(&err),
    }
}

/// `AddToStoreNar` before 1.23: the server asks for the NAR piece by piece.
fn answer_pulled<R: Read, W: Write + Send>(
    connection: &mut Connection<'_, R, W>,
    request: Request,
    len: u64,
) -> Result<(), ConnectionError> {
    let mut nar = PullReader::new(
        &mut connection.reader,
        &mut connection.output,
        &connection.session,
        len,
    );
    let result = from_framed(
        connection.store,
        connection.trusted,
        &connection.session,
        connection.budget.clone(),
        request,
        &mut nar,
    );
    if let Some(broken) = nar.into_error() {
        return Err(broken);
    }
    match result {
        Ok(response) => connection.send_response(&response),
        Err(err) => connection.send_error(&err),
    }
}

/// `NarFromPath`: nothing but the NAR follows the log's end.
fn answer_with_nar<R: Read, W: Write + Send>(
    connection: &mut Connection<'_, R, W>,
    operation: &'static str,
    path: &StorePath,
) -> Result<(), ConnectionError> {
    let mut out = AfterLog::new(&mut connection.output, &connection.session);
    let result = connection.store.nar_from_path(path, &mut out);
    match (result, out.has_begun) {
        (Ok(()), true) => connection.output.flush().map_err(ConnectionError::Write),
        (Ok(()), false) => connection.send_response(&Response::Nothing),
        (Err(err), false) => connection.send_error(&err),
        (Err(source), true) => Err(ConnectionError::Answer { operation, source }),
    }
}
