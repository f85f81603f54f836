/* tokenizer_spm.c - SentencePiece-style vocabularies with scores: llama2.c's .bin and .model files.
**
** .bin: int32 longest piece, then per token float32 score, int32 length, bytes, to the end of the
** file. .model: the protobuf of SentencePiece; only its BPE models with an empty character map
** that keep white space are taken, the others refused. A .model of tiktoken is tokenizer_tiktoken.c's. In both, two
** neighbouring symbols merge if their concatenation is a piece, best score first: as a table of
** pairs this is the same algorithm as BPE.
*/
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h" /* mocl_path_tail */
#include "tok/tokenizer_config.h"

enum { FIRST_BYTE_ID = 3 }; /* .bin: byte b is id b + 3, <unk> 0, <s> 1, </s> 2 */

static mocl_status add_special(mocl_ctx *ctx, mocl_tokenizer *t, const char *what, int32_t id,
                               const char *spelling) {
    tok_added a = {.content = {spelling, strlen(spelling)}, .id = id, .special = true};
    a.match = a.content;
    return mocl_tok_add_added(ctx, t, what, &a);
}

static mocl_status set_steps(mocl_ctx *ctx, mocl_tokenizer *t, tok_scheme prefix,
                             const char *space) {
    tok_step *step;
    t->kind = TOK_KIND_SENTENCEPIECE;
    t->byte_fallback = true;
    t->n_space = (int)strlen(space);
    memcpy(t->space, space, (size_t)t->n_space);
    if (t->n_space > 1) {
        MOCL_TRY(mocl_tok_steps_add(ctx, &t->normalizer, TOK_REPLACE, &step));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->pattern, " ", 1));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->content, space, strlen(space)));
    }
    if (prefix != TOK_NEVER) {
        MOCL_TRY(mocl_tok_steps_add(ctx, &t->normalizer, TOK_PREPEND, &step));
        step->scheme = prefix;
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->content, space, strlen(space)));
    }
    MOCL_TRY(mocl_tok_steps_add(ctx, &t->decoder, TOK_BYTE_FALLBACK, &step));
    if (t->n_space > 1) {
        MOCL_TRY(mocl_tok_steps_add(ctx, &t->decoder, TOK_REPLACE, &step));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->pattern, space, strlen(space)));
        MOCL_TRY(mocl_tok_bytes_add(ctx, &step->content, " ", 1));
    }
    return MOCL_OK;
}

/* ---- llama2.c ---- */

static uint32_t little32(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

static float float32(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* score has room for each token that fits into n bytes */
static mocl_status read_bin(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data,
                            size_t n, float *score) {
    uint32_t longest = n >= 4 ? little32(data) : 0;
    if (longest == 0 || longest > n)
        return mocl_fail(ctx, MOCL_E_FORMAT,
                         "%s: not a llama2.c tokenizer (longest piece %u in a file of %zu bytes)",
                         path, longest, n);
    size_t at = 4;
    int64_t id = 0;
    for (; at < n; id++) {
        if (n - at < 8)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: truncated in the header of token %lld", path,
                             (long long)id);
        float s = float32(little32(data + at));
        uint32_t len = little32(data + at + 4);
        at += 8;
        if (len == 0 || len > longest)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: token %lld has %u bytes, the longest has %u",
                             path, (long long)id, len, longest);
        if (len > n - at)
            return mocl_fail(ctx, MOCL_E_FORMAT,
                             "%s: truncated: token %lld has %u bytes, %zu are left", path,
                             (long long)id, len, n - at);
        if (!isfinite(s))
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: the score of token %lld is not finite", path,
                             (long long)id);
        int byte = mocl_tok_hex_byte(data + at, len);
        if (id >= FIRST_BYTE_ID && id < FIRST_BYTE_ID + 256 && byte != id - FIRST_BYTE_ID)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: token %lld is '%.*s', expected '<0x%02X>'",
                             path, (long long)id, (int)(len > 60 ? 60 : len), data + at,
                             (unsigned)(id - FIRST_BYTE_ID));
        score[t->vocab.n] = s;
        MOCL_TRY(mocl_tok_add(ctx, t, path, (mocl_text){data + at, len}, id));
        at += len;
    }
    if (id < FIRST_BYTE_ID + 256)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: %lld tokens, at least %d are needed", path,
                         (long long)id, FIRST_BYTE_ID + 256);
    return MOCL_OK;
}

static mocl_status build_bin(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data,
                             size_t n, const tok_config *config, float *score) {
    (void)config; /* transformers reads no .bin */
    MOCL_TRY(read_bin(ctx, t, path, data, n, score));
    MOCL_TRY(mocl_tok_pairs_of_scores(ctx, t, path, score));
    for (int b = 0; b < 256; b++) t->byte_id[b] = FIRST_BYTE_ID + b;
    t->unk = 0;
    t->bos = 1;
    t->eos = 2;
    t->strip_after_bos = true;
    MOCL_TRY(add_special(ctx, t, path, 0, "<unk>"));
    MOCL_TRY(add_special(ctx, t, path, 1, "<s>"));
    MOCL_TRY(add_special(ctx, t, path, 2, "</s>"));
    MOCL_TRY(set_steps(ctx, t, TOK_ALWAYS, " "));
    t->source_kind = TOK_SOURCE_BIN;
    return MOCL_OK;
}

/* ---- SentencePiece ---- */

/* One protobuf field: number, and its value (varint or 32 bits) or bytes. */
typedef struct field {
    uint32_t number;
    int wire; /* 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value;
    mocl_text bytes;
} field;

static bool varint(mocl_text *in, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && in->n > 0; shift += 7) {
        unsigned char c = (unsigned char)*in->p;
        in->p++, in->n--;
        *out |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) return true;
    }
    return false;
}

/* takes one field off `in`; false if it is malformed */
static bool next_field(mocl_text *in, field *f) {
    uint64_t key, n;
    if (!varint(in, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX) return false;
    *f = (field){.number = (uint32_t)(key >> 3), .wire = (int)(key & 7)};
    switch (f->wire) {
        case 0:
            return varint(in, &f->value);
        case 1:
            n = 8;
            break;
        case 2:
            if (!varint(in, &n)) return false;
            break;
        case 5:
            n = 4;
            break;
        default:
            return false;
    }
    if (n > in->n) return false;
    f->bytes = (mocl_text){in->p, (size_t)n};
    if (f->wire == 5) f->value = little32(in->p);
    in->p += n;
    in->n -= (size_t)n;
    return true;
}

typedef struct model_spec { /* defaults of sentencepiece_model.proto */
    uint64_t type;          /* 1 unigram, 2 BPE */
    bool byte_fallback, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, suffix;
    size_t n_charsmap;
    int32_t unk, bos, eos;
} model_spec;

static mocl_status malformed(mocl_ctx *ctx, const char *path) {
    return mocl_fail(ctx, MOCL_E_FORMAT, "%s: not a SentencePiece model (malformed or truncated)",
                     path);
}

static mocl_status read_spec(mocl_ctx *ctx, const char *path, mocl_text in, bool trainer,
                             model_spec *spec) {
    for (field f; in.n > 0;) {
        if (!next_field(&in, &f)) return malformed(ctx, path);
        if (trainer && f.number == 3) spec->type = f.value;
        if (trainer && f.number == 24) spec->suffix = f.value != 0;
        if (trainer && f.number == 35) spec->byte_fallback = f.value != 0;
        if (trainer && f.number == 40) spec->unk = (int32_t)f.value;
        if (trainer && f.number == 41) spec->bos = (int32_t)f.value;
        if (trainer && f.number == 42) spec->eos = (int32_t)f.value;
        if (!trainer && f.number == 2) spec->n_charsmap = f.bytes.n;
        if (!trainer && f.number == 3) spec->add_dummy_prefix = f.value != 0;
        if (!trainer && f.number == 4) spec->remove_extra_whitespaces = f.value != 0;
        if (!trainer && f.number == 5) spec->escape_whitespaces = f.value != 0;
    }
    return MOCL_OK;
}

static mocl_status check_spec(mocl_ctx *ctx, const char *path, const model_spec *spec) {
    const char *what = spec->type != 2                  ? "it is not a BPE model"
                       : spec->n_charsmap > 0           ? "it has a character map"
                       : spec->remove_extra_whitespaces ? "it removes extra white space"
                       : !spec->escape_whitespaces      ? "it does not escape white space"
                       : spec->suffix                   ? "it treats white space as a suffix"
                                                        : NULL;
    return what ? mocl_fail(ctx, MOCL_E_FORMAT, "%s: this SentencePiece model is not supported: %s",
                            path, what)
                : MOCL_OK;
}

enum { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_USER = 4, PIECE_BYTE = 6 };

static mocl_status read_piece(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, mocl_text in,
                              int64_t id, float *score) {
    mocl_text piece = {"", 0};
    uint64_t type = PIECE_NORMAL;
    float s = 0;
    for (field f; in.n > 0;) {
        if (!next_field(&in, &f)) return malformed(ctx, path);
        if (f.number == 1 && f.wire == 2) piece = f.bytes;
        if (f.number == 2 && f.wire == 5) s = float32((uint32_t)f.value);
        if (f.number == 3 && f.wire == 0) type = f.value;
    }
    if (piece.n == 0 || !isfinite(s)) return malformed(ctx, path);
    if (type == PIECE_NORMAL) {
        score[t->vocab.n] = s;
        return mocl_tok_add(ctx, t, path, piece, id);
    }
    if (type == PIECE_USER) {
        uint32_t index;
        bool added;
        void *q = t->user_id;
        mocl_status st = mocl_tok_grow(ctx, &q, &t->user_cap, t->user.n, 1, sizeof *t->user_id);
        t->user_id = q;
        if (st) return st;
        MOCL_TRY(mocl_tok_map_add(ctx, &t->user, piece.p, piece.n, &index, &added));
        if (added) t->user_id[index] = (int32_t)id; /* a second one is refused below */
        t->user_first[(unsigned char)piece.p[0]] = true;
        if (piece.n > t->longest_user) t->longest_user = piece.n;
        score[t->vocab.n] = -INFINITY; /* it merges with nothing, and no merge makes it */
        return mocl_tok_add(ctx, t, path, piece, id);
    }
    int byte = mocl_tok_hex_byte(piece.p, piece.n);
    if (type == PIECE_BYTE && byte >= 0)
        t->byte_id[byte] = (int32_t)id;
    else if (type != PIECE_CONTROL && type != PIECE_UNKNOWN)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: piece %lld has type %llu, which is not supported",
                         path, (long long)id, (unsigned long long)type);
    /* known by its spelling, never matched in a text */
    tok_added a = {
        .content = piece, .match = piece, .id = (int32_t)id, .special = type != PIECE_BYTE};
    return mocl_tok_add_added(ctx, t, path, &a);
}

/* Which texts get a space in front. tokenizer_config.json: add_prefix_space overrides the model's
*own
** setting; legacy (true if absent, as in transformers 4) says that every text between two added
** tokens gets one, else only the first. */
static mocl_status prefix_of(mocl_ctx *ctx, const tok_config *config, const model_spec *spec,
                             tok_scheme *out) {
    const json_t *add = mocl_tok_config_key(config, "add_prefix_space");
    const json_t *legacy = mocl_tok_config_key(config, "legacy");
    const json_t *sampling = mocl_tok_config_key(config, "sp_model_kwargs");
    const char *path = config ? config->path[TOK_SIDE_CONFIG] : "";
    *out = TOK_NEVER;
    if ((add && !json_is_boolean(add)) || (legacy && !json_is_boolean(legacy)))
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: '%s' is not true or false", mocl_path_tail(path),
                         add && !json_is_boolean(add) ? "add_prefix_space" : "legacy");
    if (sampling && !(json_is_object(sampling) && json_object_size(sampling) == 0))
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: sp_model_kwargs is not supported unless empty",
                         mocl_path_tail(path));
    bool prefix = add ? json_is_true(add) : spec->add_dummy_prefix;
    *out = !prefix ? TOK_NEVER : json_is_false(legacy) ? TOK_FIRST : TOK_ALWAYS;
    return MOCL_OK;
}

static mocl_status read_model(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data,
                              size_t n, const tok_config *config, float *score) {
    model_spec spec = {.type = 1,
                       .add_dummy_prefix = true,
                       .remove_extra_whitespaces = true,
                       .escape_whitespaces = true,
                       .unk = 0,
                       .bos = 1,
                       .eos = 2};
    mocl_text in = {data, n};
    int64_t id = 0;
    for (field f; in.n > 0;) {
        if (!next_field(&in, &f)) return malformed(ctx, path);
        if (f.number <= 3 && f.wire != 2) return malformed(ctx, path);
        if (f.number == 1) MOCL_TRY(read_piece(ctx, t, path, f.bytes, id++, score));
        if (f.number == 2) MOCL_TRY(read_spec(ctx, path, f.bytes, true, &spec));
        if (f.number == 3) MOCL_TRY(read_spec(ctx, path, f.bytes, false, &spec));
    }
    MOCL_TRY(check_spec(ctx, path, &spec));
    for (int b = 0; b < 256 && spec.byte_fallback; b++)
        if (t->byte_id[b] < 0)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: no piece for the byte 0x%02x", path,
                             (unsigned)b);
    t->unk = spec.unk;
    t->fuse_unk = true; /* of characters that are no piece, where they are not spelled in bytes */
    t->bos = spec.bos >= 0 && spec.bos < id ? spec.bos : -1;
    t->eos = spec.eos >= 0 && spec.eos < id ? spec.eos : -1;
    tok_scheme prefix;
    MOCL_TRY(prefix_of(ctx, config, &spec, &prefix));
    MOCL_TRY(set_steps(ctx, t, prefix, "\xe2\x96\x81"));
    t->byte_fallback = spec.byte_fallback;
    return MOCL_OK;
}

static mocl_status build_model(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data,
                               size_t n, const tok_config *config, float *score) {
    tok_step *step;
    MOCL_TRY(read_model(ctx, t, path, data, n, config, score));
    MOCL_TRY(mocl_tok_pairs_of_scores(ctx, t, path, score));
    MOCL_TRY(mocl_tok_steps_add(ctx, &t->whole, TOK_STRIP, &step));
    MOCL_TRY(mocl_tok_bytes_add(ctx, &step->content, " ", 1));
    step->start = t->normalizer.n > 1; /* takes off the space that encoding puts in front */
    t->source_kind = TOK_SOURCE_MODEL;
    return MOCL_OK;
}

typedef mocl_status (*builder)(mocl_ctx *, mocl_tokenizer *, const char *, const char *, size_t,
                               const tok_config *, float *);

static mocl_status fill(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data,
                        size_t n, builder build, const tok_config *config, float *score) {
    MOCL_TRY(build(ctx, t, path, data, n, config, score));
    if (config) MOCL_TRY(mocl_tok_config_tokens(ctx, config, t));
    MOCL_TRY(mocl_tok_finish(ctx, t, path));
    if (config) MOCL_TRY(mocl_tok_config_finish(ctx, config, t));
    MOCL_TRY(mocl_tok_default_template(ctx, t));
    return mocl_tok_bytes_add(ctx, &t->source, data, n);
}

static mocl_status load(mocl_ctx *ctx, mocl_tokenizer **out, const char *path, const char *data,
                        size_t n, builder build, const tok_config *config) {
    *out = NULL;
    mocl_tokenizer *t = NULL;
    float *score = mocl_calloc(ctx, n / 2 + 1, sizeof *score); /* a token takes over 2 bytes */
    mocl_status st = score ? mocl_tok_new(ctx, &t) : mocl_nomem(ctx, n * 2);
    if (!st) st = fill(ctx, t, path, data, n, build, config, score);
    mocl_free(score);
    if (st) {
        mocl_tokenizer_free(t);
        return st;
    }
    *out = t;
    return MOCL_OK;
}

mocl_status mocl_tok_load_bin(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                              const char *data, size_t n) {
    return load(ctx, out, path, data, n, build_bin, NULL);
}

mocl_status mocl_tok_load_model(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                                const char *data, size_t n, const tok_config *config) {
    return load(ctx, out, path, data, n, mocl_tok_is_tiktoken(data, n) ? mocl_tok_build_tiktoken : build_model, config);
}
