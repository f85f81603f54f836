#!/bin/sh
# embed.sh stdlib/mocl/x.lua... - writes the C file that holds the Lua modules (moclL_sources in
# modules.h). The text goes in by .incbin, so that no other tool is needed.
set -eu
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
echo 'const moclL_source moclL_sources[] = {'
i=0
for f in "$@"; do
    name=$(printf '%s' "$f" | sed 's|^stdlib/||; s|/init\.lua$||; s|\.lua$||; s|/|.|g')
    printf '    {"%s", "%s", moclL_text_%d, moclL_end_%d},\n' "$name" "$f" $i $i
    i=$((i + 1))
done
echo '    {NULL, NULL, NULL, NULL}};'
