#!/bin/sh
# split.sh DIR: what another generator does: a directory, with directories in it.
set -e
mkdir -p "$1/sub"
sed -n 's/^\(.*\)=\(.*\)$/#define \1 \2/p' values > "$1/values.h"
for name in a b; do
    echo "int $name;" > "$1/sub/$name.c"
done
printf '#!/bin/sh\necho %s\n' "$0" > "$1/show"
chmod +x "$1/show"
