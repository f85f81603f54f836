#!/bin/sh
# tokenizers 0.23.3: a special token with normalized=True is decoded in its normalized form, and is no longer skipped.
#
# AddedToken(normalized=True) is documented as a matter of encoding: the token is looked for in the normalized text. It
# also changes decoding. With a Lowercase normalizer the token "[USER]" comes back as "[user]", and
# decode(skip_special_tokens=True) keeps it, since the text "[user]" is not among the special tokens. The id is right,
# and get_added_tokens_decoder() still says content "[USER]", special true.
#
# One would expect decode to give the content of the token, and to skip a token that is marked as special.
#
# Seen for the ids of "[USER] hello [SYS] world", [USER] with normalized=True and [SYS] with normalized=False:
#   tokens                            [user] hello [SYS] world
#   decode, special tokens kept       [user] hello [SYS] world
#   decode, special tokens skipped    [user] hello world
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

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

tokenizer = Tokenizer(models.WordLevel({"hello": 0, "world": 1, "<unk>": 2}, unk_token="<unk>"))
tokenizer.normalizer = normalizers.Lowercase()
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.add_special_tokens([
    AddedToken("[USER]", special=True, normalized=True),
    AddedToken("[SYS]", special=True, normalized=False),
])
encoding = tokenizer.encode("[USER] hello [SYS] world")
contents = {number: (token.content, token.special) for number, token in tokenizer.get_added_tokens_decoder().items()}
seen = {
    "tokens": " ".join(encoding.tokens),
    "decode, special tokens kept": tokenizer.decode(encoding.ids, skip_special_tokens=False),
    "decode, special tokens skipped": tokenizer.decode(encoding.ids, skip_special_tokens=True),
}
stated = {
    "tokens": "[user] hello [SYS] world",
    "decode, special tokens kept": "[user] hello [SYS] world",
    "decode, special tokens skipped": "[user] hello world",
}
print("ids", encoding.ids, "added tokens", contents)
for what, text in seen.items():
    print(f"{what}: {text}")
changed = [what for what in stated if seen[what] != stated[what]]
if encoding.ids != [3, 0, 4, 1] or contents != {3: ("[USER]", True), 4: ("[SYS]", True)}:
    changed.append("ids and added tokens")
if changed:
    sys.exit("the behaviour has changed: " + ", ".join(changed))
print("as stated: the normalized special token is decoded as other text and is not skipped")
PYTHON
