# nix.conf and all that belongs to it: read by `droste config show` as by `nix config show`.
. "$TESTS/harness.sh"
stop_without NIX34

# What Droste has another default for is set here; what Nix makes up, and what one of them does not
# have, is left out. (`nix config` evaluates nothing, purely.)
ours='build-hook|repeat|enforce-determinism|pure-eval'
conf=$NIX_CONF_DIR/nix.conf
printf 'extra-platforms = i686-linux\nbuild-users-group = nixbld\n' >> "$conf"
common=$(cat "$conf")

# Nix 2.34 puts a space before each pair of a map.
shown() { sed -E 's/ =  +/ = /' | grep -vE "^($ours) ="; }
# told FILE: the warnings and errors, without what each has around them
told() {
    grep -E '^(warning|error):' "$1" | grep -v 'nixbld' |
        sed -E "s/ \(line [0-9]+\)$//" | sort -u
}
# alike SENTENCE [ARGS...]: all that is shown and told is the same
alike() {
    local sentence=$1
    shift
    # With all that it says.
    "$NIX34/nix" config show "$@" 2> "$WORK/nix.err" | shown > "$WORK/nix.out"
    droste config show "$@" 2> "$WORK/droste.err" | shown > "$WORK/droste.out"
    check "$sentence: something is shown" test -s "$WORK/nix.out"
    equal "$sentence" "$(cat "$WORK/nix.out")" "$(cat "$WORK/droste.out")"
    equal "$sentence: the same is told" "$(told "$WORK/nix.err")" "$(told "$WORK/droste.err")"
}
# alike_wrong SENTENCE [TEXT]: both end with an error, which has the text
alike_wrong() {
    refused "$1 (Nix)" 1 "${2-}" nix34 nix config show
    refused "$1" 1 "${2-}" droste config show
}

alike "what the tests use"
alike "options go before files" --option cores 7 --option extra-trusted-users '@wheel me' --option keep-going true
cat > "$conf" << END
$common
# a comment
cores = 3   # and another
  max-silent-time = 60
 timeout   =   70
max-free = 3G
min-free = 2k
build-max-jobs = auto
build-cores = 5
trusted-users = root ann
extra-trusted-users = @wheel   bob
extra-experimental-features = flakes no-such-feature
accept-flake-config = true
impure-env = A=b
access-tokens = github.com=x gitlab.com=y=z
extra-sandbox-paths = /a=/b? /c
no-such-setting = 1
extra-cores = 2
extra-no-such-setting = 1
include below/included.conf
!include missing.conf
substituters = https://a.example/ https://b.example?priority=3&trusted=1
extra-substituters = file:///c
builders =
netrc-file = /a/../b//netrc
sandbox = relaxed
external-builders = [{"systems": ["x-y"], "program": "/p", "args": []}]
END
mkdir -p "$NIX_CONF_DIR/below"
printf 'log-lines = 9\ninclude ../above.conf\n' > "$NIX_CONF_DIR/below/included.conf"
printf 'connect-timeout = 8\nkeep-failed = yes\n' > "$NIX_CONF_DIR/above.conf"
alike "a file with everything"
printf 'cores = 11\nlog-lines = 12\n' > "$WORK/first.conf"
printf 'cores = 13\nmax-silent-time = 14\n' > "$WORK/second.conf"
export NIX_USER_CONF_FILES=$WORK/first.conf:$WORK/no-such-file:$WORK/second.conf
alike "the user's files go before the machine's"
export NIX_CONFIG=$'log-lines = 15\nextra-system-features = more\nalso-unknown = 1'
alike "NIX_CONFIG goes before them"
for name in cores trusted-users sandbox-paths access-tokens system-features; do
    equal "one setting: $name" "$(nix34 nix config show "$name" 2> /dev/null | sed 's/^ //')" "$(droste config show "$name" 2> /dev/null)"
done
for name in build-cores no-such-setting impure-env; do
    alike_one() { refused "$1" 1 "could not find setting '$name'" "${@:2}"; }
    alike_one "no such setting: $name (Nix)" nix34 nix config show "$name"
    alike_one "no such setting: $name" droste config show "$name"
done
# The fields of JSON that both have.
fields='import json, sys
for name, setting in sorted(json.load(sys.stdin).items()):
    if name not in sys.argv[1].split("|"):
        if name == "experimental-features":
            setting["value"].sort()
        print(name, [setting[field] for field in ("aliases", "experimentalFeature", "value")])'
if command -v python3 > /dev/null; then
    equal "the same in JSON" "$(nix34 nix config show --json 2> /dev/null | python3 -c "$fields" "$ours")" \
        "$(droste config show --json 2> /dev/null | python3 -c "$fields" "$ours")"
else
    skip "the same in JSON" "no python3"
fi
unset NIX_USER_CONF_FILES NIX_CONFIG
mkdir -p "$HOME/.config/nix" "$WORK/xdg/nix"
echo 'cores = 21' > "$HOME/.config/nix/nix.conf"
printf 'cores = 22\nlog-lines = 23\n' > "$WORK/xdg/nix/nix.conf"
XDG_CONFIG_DIRS=$WORK/xdg alike "files below XDG's directories"
rm -r "$HOME/.config"

while IFS='|' read -r what line; do
    printf '%s\n%b\n' "$common" "$line" > "$conf"
    alike_wrong "$what"
    nix34 nix config show 2>&1 > /dev/null | sed -n 's/^error: //p' > "$WORK/nix.err"
    droste config show 2>&1 > /dev/null | sed -n 's/^error: //p' > "$WORK/droste.err"
    # Droste says as well from where it comes.
    equal "$what, in Nix's words" "$(head -n 1 "$WORK/nix.err")" "$(head -n 1 "$WORK/droste.err" | sed 's/ (\(from\|line\) .*)$//')"
done << END
a number that is none|cores = many
a number that is too large|cores = 4294967296
a word that is no truth value|keep-going = maybe
a word that is no way to sandbox|sandbox = perhaps
jobs that are none|max-jobs = some
a path that is relative|diff-hook = relative
a line without a value|cores
a file that is not there|include no-such-file.conf
END
printf '%s\n' "$common" > "$conf"
# What is read is what counts: a build is refused, and another goes.
drv=$(nix34 nix-instantiate --store "$WORK/store" --expr 'derivation { name = "x"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }' 2> /dev/null)
NIX_CONFIG='max-jobs = 0' refused "max-jobs = 0 builds nothing" 1 'max-jobs|jobs' droste build --store "$WORK/store" "$drv"
check "and without it, it is built" env NIX_CONFIG='build-users-group =' "$DROSTE" build --store "$WORK/store" "$drv"
finish
