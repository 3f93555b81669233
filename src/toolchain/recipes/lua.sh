set -eu
cp -r "$src" "$NIX_BUILD_TOP/lua"
cd "$NIX_BUILD_TOP/lua"
chmod -R u+w .
cp "$makefile" Makefile
# The crate ships the library alone.
cat > main.c <<'END'
#include <stdio.h>
#include "lua.h"
#include "lauxlib.h"
#include "lualib.h"

int main(int argc, char **argv)
{
    lua_State *state = luaL_newstate();
    int failed;
    if (state == NULL || argc != 2) {
        fprintf(stderr, "usage: lua SCRIPT-TEXT\n");
        return 2;
    }
    luaL_openlibs(state);
    failed = luaL_dostring(state, argv[1]);
    if (failed)
        fprintf(stderr, "lua: %s\n", lua_tostring(state, -1));
    lua_close(state);
    return failed != 0;
}
END
make -j"$NIX_BUILD_CORES"
make install DESTDIR="$out"
test "$("$out/bin/lua" 'print(_VERSION, 6 * 7)')" = "$(printf 'Lua 5.4\t42')"
