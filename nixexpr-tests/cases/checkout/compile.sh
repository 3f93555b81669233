# Compiles all sources of the current directory, with `$flags`.
for source in *.c; do
    gcc $flags -Wall -MMD -c "$source" 2>> "messages.txt"
done
gcc $flags -c broken.inc -x c -o broken.o 2>> "messages.txt" || echo "$?" >> messages.txt
