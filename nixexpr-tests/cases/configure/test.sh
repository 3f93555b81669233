# What CMake and Meson find out about a compiler is what they find out without `droste run`, and
# when they ask again in a new build directory, nothing is compiled: though each probe lies in a
# directory of a new name.
. "$TESTS/harness.sh"
unset MAKEFLAGS MAKELEVEL DROSTE_SOCKET DROSTE_SESSION DROSTE_DISABLE CC CXX CFLAGS CXXFLAGS LDFLAGS CPATH
export LC_ALL=C
here=$PWD
trap 'droste daemon stop --quiet 2> /dev/null' EXIT
mkdir -p "$WORK/tree" "$WORK/inc"
cp "$here"/project/* "$WORK/tree"
touch -d '1 minute ago' "$WORK/tree"/*
cd "$WORK/tree" || exit 1

# Made-up names, the shims' directory, times.
settled() {
    sed -E -e 's,TryCompile-[A-Za-z0-9]{6},TryCompile-XXXXXX,g' -e 's,cmTC_[0-9a-f]{5},cmTC_XXXXX,g' \
        -e 's,meson-private/tmp[a-z0-9_]{8},meson-private/tmpXXXXXXXX,g' -e 's,/tmp/(cc|tmp)[A-Za-z0-9_]+,/tmp/X,g' \
        -e "s,${DROSTE_DIR//./\\.}/bin/[0-9a-f]*/,/usr/bin/,g" -e '/^(Build|Configure) (started|ended) at /d' -e 's/[0-9.]+ ms//g' "$1"
}
# result NAME COMMAND...: what a configuration prints and leaves is in the directory $WORK/NAME
result() {
    local name=$1 file
    shift
    rm -rf build "${WORK:?}/$name"
    mkdir "$WORK/$name"
    "$@" > "$WORK/out" 2> "$WORK/err" < /dev/null || echo "exit status $?" > "$WORK/$name/status"
    settled "$WORK/out" > "$WORK/$name/out"
    grep -v '^droste: compiler calls' "$WORK/err" > "$WORK/$name/err"
    while IFS= read -r file; do
        mkdir -p "$WORK/$name/$(dirname "$file")"
        settled "$file" > "$WORK/$name/$file"
    done < <(find build \( -name '*.txt' -o -name '*.cmake' -o -name '*.log' -o -name '*.yaml' -o -name '*.h' -o -name '*.json' \
        -o -name '*.ninja' -o -name Makefile -o -name CompilerIdC -o -name '*.make' \) -type f)
}
count() { sed -n 's/^    "'"$1"'": \([0-9]*\).*/\1/p' "$WORK/stats.json"; }
# configured SENTENCE PLAIN COMMAND...: as in $WORK/PLAIN; the counts are in $WORK/stats.json
configured() {
    local sentence=$1 plain=$2
    shift 2
    droste stats --zero
    result shimmed droste run -- "$@"
    droste stats --json > "$WORK/stats.json"
    equal "$sentence: the same is found" "" "$(diff -r "$WORK/$plain" "$WORK/shimmed" 2>&1)"
}

for system in "cmake -G Ninja" "cmake -G Unix_Makefiles" meson; do
    read -r -a command <<< "$system"
    command=("${command[@]//_/ }")
    case $system in
    cmake*) command+=(-S . -B build) ;;
    meson) command+=(setup build .) ;;
    esac
    command -v "${command[0]}" > /dev/null || {
        skip "$system asks the same again" "it is not installed"
        continue
    }
    result plain "${command[@]}"
    check "$system configures" test ! -e "$WORK/plain/status"
    result again "${command[@]}"
    equal "$system finds the same twice" "" "$(diff -r "$WORK/plain" "$WORK/again" 2>&1)"
    configured "$system" plain "${command[@]}"
    children=$(($(count built) + $(count reused)))
    check "$system: there are at least 10 children ($children)" test "$children" -ge 10
    in_place=$(count inPlace)
    configured "$system, again" plain "${command[@]}"
    equal "$system, again: what was a child is reused, and no more runs in place" "0 $children $in_place" \
        "$(count built) $(count reused) $(count inPlace)"
    # Something is there now.
    echo 'int maybe;' > "$WORK/inc/maybe.h"
    touch -d '1 minute ago' "$WORK/inc/maybe.h"
    export CPATH=$WORK/inc
    result other "${command[@]}"
    check "$system finds what was not there" grep -rq 'maybe.h.*YES\|maybe.h - found' "$WORK/other/out"
    configured "$system, with one more header" other "${command[@]}"
    unset CPATH
    configured "$system, without it" plain "${command[@]}"
    equal "$system, without it: nothing is built" 0 "$(count built)"
done
finish
