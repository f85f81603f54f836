/* unicode.h - where the tables of Hugging Face's tokenizers differ from PCRE2's and utf8proc's.
**
** The sets are the differences only, found by asking both sides about each code point
** (tests/fixtures/unicode/make_unicode.py). Nothing here allocates or fails.
*/
#ifndef MOCL_UNICODE_H
#define MOCL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mocl_unicode_range {
    uint32_t first, last;
} mocl_unicode_range;

/* A set of characters that patterns name: PCRE2's form of it for the inside of brackets, what the
** reference's set has more and what it has not. */
typedef struct mocl_unicode_property {
    const char *name; /* lower case, without blanks, '_' and '-' */
    const char *base; /* empty where PCRE2 has no such set */
    const mocl_unicode_range *more;
    size_t n_more;
    const mocl_unicode_range *less;
    size_t n_less;
    bool closed; /* (?i) neither adds a character to the set nor lets two stand for one */
} mocl_unicode_property;

/* By the name as written: case, blanks, '_' and '-' do not count. "[:alpha:]" and the other POSIX
** names are sets of their own, and so is "\\w" outside of brackets. NULL if there is none. */
const mocl_unicode_property *mocl_unicode_property_find(const char *name, size_t n);

/* whether s (valid UTF-8) holds a code point for which some property's base is not the reference's
** set; in all other texts the bases alone give the same matches */
bool mocl_unicode_newer(const char *s, size_t n);

/* whether (?i) makes of c something that PCRE2 does not: it matches two characters, or its other
** case is newer than PCRE2's tables */
bool mocl_unicode_fold_special(uint32_t first, uint32_t last);
/* whether b behind a may be matched by one character under (?i), as "ss" by U+00DF */
bool mocl_unicode_fold_pair(uint32_t a, uint32_t b);

/* whether the reference's NFC, NFD, NFKC and NFKD leave c alone where utf8proc's would not */
bool mocl_unicode_form_barrier(uint32_t c);
uint32_t mocl_unicode_lower(uint32_t c); /* not U+0130, whose lower case is two characters */
bool mocl_unicode_is_number(uint32_t c); /* as the pre-tokenizer Digits */
bool mocl_unicode_is_word(uint32_t c);   /* beside which a single_word token is not found */
bool mocl_unicode_is_space(uint32_t c);  /* the property White_Space */

/* of BERT's steps, for c >= 0x80 */
bool mocl_unicode_is_bert_removed(uint32_t c);     /* by clean_text */
bool mocl_unicode_is_bert_mark(uint32_t c);        /* by strip_accents, behind NFD */
bool mocl_unicode_is_bert_punctuation(uint32_t c); /* a word by itself */
bool mocl_unicode_is_bert_apart(uint32_t c);       /* set apart by handle_chinese_chars */
bool mocl_unicode_is_accent(uint32_t c);           /* removed by the normalizer StripAccents */

#endif
