//! The builder of every child derivation.
//!
//! It reads the manifest named by `manifestPath`, creates what the manifest lists, in `/build` or
//! in a root of the child's own, runs the tool, and leaves what the tool did in `$out`; see `shim_core::manifest`. A tool that
//! fails is a result, not a failure of the runner's.
//!
//! Its bytes are part of every child's identity: what it does not need is not in it.

mod collect;
mod error;
mod layout;
mod root;
mod tool;

use std::env::var_os;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::Mode;
use shim_core::manifest::{self, Manifest};

use error::{Context, Error};
use layout::LaidOut;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("droste-runner: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let variable = |name: &str| {
        var_os(name)
            .map(PathBuf::from)
            .ok_or(Error::Variable(name.into()))
    };
    let out = variable("out")?;
    let manifest = read_manifest(&variable("manifestPath")?)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    droste_sys::reset_signals();
    // The tool gets three descriptors, whatever this program was started with.
    droste_sys::close_from_on_exec(3).context(Path::new("/proc/self/fd"))?;
    std::fs::create_dir(&out).context(&out)?;
    let is_laid_out = layout::is_laid_out()?;
    let mut laid_out = if manifest.is_in_work_dir() {
        LaidOut::work_dir(&manifest, is_laid_out)?
    } else {
        root::enter(&manifest, &out, is_laid_out)?
    };
    laid_out.create(&manifest.layout)?;
    let before = collect::Elsewhere::look();
    let outcome = tool::run(&manifest, &out)?;
    if !is_laid_out {
        laid_out.take_later_ones()?;
    }
    let mut collected = laid_out.collect(&out.join(manifest::FILES))?;
    collected.extend(before.what_is_new());
    let status = out.join(manifest::STATUS);
    std::fs::write(&status, outcome).context(&status)?;
    if !collected.is_empty() {
        let odd = out.join(manifest::ODD);
        std::fs::write(&odd, collected.concat()).context(&odd)?;
    }
    Ok(())
}

fn read_manifest(path: &Path) -> Result<Manifest, Error> {
    let limit = manifest::MANIFEST_BYTES_MAX as u64 + 1;
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .context(path)?;
    Manifest::parse(&text).map_err(Error::Manifest)
}
