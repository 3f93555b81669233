# play.sh TABLE CLASS OUT: plays one class of classes.sh in the current directory,
# which is empty, and writes to the directory OUT what could be seen after each call:
# standard output, standard error, exit status, and of every file in the tree its
# name, type, mode, links and content, but not its time. Bash, coreutils, findutils,
# sed; so it runs in a derivation as well as on a machine.
#
# A class is plain Bash with these words for steps:
#
#   put FILE LINE...    writes a file
#   call COMMAND...     one call, observed
#   again               the last call again, observed
#   alter COMMAND...    a command that changes something; it must succeed
#   seen COMMAND...     a command whose output is observed: running what was built
#   unstable PATTERN    files that no two calls make alike: their contents are not compared
#   real NAME           prints the path of a program itself, for scripts that are an input
#   device NAME M N     prints the path of a device
#   without REASON      leaves the class out: something is not there
set -u
table=$1 name=$2 results=$3
mkdir -p "$results"

_n=0
_unstable=/
unstable() { _unstable=$1; }
_last=()
call() {
    _last=("$@")
    _n=$((_n + 1))
    "$@" > "$results/$_n.stdout" 2> "$results/$_n.stderr" < "${input:-/dev/null}"
    _observe "$?"
}
again() { call "${_last[@]}"; }
alter() { "$@" || _broken "$*"; }
seen() {
    _n=$((_n + 1))
    "$@" > "$results/$_n.stdout" 2> "$results/$_n.stderr" < /dev/null
    _observe "$?"
}
put() {
    local file=$1
    shift
    printf '%s\n' "$@" > "$file" || _broken "put $file"
}
without() {
    echo "$*" > "$results/without"
    exit 0
}
# device NAME MAJOR MINOR: prints a path of that device. Root could lose the machine's own
# to what is under test.
device() {
    if mknod -m 666 "$1" c "$2" "$3" 2> /dev/null; then echo "$1"; else echo "/dev/$1"; fi
}
# real NAME: the path of the program itself, whatever stands before it in PATH
real() { PATH=${REAL_PATH:-$PATH} command -v "$1" || PATH=${REAL_PATH:-$PATH} gcc -print-prog-name="$1"; }
_broken() {
    echo "the class itself fails: $*" | tee "$results/broken" >&2
    exit 1
}
# The compiler makes up names for its temporary files.
_made_up='\(/tmp/\|/build/\|^\|[^A-Za-z0-9_]\)cc[A-Za-z0-9]\{6\}\([^A-Za-z0-9_]\|$\)'
_names() { LC_ALL=C sed "s,$_made_up,\1ccXXXXXX\2,g"; }
_observe() {
    local file
    echo "exit status $1" > "$results/$_n.tree"
    for file in stdout stderr; do
        _names < "$results/$_n.$file" > "$results/$_n.new" && mv "$results/$_n.new" "$results/$_n.$file"
    done
    # A directory that was deleted under our feet has nothing to look at.
    (
        cd "$top" || exit
        LC_ALL=C find . -mindepth 1 -printf '%y %m %n %p -> %l\n' | LC_ALL=C sort -k 4 | sed 's/ -> $//'
        find . -type f -size -4000k | _hashes | LC_ALL=C sort -k 2
    ) >> "$results/$_n.tree" 2>&1
}
# _hashes < FILES: of their contents, with made-up names replaced; as few processes as can be, for
# this is what takes the time
_hashes() {
    local file renamed=()
    local -A files=()
    while IFS= read -r file; do
        # shellcheck disable=SC2254 # a pattern
        case $file in
        $_unstable) ;;
        *) files[$file]=1 ;;
        esac
    done
    [ ${#files[@]} != 0 ] || return 0
    mapfile -t renamed < <(LC_ALL=C sed -sn "\\,$_made_up,F" -- "${!files[@]}" | uniq)
    for file in "${renamed[@]}"; do
        unset -v 'files[$file]'
        printf '%s  %s\n' "$(_names < "$file" | sha256sum | cut -c1-64)" "$file"
    done
    [ ${#files[@]} = 0 ] || sha256sum -- "${!files[@]}"
}

# class NAME EXPECTED <<'END' ... END: as in the table; here only the one that is played
class() {
    local body
    IFS= read -r -d '' body
    [ "$1" = "$name" ] || return 0
    export LC_ALL=C
    unset LANG LANGUAGE SOURCE_DATE_EPOCH TZ
    umask 022
    top=$PWD
    eval "$body"
    exit 0
}
# shellcheck source=classes.sh
. "$table"
_broken "there is no such class"
