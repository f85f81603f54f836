/* tokenizer_pattern.h - patterns of tokenizer.json, written for Oniguruma, in PCRE2's syntax. */
#ifndef MOCL_TOKENIZER_PATTERN_H
#define MOCL_TOKENIZER_PATTERN_H

#include "tok/tokenizer_impl.h"

/* Appends to `out` a pattern with which PCRE2 (UTF, UCP, MULTILINE, newline LF) finds what Oniguruma
** finds with s. MOCL_E_FORMAT names what has no such form and where it stands. `exact` spells out
** the characters for which mocl_unicode_newer is true; the pattern without is faster and right in
** all texts that hold none of them. *differs receives whether the two patterns are different. */
mocl_status mocl_tok_pattern(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n, bool exact,
                             bool *differs);

#endif
