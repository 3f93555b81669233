# The demo, as README has it.
. "$TESTS/harness.sh"
mkdir -p "$DROSTE_DIR"
[ -n "${SHARED:-}" ] && mkdir -p "$CACHE/droste" && ln -s "$CACHE/droste" "$DROSTE_DIR/cache"
if "$DROSTE" demo > "$WORK/out" 2> "$WORK/err" < /dev/null; then
    pass "the demo ends with success"
else
    fail "the demo ends with success" "exit status $?" "$(tail -n 40 "$WORK/err" "$WORK/out")"
fi
cat "$WORK/out"
equal "the demo shows five runs" 5 "$(grep -ciE '^ *[│|]? *(memo off|cold|warm|.*body.*|.*comment.*) .*[0-9]' "$WORK/out")"
finish
