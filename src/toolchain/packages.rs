//! Which Debian packages make a toolchain, and getting them.
//!
//! apt does the work, with an empty package status of our own, so that what is
//! installed on the machine has no say and no root rights are needed. The
//! machine's package lists are used when they are there; when they are missing
//! or too old, lists are fetched into the cache directory.
//!
//! On disk, below the cache directory:
//!
//! ```text
//! debs/NAME_VERSION_ARCH.deb    verified against the SHA-256 of apt's lists
//! apt/{status,lists,cache}      apt's state
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use store_types::Sha256Hasher;

use crate::error::{failed, run, run_any};
use crate::{PackagesError, Progress};

/// What an ordinary `configure && make` runs.
const ROOTS: &[&str] = &[
    "gcc",
    "g++",
    "cpp",
    "binutils",
    "libc6-dev",
    "make",
    "bash",
    "coreutils",
    "sed",
    "grep",
    "mawk",
    "findutils",
    "diffutils",
    "patch",
    "tar",
    "gzip",
    "xz-utils",
];

/// Dependencies that are no part of the tree, by the beginning of their names:
/// of the package system itself, of libraries' headers for network services,
/// and the sanitizers' and the profiler's run-time libraries, which are larger
/// than the compiler.
const LEFT_OUT: &[&str] = &[
    "debconf",
    "debianutils",
    "base-files",
    "dpkg",
    "install-info",
    "perl",
    "rpcsvc-proto",
    "libnsl",
    "libtirpc",
    "libasan",
    "liblsan",
    "libtsan",
    "libubsan",
    "libhwasan",
    "libgprofng",
];

/// How many packages one `apt-get` fetches, so that progress is seen.
const DOWNLOAD_BATCH: usize = 8;

/// How deep dependencies may nest; Debian's toolchain needs 6.
const ROUNDS_MAX: usize = 32;

/// A package as apt's lists have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, epoch included.
    pub version: String,
    architecture: String,
    sha256_hex: String,
    size_bytes: u64,
    dependencies: Vec<Vec<String>>,
}

impl Package {
    /// The name `apt-get download` gives the file.
    fn file_name(&self) -> String {
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_{}.deb", self.name, self.architecture)
    }
}

/// A toolchain's packages, all of them on disk and verified.
#[derive(Debug)]
pub struct Packages {
    /// Sorted by name.
    pub(crate) packages: Vec<Package>,
    pub(crate) dir: PathBuf,
    gcc_major: u32,
}

impl Packages {
    /// Finds the packages of the machine's release and downloads those that
    /// `cache_dir` does not have yet.
    ///
    /// Needs `apt-get`, `apt-cache` and the machine's package sources, no root
    /// rights, and no network when everything is there.
    pub fn fetch(
        cache_dir: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, PackagesError> {
        let private = Apt::new(cache_dir, true)?;
        let mut result = fetch_with(&Apt::new(cache_dir, false)?, progress);
        if is_about_lists(&result) && private.has_lists() {
            result = fetch_with(&private, progress);
        }
        if is_about_lists(&result) {
            progress(Progress::RefreshingLists);
            let refreshed = private.update();
            result = fetch_with(&private, progress);
            // A failed hook of another program is no failure if the lists came.
            if is_about_lists(&result) {
                refreshed?;
            }
        }
        result
    }

    /// The packages, sorted by name.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The name part for the tree's store path: `droste-toolchain-gcc<major>`.
    pub fn toolchain_name(&self) -> String {
        format!("droste-toolchain-gcc{}", self.gcc_major)
    }

    /// A package's file.
    pub(crate) fn file(&self, package: &Package) -> PathBuf {
        self.dir.join(package.file_name())
    }
}

/// Whether newer lists might help: a package is unknown, cannot be downloaded
/// any more, or is another by now.
fn is_about_lists(result: &Result<Packages, PackagesError>) -> bool {
    matches!(
        result,
        Err(PackagesError::Unknown { .. }
            | PackagesError::Mismatch { .. }
            | PackagesError::Apt(crate::CommandError::Failed { .. }))
    )
}

fn fetch_with(
    apt: &Apt,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Packages, PackagesError> {
    let packages = closure(apt)?;
    let gcc_major = gcc_major(&packages)?;
    let packages: Vec<Package> = packages.into_values().collect();
    download(apt, &packages, progress)?;
    Ok(Packages {
        packages,
        dir: apt.debs.clone(),
        gcc_major,
    })
}

/// The major version of the release's default compiler: `gcc` depends on
/// `gcc-<major>`.
fn gcc_major(packages: &BTreeMap<String, Package>) -> Result<u32, PackagesError> {
    let alternatives = packages.get("gcc").map(|gcc| gcc.dependencies.concat());
    alternatives
        .unwrap_or_default()
        .iter()
        .find_map(|name| name.strip_prefix("gcc-")?.parse().ok())
        .ok_or_else(|| PackagesError::Record {
            package: "gcc".into(),
            field: "Depends",
        })
}

/// The roots and what they depend on, by name.
///
/// Of alternatives the first that exists counts. A dependency that no package
/// satisfies by its name is passed over: whether a library is missing shows
/// when the tree is checked.
fn closure(apt: &Apt) -> Result<BTreeMap<String, Package>, PackagesError> {
    let mut found: BTreeMap<String, Package> = BTreeMap::new();
    let mut absent: BTreeSet<String> = BTreeSet::new();
    let mut wanted: BTreeSet<String> = ROOTS.iter().map(|&name| name.into()).collect();
    for _ in 0..ROUNDS_MAX {
        if wanted.is_empty() {
            break;
        }
        let mut shown = apt.show(&wanted)?;
        for name in std::mem::take(&mut wanted) {
            match shown.remove(&name) {
                Some(package) => drop(found.insert(name, package)),
                None => drop(absent.insert(name)),
            }
        }
        for alternatives in found.values().flat_map(|package| &package.dependencies) {
            let left_out = |name: &String| LEFT_OUT.iter().any(|prefix| name.starts_with(prefix));
            if alternatives.iter().any(left_out) {
                continue;
            }
            let next = alternatives.iter().find(|name| !absent.contains(*name));
            wanted.extend(next.filter(|name| !found.contains_key(*name)).cloned());
        }
    }
    let unknown: Vec<String> = ROOTS
        .iter()
        .filter(|name| !found.contains_key(**name))
        .map(|&name| name.into())
        .collect();
    match unknown.is_empty() {
        true => Ok(found),
        false => Err(PackagesError::Unknown { names: unknown }),
    }
}

fn download(
    apt: &Apt,
    packages: &[Package],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), PackagesError> {
    let total_bytes = packages.iter().map(|package| package.size_bytes).sum();
    let mut done_bytes = 0;
    let mut missing = Vec::new();
    for package in packages {
        match matches_record(&apt.debs.join(package.file_name()), package)? {
            true => done_bytes += package.size_bytes,
            false => missing.push(package),
        }
    }
    for batch in missing.chunks(DOWNLOAD_BATCH) {
        progress(Progress::Downloading {
            done_bytes,
            total_bytes,
        });
        apt.download(batch)?;
        for package in batch {
            let path = apt.debs.join(package.file_name());
            if !matches_record(&path, package)? {
                return Err(PackagesError::Mismatch { path });
            }
            done_bytes += package.size_bytes;
        }
    }
    progress(Progress::Downloading {
        done_bytes,
        total_bytes,
    });
    Ok(())
}

/// Whether the file is there and has the record's digest.
fn matches_record(path: &Path, package: &Package) -> Result<bool, PackagesError> {
    let error = |source| PackagesError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(error(source)),
    };
    let mut hasher = Sha256Hasher::new();
    io::copy(&mut file, &mut hasher).map_err(error)?;
    Ok(hasher.finish().0.to_hex() == package.sha256_hex)
}

/// apt with its own state below the cache directory.
struct Apt {
    debs: PathBuf,
    dir: PathBuf,
    /// Lists of our own instead of the machine's.
    private_lists: bool,
}

impl Apt {
    fn new(cache_dir: &Path, private_lists: bool) -> Result<Self, PackagesError> {
        let io = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| PackagesError::Io {
                operation,
                path,
                source,
            }
        };
        fs::create_dir_all(cache_dir).map_err(io("create", cache_dir))?;
        // apt resolves relative paths against its own directories.
        let cache_dir = &cache_dir.canonicalize().map_err(io("open", cache_dir))?;
        let (debs, dir) = (cache_dir.join("debs"), cache_dir.join("apt"));
        for path in [
            debs.clone(),
            dir.join("lists/partial"),
            dir.join("cache/archives/partial"),
        ] {
            fs::create_dir_all(&path).map_err(io("create", &path))?;
        }
        let status = dir.join("status");
        fs::write(&status, "").map_err(io("write", &status))?;
        Ok(Self {
            debs,
            dir,
            private_lists,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |key: &str, path: &str| {
            let value = self.dir.join(path);
            command.arg("-o").arg(format!("{key}={}", value.display()));
        };
        option("Dir::State::status", "status");
        option("Dir::Cache", "cache");
        if self.private_lists {
            option("Dir::State::lists", "lists");
        }
        // Root's apt would otherwise fetch as a user who may not write here.
        for setting in [
            "APT::Sandbox::User=root",
            "Debug::NoLocking=1",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false",
            "Acquire::IndexTargets::deb-src::Sources::DefaultEnabled=false",
        ] {
            command.arg("-o").arg(setting);
        }
        command
    }

    fn has_lists(&self) -> bool {
        let entries = fs::read_dir(self.dir.join("lists"));
        entries.is_ok_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        })
    }

    fn update(&self) -> Result<(), PackagesError> {
        run(self.command("apt-get").args(["-q", "update"]))
            .map(drop)
            .map_err(PackagesError::Apt)
    }

    /// The records of those of these packages that apt knows.
    fn show(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, Package>, PackagesError> {
        let mut command = self.command("apt-cache");
        command.args(["show", "--no-all-versions"]).args(names);
        // Fails when one of them is unknown, having shown the others.
        let output = run_any(&mut command).map_err(PackagesError::Apt)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut packages = BTreeMap::new();
        for record in text
            .split("\n\n")
            .filter(|record| !record.trim().is_empty())
        {
            let package = parse_record(record)?;
            packages.entry(package.name.clone()).or_insert(package);
        }
        if packages.is_empty() && output.status.code() != Some(100) {
            return Err(PackagesError::Apt(failed(&command, &output)));
        }
        Ok(packages)
    }

    fn download(&self, packages: &[&Package]) -> Result<(), PackagesError> {
        let mut command = self.command("apt-get");
        command.args(["-q", "download"]).current_dir(&self.debs);
        for package in packages {
            command.arg(format!("{}={}", package.name, package.version));
        }
        run(&mut command).map(drop).map_err(PackagesError::Apt)
    }
}

/// A record of `apt-cache show`: `Field: value` lines (deb822).
fn parse_record(record: &str) -> Result<Package, PackagesError> {
    let field = |name: &str| {
        record
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let name = field("Package").unwrap_or_default();
    let required = |key: &'static str| {
        field(key)
            .filter(|value| !value.is_empty() && !value.contains('/'))
            .ok_or_else(|| PackagesError::Record {
                package: name.to_owned(),
                field: key,
            })
    };
    let size = required("Size")?;
    Ok(Package {
        name: required("Package")?.into(),
        version: required("Version")?.into(),
        architecture: required("Architecture")?.into(),
        sha256_hex: required("SHA256")?.into(),
        size_bytes: size.parse().map_err(|_| PackagesError::Record {
            package: name.to_owned(),
            field: "Size",
        })?,
        dependencies: ["Pre-Depends", "Depends"]
            .iter()
            .filter_map(|key| field(key))
            .flat_map(parse_dependencies)
            .collect(),
    })
}

/// `a (>= 1), b | c:any` as names: `[[a], [b, c]]`.
fn parse_dependencies(text: &str) -> Vec<Vec<String>> {
    let name = |text: &str| {
        let end = text.find([' ', '(', '[', ':']).unwrap_or(text.len());
        text[..end].to_owned()
    };
    text.split(',')
        .map(|group| group.split('|').map(|one| name(one.trim())).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "Package: gcc\nVersion: 4:12.2.0-3\nArchitecture: amd64\n\
        Pre-Depends: libc6:any\nDepends: cpp (= 4:12.2.0-3), gcc-12 (>= 12.2.0-1~) | gcc-11\n\
        Size: 5216\nSHA256: bb63\n";

    #[test]
    fn a_record_gives_the_file_name_and_the_dependencies() {
        let package = parse_record(RECORD).unwrap();
        assert_eq!(package.file_name(), "gcc_4%3a12.2.0-3_amd64.deb");
        let expected: [&[&str]; 3] = [&["libc6"], &["cpp"], &["gcc-12", "gcc-11"]];
        assert_eq!(package.dependencies, expected);
        let packages = BTreeMap::from([("gcc".to_owned(), package)]);
        assert_eq!(gcc_major(&packages).unwrap(), 12);
    }

    #[test]
    fn a_record_without_a_digest_or_with_a_path_for_a_name_is_refused() {
        for bad in [
            RECORD.replace("SHA256", "MD5sum"),
            RECORD.replace("Package: gcc", "Package: ../gcc"),
            RECORD.replace("5216", "many"),
        ] {
            assert!(parse_record(&bad).is_err(), "{bad}");
        }
    }
}
