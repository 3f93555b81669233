# What the classes of classes.sh leave behind with Droste, cold and warm, is what they
# leave behind without; and each is answered in the way that the table says.
#
# NEVER_WRONG_TOOL=ccache, or sccache, or the path of one, plays them with that instead, on the machine, and
# prints a table of what it gets wrong; that fails no check. =plain compares the
# compilers with themselves: what differs then is no class. NEVER_WRONG_CLASSES is an
# extended regular expression of names.
# Some classes mount: nobody else sees it.
if [ -z "${NEVER_WRONG_ALONE:-}" ] && unshare --mount true 2> /dev/null; then
    NEVER_WRONG_ALONE=1 exec unshare --mount --propagation private bash ./test.sh
fi
. "$TESTS/harness.sh"
cases=$PWD
export REAL_PATH=$PATH
mapfile -t classes < <(sed -n 's/^class \([^ ]*\) .*/\1/p' classes.sh | grep -E -- "${NEVER_WRONG_CLASSES:-.}")
# expected_of CLASS WORLD
expected_of() { sed -n "s/^class $1 \([^ ]*\) .*/\1/p" classes.sh | if [ "$2" = "on the machine" ]; then sed 's,.*/,,'; else sed 's,/.*,,'; fi; }

# play HOW CLASS: on the machine; always at the same path, since objects record it
play() {
    local how=$1 name=$2 dir=$WORK/play/$2 command=()
    rm -rf "$dir"
    mkdir -p "$dir" "$WORK/$how/$name"
    (
        cd "$dir" || exit
        case $how in
        droste*) command=("$DROSTE" --quiet run --) ;;
        ccache*) export PATH=$WORK/bin:$PATH CCACHE_DIR=$WORK/memo/$name ;;
        sccache*) export PATH=$WORK/bin:$PATH ;;
        esac
        timeout --kill-after=5 100 "${command[@]}" bash "$cases/play.sh" "$cases/classes.sh" "$name" "$WORK/$how/$name" < /dev/null 2> "$WORK/$how.$name.err"
    ) || echo "exit status $?" > "$WORK/$how/$name/status"
    chmod -R u+w "$dir"
    rm -rf "$dir"
}
# differences EXPECTED GOT: of two directories of what was seen
differences() {
    diff -r "$1" "$2" | grep -v '^diff ' | sed "s,$WORK/,," | head -n 12 | cut -c1-200
}

# read_counts < JSON: of what `droste build --json` or `droste stats --json` prints, one
# line for each derivation: itself, its output, calls built, reused, in place, reasons
read_counts() {
    awk -F'"' '/"drvPath"/ { drv = $4; out = "-"; reasons = ""; inside = 0 }
        /"out":/ && out == "-" { out = $4 }
        /"(built|reused|inPlace)":/ && !inside { n = $3; gsub(/[^0-9]/, "", n); count[$2] = n }
        /"inPlaceReasons": \{$/ { inside = 1; next }
        inside && /\}/ { inside = 0 }
        inside { reasons = reasons (reasons == "" ? "" : ",") $2 }
        /"wallSeconds"|"updatedSeconds"/ { print drv ? drv : "-", out ? out : "-", count["built"], count["reused"], count["inPlace"], reasons }'
}
# judge WORLD CLASS PLAIN COLD WARM BUILT REUSED REASONS: directories of what was seen,
# and what became of the calls of the last
judge() {
    local world=$1 name=$2 plain=$3 cold=$4 warm=$5 built=$6 reused=$7 reasons=$8 got expected reason
    if [ -e "$plain/broken" ] || ! compgen -G "$plain/*" > /dev/null; then
        fail "$name can be played $world" "$(cat "$plain/broken" 2> /dev/null)"
        return
    fi
    if [ -e "$plain/without" ]; then
        skip "$name $world" "$(cat "$plain/without")"
        return
    fi
    equal "$name is right $world, cold" "" "$(differences "$plain" "$cold")"
    equal "$name is right $world, warm" "" "$(differences "$plain" "$warm")"
    expected=$(expected_of "$name" "$world")
    got=$([ "$reused" = 0 ] || echo hit)
    # A reason's detail is a file or a flag.
    for reason in $(tr , '\n' <<< "$reasons" | sed 's/:.*//' | sort -u); do got=${got:+$got,}in-place:$reason; done
    [ "$built" = 0 ] || got=${got:+$got,}$built-built
    printf '%s %s %s %s\n' "$name" "$world" "${got:-nothing}" "$expected" >> "$WORK/table"
    if [[ ,$expected, == *,hit,* && ,$got, != *,hit,* ]] || [ -n "$(comm -23 <(tr , '\n' <<< "$got" | grep -v '^hit$' | sort) <(tr , '\n' <<< "$expected" | sort) | grep .)" ]; then
        fail "$name is answered $world as the table says" "expected: $expected" "got:      ${got:-nothing}"
    else
        pass "$name is answered $world as the table says"
    fi
}

if [ "${NEVER_WRONG_TOOL:-droste}" != droste ]; then
    tool=$(basename "$NEVER_WRONG_TOOL")
    if [ "$tool" != plain ]; then
        program=$(command -v "$NEVER_WRONG_TOOL") || {
            skip "everything here" "no $tool"
            finish
        }
        export SCCACHE_DIR=$WORK/memo SCCACHE_SERVER_PORT=$((10000 + $$ % 50000))
        mkdir -p "$WORK/bin"
        for name in gcc g++ cc c++ clang gfortran x86_64-linux-gnu-gcc gcc-12; do
            real=$(command -v "$name") || continue
            if [ "$tool" = ccache ]; then
                ln -s "$program" "$WORK/bin/$name"
            else
                printf '#!/bin/sh\nexec %s %s "$@"\n' "$program" "$real" > "$WORK/bin/$name"
                chmod +x "$WORK/bin/$name"
            fi
        done
    fi
    export -f play
    export cases
    for how in plain "$tool-cold" "$tool-warm"; do
        printf '%s\n' "${classes[@]}" | xargs -P "$(nproc)" -I {} bash -c "play $how {}"
    done
    [ "$tool" != sccache ] || "$program" --stop-server > "$WORK/sccache.stats" 2>&1
    wrong=0
    for name in "${classes[@]}"; do
        cold=right warm=right
        if [ -e "$WORK/plain/$name/without" ]; then
            skip "$name" "$(cat "$WORK/plain/$name/without")"
            continue
        fi
        diff -rq "$WORK/plain/$name" "$WORK/$tool-cold/$name" > /dev/null || cold=wrong
        diff -rq "$WORK/plain/$name" "$WORK/$tool-warm/$name" > /dev/null || warm=wrong
        [ "$cold$warm" = rightright ] || {
            wrong=$((wrong + 1))
            printf '%-45s %s %s\n' "$name" "$cold" "$warm"
            [ "$VERBOSE" = 0 ] || { differences "$WORK/plain/$name" "$WORK/$tool-cold/$name"; differences "$WORK/plain/$name" "$WORK/$tool-warm/$name"; }
        }
    done
    if [ "$tool" = plain ]; then
        equal "the compilers do the same again" 0 "$wrong"
    else
        pass "$tool gets $wrong of ${#classes[@]} classes wrong"
        say "   $tool gets $wrong of ${#classes[@]} classes wrong"
    fi
    finish
fi

stop_without NIX34
toolchain=$(with_toolchain "$WORK/store") || {
    fail "a toolchain can be imported"
    finish
}
nix34 nix eval --store "$WORK/store" --impure --raw --expr "
    builtins.concatStringsSep \"\" (import $PWD {
        toolchain = \"$toolchain\";
        classes = [ $(printf '"%s" ' "${classes[@]}") ];
        rounds = [ \"plain\" \"cold\" \"warm\" ];
    })" > "$WORK/drvs"
for round in plain cold warm; do
    options=
    [ $round != plain ] || options='--memo off'
    # shellcheck disable=SC2046,SC2086 # words
    timeout --kill-after=5 900 "$DROSTE" build --json --keep-going $options --store "$WORK/store" $(awk -v round=$round '$2 == round { print $3 }' "$WORK/drvs") \
        > "$WORK/$round.json" 2> "$WORK/$round.err" < /dev/null
    read_counts < "$WORK/$round.json" > "$WORK/$round.counts"
done
for name in "${classes[@]}"; do
    declare -A out=()
    for round in plain cold warm; do
        drv=$(awk -v name="$name" -v round=$round '$1 == name && $2 == round { print $3 }' "$WORK/drvs")
        read -r _ out[$round] built reused _ reasons <<< "$(grep -F "$drv " "$WORK/$round.counts")"
        out[$round]=$WORK/store${out[$round]}
    done
    judge "in a derivation" "$name" "${out[plain]}" "${out[cold]}" "${out[warm]}" "$built" "$reused" "$reasons"
done

# On the machine, by `droste run`: as many side by side as there are processors, each with
# a memo of its own, so that the counts are of one class.
player() {
    local i round
    export DROSTE_DIR=$WORK/droste-$1
    for round in plain droste-cold droste-warm; do
        for ((i = $1; i < ${#classes[@]}; i += workers)); do
            [ $round = plain ] || "$DROSTE" stats --zero > /dev/null
            play $round "${classes[i]}"
            [ $round = plain ] || "$DROSTE" stats --json | read_counts > "$WORK/$round/${classes[i]}.counts"
        done
    done
    "$DROSTE" daemon stop > /dev/null 2>&1
}
workers=$(nproc)
for ((worker = 0; worker < workers; worker++)); do player "$worker" & done
wait
for name in "${classes[@]}"; do
    read -r _ _ built reused _ reasons < "$WORK/droste-warm/$name.counts"
    judge "on the machine" "$name" "$WORK/plain/$name" "$WORK/droste-cold/$name" "$WORK/droste-warm/$name" "$built" "$reused" "$reasons"
done
finish
