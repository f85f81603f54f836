#!/bin/sh
# tokenizers 0.23.3: \w and [\w] of a Regex are two different sets; they disagree about six characters, all in Latin-1.
#
# The patterns of Split and Replace are run by Oniguruma. For a lone \w it asks one table of properties for characters
# below 256, and for the class [\w] it uses ranges that come from Unicode's data. The two differ for superscript two,
# three and one and for the three vulgar fractions, U+00B2, B3, B9, BC, BD and BE: \w takes them for parts of a word
# and [\w] does not. They therefore match both halves of "\w+|[^\w\s]+", the pattern by which the documentation
# describes the Whitespace pre-tokenizer; a Split with this very pattern keeps them in the word, and Whitespace, which
# uses another engine, cuts them off.
#
# One would expect \w and [\w] to be the same set, and \w and [^\w] never to hold the same character.
#
# Seen: the six characters above and no other of all 1112064, and for the text "10 km" + U+00B2:
#   Split(Regex("\w+|[^\w\s]+"))    10 km²
#   Whitespace()                    10 km ²
set -eu
set -- tokenizers==0.23.3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
python=${FINDINGS_PYTHON:-$work/venv/bin/python}
if [ -z "${FINDINGS_PYTHON:-}" ]; then
    python3 -m venv "$work/venv"
    "$python" -m pip install --quiet "$@"
else
    installed=$("$python" -m pip freeze | sed 's/+.*//')
    for pin in "$@"; do
        echo "$installed" | grep -iqxF "$pin" || { echo "$python does not have $pin" >&2; exit 1; }
    done
fi
cd "$work"
"$python" - <<'PYTHON'
import sys

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split, Whitespace


def members(pattern):
    """All code points that the pattern matches, found as what Split removes."""
    split = Split(Regex(pattern), "removed")
    return {code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and not split.pre_tokenize_str(chr(code))}


lone, bracketed, negated = members(r"\w"), members(r"[\w]"), members(r"[^\w]")
print(r"\w: %d characters, [\w]: %d" % (len(lone), len(bracketed)))
print(r"in \w and not in [\w]:", " ".join(f"U+{code:04X}" for code in sorted(lone - bracketed)))
print(r"in [\w] and not in \w: %d" % len(bracketed - lone))
print(r"in \w and in [^\w]:", " ".join(f"U+{code:04X}" for code in sorted(lone & negated)))
text = "10 km\u00b2"
pieces = [piece for piece, _ in Split(Regex(r"\w+|[^\w\s]+"), "isolated").pre_tokenize_str(text) if piece.strip()]
whitespace = [piece for piece, _ in Whitespace().pre_tokenize_str(text)]
print("Split:", ascii(pieces), "Whitespace:", ascii(whitespace))
six = {0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0xBE}
if lone - bracketed != six or bracketed - lone or lone & negated != six:
    sys.exit(r"the behaviour has changed: \w and [\w] differ in other characters, or in none")
if pieces != ["10", "km\u00b2"] or whitespace != ["10", "km", "\u00b2"]:
    sys.exit("the behaviour has changed: Split and Whitespace give other pieces")
print(r"as stated: \w and [\w] differ in six characters")
PYTHON
