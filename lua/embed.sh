#!/bin/sh
# embed.sh sources stdlib/mocl/x.lua... docs/x.md... - writes the C file that holds the Lua modules and the pages
# (moclL_sources and moclL_pages in modules.h). The text goes in by .incbin, so that no other tool is needed.
# embed.sh openers stdlib/mocl/x.lua... - writes the C file with what mocl.so exports beside luaopen_mocl: an opener
# for each module, of C and of Lua, so that a stock Lua can require any of them first, and for the names in moved.h.
set -eu
what=$1
shift

module() { # FILE: its name for require
    printf '%s' "$1" | sed 's|^stdlib/||; s|/init\.lua$||; s|\.lua$||; s|\.md$||; s|/|.|g'
}

if [ "$what" = openers ]; then
    echo '/* made by lua/embed.sh */'
    echo '#include "mocl.h"'
    echo '#include "modules.h"'
    echo '#define OPENER(name, id) \'
    echo '    MOCL_API int luaopen_mocl_##id(lua_State *L); \'
    echo '    int luaopen_mocl_##id(lua_State *L) { return moclL_openmodule(L, name); }'
    echo 'MOCL_MODULES(OPENER)'
    # old names last: some have the id of a new one, whose opener looks at the name it is called with
    { for f in "$@"; do
          module "$f"
          echo
      done
      sed -n 's/^    X("\([a-z._]*\)".*/\1/p' lua/moved.h; } | awk '
        $0 != "mocl" && $0 !~ /^mocl\.tools\./ {
            id = substr($0, 6)
            gsub(/\./, "_", id)
            if (!seen[id]++) print "OPENER(\"" $0 "\", " id ")"
        }'
    exit
fi

echo '/* made by lua/embed.sh */'
echo '#include "modules.h"'
i=0
for f in "$@"; do
    printf '__asm__(".section .rodata\\n'
    printf '.global moclL_text_%d\\n.hidden moclL_text_%d\\n' $i $i
    printf '.global moclL_end_%d\\n.hidden moclL_end_%d\\n' $i $i
    printf 'moclL_text_%d:\\n.incbin \\"%s\\"\\nmoclL_end_%d:\\n.byte 0\\n.previous\\n");\n' $i "$f" $i
    printf 'extern const char moclL_text_%d[], moclL_end_%d[];\n' $i $i
    i=$((i + 1))
done
list() { # ARRAY ENDING FILES...
    printf 'const moclL_source %s[] = {\n' "$1"
    ending=$2
    shift 2
    i=0
    for f in "$@"; do
        case $f in
        *."$ending") printf '    {"%s", "%s", moclL_text_%d, moclL_end_%d},\n' "$(module "$f")" "$f" $i $i ;;
        esac
        i=$((i + 1))
    done
    echo '    {NULL, NULL, NULL, NULL}};'
}
list moclL_sources lua "$@"
list moclL_pages md "$@"
