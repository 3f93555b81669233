set -eu
cp -r "$src" "$NIX_BUILD_TOP/zstd"
cd "$NIX_BUILD_TOP/zstd"
chmod -R u+w .
cp "$makefile" Makefile
cat > roundtrip.c <<'END'
#include <stdio.h>
#include <string.h>
#include "zstd.h"

int main(void)
{
    static unsigned char text[100000], packed[200000], again[100000];
    size_t i, packed_len, again_len;
    for (i = 0; i < sizeof text; i++)
        text[i] = (unsigned char)(i * i >> 7);
    packed_len = ZSTD_compress(packed, sizeof packed, text, sizeof text, 19);
    if (ZSTD_isError(packed_len))
        return 1;
    again_len = ZSTD_decompress(again, sizeof again, packed, packed_len);
    if (again_len != sizeof text || memcmp(text, again, sizeof text) != 0)
        return 2;
    puts(ZSTD_versionString());
    return 0;
}
END
make -j"$NIX_BUILD_CORES"
make install DESTDIR="$out"
"$out/bin/roundtrip"
