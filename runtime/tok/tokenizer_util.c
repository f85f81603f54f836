/* tokenizer_util.c - growable arrays, the string map, the merge table and UTF-8 for tokenizer*.c */
#include <string.h>

#include "tok/tokenizer_impl.h"

mocl_status mocl_tok_grow(mocl_ctx *ctx, void **p, size_t *cap, size_t n, size_t more,
                          size_t size) {
    size_t need, bytes;
    if (__builtin_add_overflow(n, more, &need)) return mocl_nomem(ctx, SIZE_MAX);
    if (need <= *cap) return MOCL_OK;
    size_t want = *cap < 8 ? 8 : *cap + *cap / 2;
    if (want < need) want = need;
    if (!mocl_mul(want, size, &bytes)) return mocl_nomem(ctx, SIZE_MAX);
    void *q = mocl_realloc(ctx, *p, bytes);
    if (!q) return mocl_nomem(ctx, bytes);
    *p = q;
    *cap = want;
    return MOCL_OK;
}

mocl_status mocl_tok_bytes_room(mocl_ctx *ctx, tok_bytes *b, size_t n) {
    if (b->p && b->cap - b->n >= n) return MOCL_OK;
    void *q = b->p;
    /* memory even for no bytes: callers make pointers into b->p, and NULL + 0 is undefined in C */
    mocl_status st = mocl_tok_grow(ctx, &q, &b->cap, b->n, n ? n : 1, 1);
    b->p = q;
    return st;
}

mocl_status mocl_tok_bytes_add(mocl_ctx *ctx, tok_bytes *b, const void *p, size_t n) {
    MOCL_TRY(mocl_tok_bytes_room(ctx, b, n));
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    return MOCL_OK;
}

mocl_status mocl_tok_ids_add(mocl_ctx *ctx, tok_ids *v, int32_t id) {
    if (v->n == v->cap) {
        void *q = v->p;
        mocl_status st = mocl_tok_grow(ctx, &q, &v->cap, v->n, 1, sizeof *v->p);
        v->p = q;
        if (st) return st;
    }
    v->p[v->n++] = id;
    return MOCL_OK;
}

mocl_status mocl_tok_spans_add(mocl_ctx *ctx, tok_spans *v, size_t start, size_t n) {
    if (v->n == v->cap) {
        void *q = v->p;
        mocl_status st = mocl_tok_grow(ctx, &q, &v->cap, v->n, 1, sizeof *v->p);
        v->p = q;
        if (st) return st;
    }
    v->p[v->n].start = start;
    v->p[v->n++].n = n;
    return MOCL_OK;
}

/* ---- map ---- */

/* FNV-1a with a final mix: keys are short */
static uint32_t hash_bytes(const char *s, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    h ^= h >> 15;
    h *= 0x85ebca6bu;
    return h ^ h >> 13;
}

static size_t map_slot(const tok_map *m, const char *s, size_t n, uint32_t hash) {
    size_t slot = hash & m->mask;
    while (m->table[slot]) {
        const tok_key *k = &m->key[m->table[slot] - 1];
        if (k->hash == hash && k->n == n && memcmp(m->keys.p + k->start, s, n) == 0) break;
        slot = (slot + 1) & m->mask;
    }
    return slot;
}

bool mocl_tok_map_find(const tok_map *m, const char *s, size_t n, uint32_t *index) {
    if (!m->table) return false;
    uint32_t found = m->table[map_slot(m, s, n, hash_bytes(s, n))];
    if (!found) return false;
    *index = found - 1;
    return true;
}

static mocl_status map_rehash(mocl_ctx *ctx, tok_map *m) {
    size_t size = m->table ? (m->mask + 1) * 2 : 64;
    uint32_t *table = mocl_calloc(ctx, size, sizeof *table);
    if (!table) return mocl_nomem(ctx, size * sizeof *table);
    mocl_free(m->table);
    m->table = table;
    m->mask = size - 1;
    for (size_t i = 0; i < m->n; i++) {
        size_t slot = m->key[i].hash & m->mask;
        while (table[slot]) slot = (slot + 1) & m->mask;
        table[slot] = (uint32_t)i + 1;
    }
    return MOCL_OK;
}

mocl_status mocl_tok_map_add(mocl_ctx *ctx, tok_map *m, const char *s, size_t n, uint32_t *index,
                             bool *added) {
    if (added) *added = false;
    if (n > UINT32_MAX || m->n >= UINT32_MAX / 2) return mocl_nomem(ctx, n);
    if (!m->table || m->n * 2 >= m->mask) MOCL_TRY(map_rehash(ctx, m));
    uint32_t hash = hash_bytes(s, n);
    size_t slot = map_slot(m, s, n, hash);
    if (m->table[slot]) {
        *index = m->table[slot] - 1;
        return MOCL_OK;
    }
    void *q = m->key;
    mocl_status st = mocl_tok_grow(ctx, &q, &m->cap, m->n, 1, sizeof *m->key);
    m->key = q;
    if (st) return st;
    size_t start = m->keys.n;
    MOCL_TRY(mocl_tok_bytes_add(ctx, &m->keys, s, n));
    m->key[m->n] = (tok_key){start, (uint32_t)n, hash};
    *index = (uint32_t)m->n++;
    m->table[slot] = *index + 1;
    if (added) *added = true;
    return MOCL_OK;
}

mocl_text mocl_tok_map_key(const tok_map *m, size_t index) {
    return (mocl_text){m->keys.p + m->key[index].start, m->key[index].n};
}

void mocl_tok_map_clear(tok_map *m) {
    m->keys.n = m->n = 0;
    if (m->table) memset(m->table, 0, (m->mask + 1) * sizeof *m->table);
}

void mocl_tok_map_free(tok_map *m) {
    mocl_free(m->keys.p);
    mocl_free(m->key);
    mocl_free(m->table);
    *m = (tok_map){0};
}

/* ---- merge table ---- */

mocl_status mocl_tok_pairs_init(mocl_ctx *ctx, tok_pairs *pairs, size_t n) {
    size_t size = 16;
    while (size < n * 2) size *= 2;
    pairs->slot = mocl_calloc(ctx, size, sizeof *pairs->slot);
    if (!pairs->slot) return mocl_nomem(ctx, size * sizeof *pairs->slot);
    for (size_t i = 0; i < size; i++) pairs->slot[i].id = -1;
    pairs->mask = size - 1;
    pairs->n = 0;
    return MOCL_OK;
}

static tok_pair *pair_slot(const tok_pairs *pairs, uint64_t key) {
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t slot = (size_t)(h >> 32) & pairs->mask;
    while (pairs->slot[slot].id >= 0 && pairs->slot[slot].key != key)
        slot = (slot + 1) & pairs->mask;
    return &pairs->slot[slot];
}

static uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

bool mocl_tok_pairs_add(tok_pairs *pairs, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    uint64_t key = pair_key(left, right);
    tok_pair *p = pair_slot(pairs, key);
    if (p->id >= 0 || pairs->n >= pairs->mask) return false;
    *p = (tok_pair){key, rank, id};
    pairs->n++;
    return true;
}

const tok_pair *mocl_tok_pairs_find(const tok_pairs *pairs, int32_t left, int32_t right) {
    const tok_pair *p = pair_slot(pairs, pair_key(left, right));
    return p->id < 0 ? NULL : p;
}

/* ---- UTF-8 ---- */

int mocl_tok_utf8(const char *s, size_t n, uint32_t *codepoint) {
    const unsigned char *u = (const unsigned char *)s;
    uint32_t c = u[0], low;
    int len;
    if (c < 0x80) {
        *codepoint = c;
        return 1;
    }
    if (c >= 0xc2 && c <= 0xdf) {
        len = 2, c &= 0x1f, low = 0x80;
    } else if (c >= 0xe0 && c <= 0xef) {
        len = 3, c &= 0x0f, low = 0x800;
    } else if (c >= 0xf0 && c <= 0xf4) {
        len = 4, c &= 0x07, low = 0x10000;
    } else {
        return 0;
    }
    if (n < (size_t)len) return 0;
    for (int i = 1; i < len; i++) {
        if ((u[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (u[i] & 0x3f);
    }
    if (c < low || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
    *codepoint = c;
    return len;
}

int mocl_tok_utf8_put(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* Bytes that print stand for themselves: 21-7e, a1-ac, ae-ff. The others, in order, are U+0100 on:
** 00-20 -> 100-120, 7f-a0 -> 121-142, ad -> 143. */
uint32_t mocl_tok_byte_char(unsigned char byte) {
    if (byte <= 0x20) return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0) return 0x121u + (byte - 0x7fu);
    return byte == 0xad ? 0x143u : byte;
}

int mocl_tok_char_byte(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad)) return (int)c;
    if (c >= 0x100 && c <= 0x120) return (int)(c - 0x100);
    if (c >= 0x121 && c <= 0x142) return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}

mocl_status mocl_tok_spell(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n) {
    char c[4];
    for (size_t i = 0; i < n; i++) {
        int len = mocl_tok_utf8_put(mocl_tok_byte_char((unsigned char)s[i]), c);
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, c, (size_t)len));
    }
    return MOCL_OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int mocl_tok_hex_byte(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

mocl_status mocl_tok_steps_add(mocl_ctx *ctx, tok_steps *steps, tok_step_kind kind,
                               tok_step **out) {
    void *q = steps->p;
    mocl_status st = mocl_tok_grow(ctx, &q, &steps->cap, steps->n, 1, sizeof *steps->p);
    steps->p = q;
    if (st) return st;
    *out = &steps->p[steps->n++];
    memset(*out, 0, sizeof **out);
    (*out)->kind = kind;
    return MOCL_OK;
}
