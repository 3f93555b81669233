//! A root directory of its own for a test's commands, with no privilege needed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs first: everything of the machine's but `/build`, `/nix`, `/.droste` and `/tmp`, which are
/// empty, and the test's directory as `/t`.
const SETUP: &str = r#"
set -e
root=$1/root
mkdir -p "$root"
mount -t tmpfs none "$root"
for entry in /*; do
    name=${entry#/}
    case $name in
        build|nix|tmp|t|root|work) ;;
        *)
            if [ -L "$entry" ]; then
                cp -a "$entry" "$root/$name"
            elif [ -d "$entry" ]; then
                mkdir "$root/$name"
                mount --rbind "$entry" "$root/$name"
            fi ;;
    esac
done
mkdir "$root/build" "$root/nix" "$root/nix/store" "$root/tmp" "$root/t" "$root/.droste"
mount --bind "$1" "$root/t"
mkdir "$root/old"
cd "$root"
# No chroot: in one, no further user namespace can be made (user_namespaces(7)).
pivot_root . old
cd /build
umount -l /old
rmdir /old
exec env -i PATH=/usr/bin:/bin LC_ALL=C /bin/sh -ec "$2"
"#;

/// Runs a shell script in a new root whose `/t` is `dir`; `None`, with the reason on standard
/// error, where user namespaces are not to be had.
///
/// # Panics
/// If the commands cannot be started at all.
pub fn in_new_root(dir: &Path, script: &str) -> Option<Output> {
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "true"])
        .stderr(Stdio::piped())
        .output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            eprintln!("skipped: no user namespaces: {reason}");
            return None;
        }
        Err(error) => {
            eprintln!("skipped: no `unshare`: {error}");
            return None;
        }
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c"])
        .args([SETUP, "sh"])
        .arg(dir)
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    Some(output)
}
