/* unicode.c - sets and mappings of characters, as the reference tokenizers have them. */
#include "tok/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "tok/unicode_tables.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static bool meets(const mocl_unicode_range *r, size_t n, uint32_t first, uint32_t last) {
    size_t low = 0, high = n;
    while (low < high) { /* the first range that does not end before `first` */
        size_t mid = (low + high) / 2;
        if (r[mid].last < first)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && r[low].first <= last;
}

static bool in(const mocl_unicode_range *r, size_t n, uint32_t c) { return meets(r, n, c, c); }

const mocl_unicode_property *mocl_unicode_property_find(const char *name, size_t n) {
    char key[48];
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == ' ' || c == '_' || c == '-') continue;
        if (m + 1 >= sizeof key || c == '\0') return NULL;
        key[m++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    key[m] = '\0';
    size_t low = 0, high = COUNT(properties);
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = strcmp(properties[mid].name, key);
        if (order == 0) return &properties[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

bool mocl_unicode_newer(const char *s, size_t n) {
    const unsigned char *u = (const unsigned char *)s;
    for (size_t i = 0; i < n; i++) {
        uint32_t c;
        if (u[i] < 0xe0) continue; /* all differences are at U+0800 and above */
        if (u[i] < 0xf0)
            c = (u[i] & 0x0fu) << 12 | (u[i + 1] & 0x3fu) << 6 | (u[i + 2] & 0x3fu);
        else
            c = (u[i] & 0x07u) << 18 | (u[i + 1] & 0x3fu) << 12 | (u[i + 2] & 0x3fu) << 6 |
                (u[i + 3] & 0x3fu);
        if (in(newer, COUNT(newer), c)) return true;
        i += u[i] < 0xf0 ? 2 : 3;
    }
    return false;
}

bool mocl_unicode_fold_special(uint32_t first, uint32_t last) {
    return meets(fold_special, COUNT(fold_special), first, last);
}

static uint32_t fold(uint32_t c) {
    utf8proc_int32_t out[4];
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)c, out, 4, UTF8PROC_CASEFOLD, &boundary);
    return n == 1 ? (uint32_t)out[0] : c;
}

bool mocl_unicode_fold_pair(uint32_t a, uint32_t b) {
    a = fold(a);
    b = fold(b);
    for (size_t i = 0; i < COUNT(fold_pairs); i++)
        if (fold_pairs[i].first == a && fold_pairs[i].last == b) return true;
    return false;
}

bool mocl_unicode_form_barrier(uint32_t c) { return in(newer_forms, COUNT(newer_forms), c); }

uint32_t mocl_unicode_lower(uint32_t c) {
    for (size_t i = 0; c >= lower_runs[0].first && i < COUNT(lower_runs); i++)
        if (c >= lower_runs[i].first && c <= lower_runs[i].last)
            return (uint32_t)((int32_t)c + lower_runs[i].delta);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

bool mocl_unicode_is_number(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO ||
           in(more_numbers, COUNT(more_numbers), c);
}

bool mocl_unicode_is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
        case UTF8PROC_CATEGORY_LU:
        case UTF8PROC_CATEGORY_LL:
        case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO:
        case UTF8PROC_CATEGORY_MN:
        case UTF8PROC_CATEGORY_MC:
        case UTF8PROC_CATEGORY_ME:
        case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL:
        case UTF8PROC_CATEGORY_PC:
            return true;
        default:
            return in(more_words, COUNT(more_words), c);
    }
}

bool mocl_unicode_is_space(uint32_t c) {
    if (c >= 9 && c <= 13) return true;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == 0x85 || k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL ||
           k == UTF8PROC_CATEGORY_ZP;
}

bool mocl_unicode_is_bert_removed(uint32_t c) { return in(bert_removed, COUNT(bert_removed), c); }
bool mocl_unicode_is_bert_mark(uint32_t c) { return in(bert_marks, COUNT(bert_marks), c); }
bool mocl_unicode_is_bert_punctuation(uint32_t c) { return in(bert_punctuation, COUNT(bert_punctuation), c); }
bool mocl_unicode_is_bert_apart(uint32_t c) { return in(bert_apart, COUNT(bert_apart), c); }
bool mocl_unicode_is_accent(uint32_t c) { return in(accents, COUNT(accents), c); }
