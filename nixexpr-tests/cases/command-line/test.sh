# What `droste build` prints and how it ends; interrupts.
. "$TESTS/harness.sh"
stop_without NIX34

store=$WORK/store
busybox=$(busybox_into "$store")
instantiate() { nix34 nix-instantiate --store "$store" "$TESTS/cases/${2:-differential}" -A "$1" --argstr busybox "$busybox" | sed 's/!.*//'; }
simple=$(instantiate simple)
multi=$(instantiate multiple-outputs)
fails=$(instantiate fails)
mismatch=$(instantiate fixed-wrong-sha256)
slow=$(nix34 nix-instantiate --store "$store" --expr "let bb = builtins.storePath \"$busybox\"; in derivation {
    name = \"slow\"; system = \"x86_64-linux\"; builder = \"\${bb}/bin/sh\"; args = [ \"-c\" \"echo started; sleep 60; echo > \$out\" ]; PATH = \"\${bb}/bin\"; }")
[ -n "$slow" ] || slow=$(nix34 nix-instantiate --store "$store" -E "null")

# --json: numbers differ from run to run.
shape() { sed 's/"wallSeconds": [0-9.]*/"wallSeconds": N/; s,/nix/store/[a-z0-9]*-,,g'; }
equal "--json has the documented form" '[
  {
    "drvPath": "simple.drv",
    "outputs": {
      "out": "simple"
    },
    "status": "built",
    "children": {
      "built": 0,
      "reused": 0,
      "substituted": 0,
      "inPlace": 0
    },
    "inPlaceReasons": {},
    "notSharedReasons": {},
    "undeclaredInputs": {},
    "wallSeconds": N
  }
]' "$(droste build --json --store "$store" "$simple" 2> /dev/null | shape)"
equal "--json tells what is valid already" '"status": "alreadyValid",' "$(droste build --json --store "$store" "$simple" 2> /dev/null | grep -o '"status".*')"
equal "--json has every output" '      "dev": "multi-dev",
      "lib": "multi-lib",
      "out": "multi"' "$(droste build --json --store "$store" "$multi" 2> /dev/null | shape | grep multi | grep -v drv)"
equal "--json tells of failures" '"status": "failed",' "$(droste build --json --store "$store" "$fails" 2> /dev/null | grep -o '"status".*')"
equal "--json tells of each derivation" 2 "$(droste build --json --keep-going --store "$store" "$simple" "$fails" 2> /dev/null | grep -c drvPath)"
check "output paths are printed" test "$(droste build --store "$store" "$simple" 2> /dev/null)" = "$(nix34 nix-store -q --outputs --store "$store" "$simple")"
equal "one output can be asked for" "$(nix34 nix-store -q --binding dev --store "$store" "$multi")" "$(droste build --store "$store" "$multi^dev" 2> /dev/null)"
check "a path on this machine is as good" droste build --store "$store" "$store$simple"
check "-L prints the log" grep -q 'last words' <(droste build -L --quiet --store "$store" "$fails" 2>&1)
check "-f and -A build an expression" droste build --store "$store" -f "$TESTS/cases/bad-input/good.nix" -A hello

# Exit statuses as Nix has them, failures of several kinds together too.
status_of() {
    "$@" > /dev/null 2>&1 < /dev/null
    echo $?
}
for args in "$simple" "$fails" "$mismatch" "--keep-going $simple $fails" "--keep-going $fails $mismatch" "--keep-going $simple $mismatch"; do
    # shellcheck disable=SC2086 # words
    equal "the exit status is Nix's for ${args//\/nix\/store\/????????????????????????????????-/}" \
        "$(status_of nix34 nix-store -r --store "$store" $args)" "$(status_of droste build --store "$store" $args)"
done

for limit in '--timeout 1' '--max-silent-time 1'; do
    # shellcheck disable=SC2086 # words
    equal "the exit status of a build that takes too long is Nix's with $limit" \
        "$(status_of nix34 nix-store -r --store "$store" $limit "$slow")" "$(status_of droste build --store "$store" $limit "$slow")"
done
refused "a build that takes too long is told with its log" 101 'timed out after 1 seconds.*started' \
    droste build --store "$store" --timeout 1 "$slow"

# Interrupted: it ends soon, and cleans up before it does.
for signal in INT TERM HUP; do
    "$DROSTE" build -L --store "$store" "$slow" > /dev/null 2> "$WORK/slow.err" < /dev/null &
    pid=$!
    for _ in $(seq 100); do
        ! grep -q started "$WORK/slow.err" || break
        sleep 0.1
    done
    # Shells start what runs in the background deaf to SIGINT.
    kill -"$signal" "$pid"
    for _ in $(seq 100); do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
    done
    if kill -0 "$pid" 2> /dev/null; then
        if [ $signal = INT ] && grep -q 'SigIgn:.*[2367abef]$' "/proc/$pid/status"; then
            skip "SIG$signal ends a build" "it is ignored from the start here"
        else
            fail "SIG$signal ends a build" "after ten seconds it still runs"
        fi
        kill -KILL "$pid"
        wait "$pid" 2> /dev/null
        continue
    fi
    wait "$pid"
    status=$?
    [ $status != 0 ] && pass "SIG$signal ends a build ($status)" || fail "SIG$signal ends a build" "exit status $status"
    [ $signal = HUP ] || clean "nothing is left after SIG$signal" "$store"
done
droste build --quiet --store "$store" "$simple" > /dev/null 2>&1
clean "nothing is left in the end" "$store"
verified "the store verifies" "$store"

# Logs are where Nix looks for them.
equal "nix-store --read-log reads the log" "last words" "$(nix34 nix-store -l --store "$store" "$fails")"
finish
