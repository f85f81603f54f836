/* tokenizer_place.c - a pattern that is being translated: reading, writing, refusing */
#include "tok/tokenizer_place.h"

#include <stdio.h>
#include <string.h>

mocl_status mocl_tok_pattern_refuse(tok_pattern *p, size_t at, const char *what, const char *why) {
    size_t place = 1;
    for (size_t i = 0; i < at && i < p->n; i++) place += ((unsigned char)p->s[i] & 0xc0) != 0x80;
    return mocl_fail(p->ctx, MOCL_E_FORMAT, "pattern uses %s at character %zu, %s", what, place,
                     why ? why : "which is not supported");
}

mocl_status mocl_tok_pattern_put(tok_pattern *p, tok_bytes *out, const char *s) {
    return mocl_tok_bytes_add(p->ctx, out, s, strlen(s));
}

mocl_status mocl_tok_pattern_literal(tok_pattern *p, tok_bytes *out, uint32_t c) {
    char s[16];
    bool word = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (c < 0x20 || c == 0x7f) {
        snprintf(s, sizeof s, "\\x{%x}", (unsigned)c);
    } else if (c < 0x80) {
        snprintf(s, sizeof s, "%s%c", word || c == ' ' || c == '_' ? "" : "\\", (char)c);
    } else {
        return mocl_tok_bytes_add(p->ctx, out, s, (size_t)mocl_tok_utf8_put(c, s));
    }
    return mocl_tok_pattern_put(p, out, s);
}

mocl_status mocl_tok_pattern_next(tok_pattern *p, uint32_t *c) {
    int len = mocl_tok_utf8(p->s + p->i, p->n - p->i, c);
    if (len == 0) return mocl_tok_pattern_refuse(p, p->i, "a byte that is not UTF-8", NULL);
    p->i += (size_t)len;
    return MOCL_OK;
}
