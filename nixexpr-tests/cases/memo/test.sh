# `droste memo`: code generators. What they leave and print is what they leave and print without
# it; they run again if anything has changed that they have looked at, declared or not, and only
# then.
. "$TESTS/harness.sh"
unset MAKEFLAGS MAKELEVEL DROSTE_SOCKET DROSTE_SESSION DROSTE_DISABLE GEN_WHO
export LC_ALL=C PYTHONDONTWRITEBYTECODE=1
here=$PWD
trap 'droste daemon stop --quiet 2> /dev/null' EXIT
mkdir -p "$WORK/tree"
cd "$WORK/tree" || exit 1

# clean: what the generators leave is gone
clean() { rm -rf generated gen.h split; }
# result NAME COMMAND...: what a command leaves and prints is in $WORK/NAME and beside
result() {
    local name=$1 status=0
    shift
    "$@" > "$WORK/$name.out" 2> "$WORK/$name.err" < /dev/null || status=$?
    echo "$status" > "$WORK/$name.status"
    rm -rf "${WORK:?}/$name"
    cp -a . "$WORK/$name"
}
# difference NAME: to what is in $WORK/plain
difference() {
    local part
    for part in out err status; do
        diff "$WORK/plain.$part" "$WORK/$1.$part"
    done
    diff -r "$WORK/plain" "$WORK/$1"
    diff <(modes plain) <(modes "$1")
}
modes() { (cd "$WORK/$1" && find . -type f -printf '%p %m\n' | sort); }
# counted: what became of the calls since the last time
counted() {
    droste stats --json > "$WORK/stats.json"
    droste stats --zero
    sed -n 's/^    "\(built\|reused\|inPlace\)": \([0-9]*\).*/\1 \2/p' "$WORK/stats.json" | tr '\n' ' '
}
built="built 1 reused 0 inPlace 0 "
reused="built 0 reused 1 inPlace 0 "
in_place="built 0 reused 0 inPlace 1 "
# memo SENTENCE COUNTS COMMAND...: with the $declared inputs and outputs, it does what it does by
# itself, and that becomes of it
declared=()
memo() {
    local sentence=$1 counts=$2
    shift 2
    # What was written just now may still be changed unseen: nobody remembers it.
    find . -type f -exec touch -d '1 minute ago' {} +
    clean
    result plain "$@"
    clean
    counted > /dev/null
    result memo droste memo "${declared[@]}" -- "$@"
    equal "$sentence: the same result" "" "$(difference memo)"
    equal "$sentence: $counts" "$counts" "$(counted)"
}

# -- a Python program with a module, templates, and a directory of which it reads the names
python=$(python3 -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))' 2> /dev/null)
if [ -x "$python" ]; then
    # Not a script that looks for a Python.
    mkdir -p "$WORK/bin"
    printf '#!/bin/sh\nexec %s "$@"\n' "$python" > "$WORK/bin/python3"
    chmod +x "$WORK/bin/python3"
    PATH=$WORK/bin:$PATH
    cp "$here/gen.py" "$here/helper.py" .
    mkdir templates names
    echo 'int answer = @ANSWER@;' > templates/main.c.in
    touch names/one names/two
    gen=(./gen.py templates names generated/gen.c gen.h)
    declared=(--input gen.py templates --output generated/gen.c gen.h)
    memo "a first call" "$built" "${gen[@]}"
    equal "the module that nobody has declared is counted" \
        "\"$PWD/helper.py\": 1" "$(grep -o '"[^"]*helper.py": 1' "$WORK/stats.json")"
    memo "a second call" "$reused" "${gen[@]}"
    touch gen.py helper.py templates/main.c.in
    memo "a call after all was touched" "$reused" "${gen[@]}"
    result again droste memo "${declared[@]}" -- "${gen[@]}"
    counted > /dev/null
    echo stale > gen.h
    result again droste memo "${declared[@]}" -- "${gen[@]}"
    equal "older outputs are replaced" "" "$(difference again)"
    equal "older outputs are not looked at" "$reused" "$(counted)"
    echo 'int other = @ANSWER@;' >> templates/main.c.in
    memo "a call after an input was changed" "$built" "${gen[@]}"
    sed -i '$d' templates/main.c.in
    memo "a call after it was changed back" "$reused" "${gen[@]}"
    sed -i s/42/43/ helper.py
    memo "a call after an undeclared input was changed" "$built" "${gen[@]}"
    echo content > names/one
    memo "a call after a file was changed that is only listed" "$reused" "${gen[@]}"
    touch names/three
    memo "a call after a listed directory got a file" "$built" "${gen[@]}"
    echo '/* two */' > templates/two.in
    memo "a call after a declared directory got a file" "$built" "${gen[@]}"
    ln -s one names/link
    memo "a call after a listed directory got a link" "$built" "${gen[@]}"

    # -- the environment
    export MAKELEVEL=3 MAKEFLAGS=-j SSH_CLIENT=x
    memo "a call by another caller" "$reused" "${gen[@]}"
    unset MAKELEVEL MAKEFLAGS SSH_CLIENT
    export GEN_WHO=me
    memo "a call with another variable" "$built" "${gen[@]}"
    declared+=(--env GEN_WHO)
    memo "a call with declared variables" "$built" "${gen[@]}"
    export GEN_OTHER=1
    memo "a call with another variable that is not declared" "$reused" "${gen[@]}"
    export GEN_WHO=you
    memo "a call with a declared variable of another value" "$built" "${gen[@]}"
    unset GEN_WHO GEN_OTHER

    # -- failures
    declared=(--input gen.py templates --output generated/gen.c gen.h)
    mv templates/main.c.in kept
    memo "a call that fails" "$built" "${gen[@]}"
    equal "its exit status is the program's" 3 "$(cat "$WORK/memo.status")"
    memo "a call that fails again" "$reused" "${gen[@]}"
    echo stale > gen.h
    result again droste memo "${declared[@]}" -- "${gen[@]}"
    equal "a call that fails leaves an older output alone" stale "$(cat gen.h)"
    mv kept templates/main.c.in
    memo "a call that fails no more" "$reused" "${gen[@]}"
else
    skip "a Python program" "this machine has no Python"
fi

# -- a shell script that makes a directory
cp "$here/split.sh" .
echo 'ONE=1' > values
declared=(--input values split.sh --output split)
memo "a new directory" "$built" ./split.sh split
memo "a new directory again" "$reused" ./split.sh split
echo 'TWO=2' >> values
memo "a new directory after a change" "$built" ./split.sh split
mkdir -p split
echo mine > split/mine
result again droste memo "${declared[@]}" -- ./split.sh split
equal "what else is in a directory stays there" mine "$(cat split/mine)"
equal "what is made is put beside" "#define ONE 1" "$(head -n 1 split/values.h)"

# -- what only prints
declared=(--input values)
memo "a call that leaves nothing" "$built" sed -n 's/ONE=//p' values
memo "a call that leaves nothing, again" "$reused" sed -n 's/ONE=//p' values
counted > /dev/null
result killed droste memo -- sh -c 'kill -9 $$' 2> /dev/null
equal "a call that is killed: its status" 137 "$(cat "$WORK/killed.status")"
equal "a call that is killed: $in_place" "$in_place" "$(counted)"
memo "a call that changes an input" "$in_place" sed -i s/x/y/ values
memo "a link as an output" "$in_place" ln -sfn values generated

# -- in place
clean
declared=()
equal "standard input is the program's" "from a pipe" "$(echo from a pipe | droste memo -- cat)"
equal "so is a file" "from a file" "$(echo from a file > "$WORK/file"; droste memo -- cat < "$WORK/file")"
equal "it is told why" "droste: in place: there is something on standard input" \
    "$(echo x | droste memo --verbose -- cat 2>&1 > /dev/null)"
counted > /dev/null
equal "DROSTE_DISABLE turns it off" ONE=1 "$(DROSTE_DISABLE=1 droste memo -- head -n 1 values < /dev/null)"
equal "nobody has heard of it" "built 0 reused 0 inPlace 0 " "$(counted)"
equal "an output that was not made is told" "droste: warning: \`generated\` was not made" \
    "$(droste memo --output generated -- true 2>&1 < /dev/null)"
equal "so is an input that is not there" "droste: warning: there is no input \`nothing.y\`" \
    "$(droste memo --input nothing.y -- true 2>&1 < /dev/null)"
equal "not to who wants to hear nothing" "" "$(droste memo --quiet --input nothing.y -- true 2>&1 < /dev/null)"
equal "a call of make's is not taken for one with an input" "$reused" "$(
    counted > /dev/null
    printf 'all: a b\na:; @sleep 0.2\nb:; @%s memo --input values -- sed -n s/ONE=//p values >&2\n' "$DROSTE" > "$WORK/Makefile"
    make -s -j2 -f "$WORK/Makefile" < /dev/null 2> /dev/null
    counted
)"

# -- what cannot be meant
refused "a command is needed" 1 'COMMAND' droste memo --output x
refused "an output is not an input" 1 'both an input and an output' droste memo --input ./x --output x -- true
refused "an output has a name" 1 'cannot be an output' droste memo --output / -- true
refused "a path is not empty" 1 'a path is empty' droste memo --input '' -- true
refused "a name is not an assignment" 1 'no name of a variable' droste memo --env A=b -- true
refused "there has to be such a program" 127 'cannot run `no-such-program`' droste memo -- no-such-program
clean
mkdir generated
equal "an output elsewhere is told" "droste: in place: output-outside:/proc/generated" \
    "$(droste memo --verbose --output /proc/generated -- true 2>&1 < /dev/null)"

# -- generators, where they are
printf 'define(N, 3)dnl\nint n = N;\n' > in.m4
printf '%%token A\n%%%%\ns: A;\n%%%%\n' > in.y
printf '%%%%\na return 1;\n%%%%\n' > in.l
for tool in m4 bison flex; do
    if ! command -v $tool > /dev/null; then
        skip "$tool" "it is not there"
        continue
    fi
    case $tool in
    m4) declared=(--input in.m4) command=(m4 in.m4) ;;
    bison) declared=(--input in.y --output gen.h generated) command=(bison --defines=gen.h -o generated in.y) ;;
    flex) declared=(--input in.l --output generated) command=(flex -o generated in.l) ;;
    esac
    memo "$tool" "$built" "${command[@]}"
    memo "$tool again" "$reused" "${command[@]}"
done
finish
