set -eu
cp -r "$src" "$NIX_BUILD_TOP/zlib"
cd "$NIX_BUILD_TOP/zlib"
chmod -R u+w .
cp "$makefile" Makefile
cat > roundtrip.c <<'END'
#include <stdio.h>
#include <string.h>
#include <zlib.h>

int main(void)
{
    static unsigned char text[100000], packed[200000], again[100000];
    uLongf packed_len = sizeof packed, again_len = sizeof again;
    size_t i;
    for (i = 0; i < sizeof text; i++)
        text[i] = (unsigned char)(i * i >> 7);
    if (compress2(packed, &packed_len, text, sizeof text, 9) != Z_OK)
        return 1;
    if (uncompress(again, &again_len, packed, packed_len) != Z_OK)
        return 2;
    if (again_len != sizeof text || memcmp(text, again, sizeof text) != 0)
        return 3;
    puts(zlibVersion());
    return 0;
}
END
make -j"$NIX_BUILD_CORES"
make install DESTDIR="$out"
"$out/bin/roundtrip"
# A program of the installed shared library finds it by its search path.
cc -I"$out/include" roundtrip.c -o roundtrip-shared -L"$out/lib" -Wl,-rpath,"$out/lib" -lz
./roundtrip-shared
