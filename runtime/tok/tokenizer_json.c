/* tokenizer_json.c - Hugging Face tokenizer.json with a BPE model, and the older pair of files.
**
** Other models, dropout, subword prefixes and suffixes, and fields nobody here knows are refused.
** truncation and padding are ignored: the caller decides lengths.
*/
#include "tok/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "io/text.h"
#include "tok/tokenizer_config.h"

static mocl_status fail(tok_reader *r, const char *text) {
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s", r->path, text);
}

/* ---- zero bytes ----
**
** jansson takes no key with a zero byte, which the vocabulary of a tokenizer may have: "\u0000".
** Such an escape is written anew as a character of private use that the text does not hold, and
** strings and keys are turned back after parsing. */

static bool is_zero_escape(const char *s, size_t n) {
    return n >= 6 && memcmp(s, "\\u0000", 6) == 0;
}

static bool contains(const char *s, size_t n, const char *what, size_t m) {
    for (const char *p = s, *end = s + n; (p = memchr(p, what[0], (size_t)(end - p))) != NULL; p++)
        if ((size_t)(end - p) >= m && memcmp(p, what, m) == 0) return true;
    return false;
}

/* *copy receives the text with each zero escape as *mark, NULL if there is none. */
static mocl_status hide_zeros(mocl_ctx *ctx, const char *s, size_t n, char **copy, size_t *n_copy,
                              tok_mark *mark) {
    static const char escapes[][6] = {"\\udbff", "\\uDBFF"};
    size_t m = 0;
    *copy = NULL;
    *mark = (tok_mark){0};
    if (!contains(s, n, "\\u0000", 6)) return MOCL_OK;
    if (contains(s, n, escapes[0], 6) || contains(s, n, escapes[1], 6)) return MOCL_OK;
    for (uint32_t c = 0x10fffd; c > 0x10ff00 && mark->n == 0; c--) {
        char put[4];
        int len = mocl_tok_utf8_put(c, put);
        if (contains(s, n, put, (size_t)len)) continue;
        memcpy(mark->c, put, sizeof put);
        mark->n = (size_t)len;
    }
    if (mark->n == 0) return MOCL_OK; /* every one is in use: jansson says what it cannot read */
    char *out = mocl_alloc(ctx, n);
    if (!out) return mocl_nomem(ctx, n);
    for (size_t i = 0; i < n;) {
        if (is_zero_escape(s + i, n - i)) {
            memcpy(out + m, mark->c, mark->n);
            m += mark->n;
            i += 6;
            continue;
        }
        size_t len = s[i] == '\\' && i + 1 < n ? 2 : 1; /* an escape is one piece */
        memcpy(out + m, s + i, len);
        m += len;
        i += len;
    }
    *copy = out;
    *n_copy = m;
    return MOCL_OK;
}

mocl_status mocl_tok_show_zeros(mocl_ctx *ctx, const tok_mark *mark, const char *s, size_t n,
                                tok_bytes *out) {
    out->n = 0;
    for (size_t i = 0; i < n;) {
        bool zero = mark->n && n - i >= mark->n && memcmp(s + i, mark->c, mark->n) == 0;
        MOCL_TRY(mocl_tok_bytes_add(ctx, out, zero ? "" : s + i, 1));
        i += zero ? mark->n : 1;
    }
    return MOCL_OK;
}

/* the strings of v, not its keys; its depth is limited by the parser */
static mocl_status show_strings(mocl_ctx *ctx, const tok_mark *mark, json_t *v, tok_bytes *text) {
    const char *key;
    json_t *field;
    if (json_is_string(v)) {
        const char *s = json_string_value(v);
        size_t n = json_string_length(v);
        if (!contains(s, n, mark->c, mark->n)) return MOCL_OK;
        MOCL_TRY(mocl_tok_show_zeros(ctx, mark, s, n, text));
        if (!mocl_may_alloc(ctx) || json_string_setn_nocheck(v, text->p, text->n))
            return mocl_nomem(ctx, text->n);
    }
    for (size_t i = 0; json_is_array(v) && i < json_array_size(v); i++)
        MOCL_TRY(show_strings(ctx, mark, json_array_get(v, i), text));
    if (!json_is_object(v)) return MOCL_OK;
    json_object_foreach(v, key, field) MOCL_TRY(show_strings(ctx, mark, field, text));
    return MOCL_OK;
}

static mocl_status parse(mocl_ctx *ctx, const char *path, const char *data, size_t n,
                         tok_mark *mark, json_t **out) {
    json_error_t e;
    char *copy;
    size_t n_copy;
    *out = NULL;
    MOCL_TRY(hide_zeros(ctx, data, n, &copy, &n_copy, mark));
    mocl_status st = copy ? mocl_json_parse(ctx, out, copy, n_copy, JSON_REJECT_DUPLICATES, &e)
                          : mocl_json_parse(ctx, out, data, n, JSON_REJECT_DUPLICATES, &e);
    mocl_free(copy);
    if (st == MOCL_E_FORMAT)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
    MOCL_TRY(st);
    tok_bytes text = {0};
    if (mark->n) st = show_strings(ctx, mark, *out, &text);
    mocl_free(text.p);
    if (!st) return MOCL_OK;
    json_decref(*out);
    *out = NULL;
    return st;
}

/* ---- model ---- */

static mocl_status read_vocab(tok_reader *r, const json_t *vocab) {
    const char *key;
    size_t n;
    json_t *id;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return fail(r, "the model has no 'vocab'");
    json_object_keylen_foreach((json_t *)vocab, key, n, id) {
        if (!json_is_integer(id))
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: the id of token '%.60s' is not an integer",
                             r->path, key);
        mocl_text token = {key, n};
        if (r->mark.n) {
            MOCL_TRY(mocl_tok_show_zeros(r->ctx, &r->mark, key, n, &r->t->spelled));
            token = (mocl_text){r->t->spelled.p, r->t->spelled.n};
        }
        MOCL_TRY(mocl_tok_add(r->ctx, r->t, r->path, token, json_integer_value(id)));
    }
    return MOCL_OK;
}

static mocl_status token_id(tok_reader *r, size_t rank, mocl_text s, int32_t *id) {
    uint32_t index;
    if (!mocl_tok_map_find(&r->t->vocab, s.p, s.n, &index))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: merge %zu: '%.*s' is not in the vocabulary",
                         r->path, rank, (int)(s.n > 60 ? 60 : s.n), s.p);
    *id = r->t->index_id[index];
    return MOCL_OK;
}

/* "left right", or [left, right] */
static bool merge_sides(const json_t *merge, mocl_text *left, mocl_text *right) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        if (!json_is_string(a) || !json_is_string(b)) return false;
        *left = (mocl_text){json_string_value(a), json_string_length(a)};
        *right = (mocl_text){json_string_value(b), json_string_length(b)};
        return true;
    }
    if (!json_is_string(merge)) return false;
    const char *s = json_string_value(merge);
    size_t n = json_string_length(merge);
    const char *space = memchr(s, ' ', n);
    if (!space || memchr(space + 1, ' ', n - (size_t)(space - s) - 1)) return false;
    *left = (mocl_text){s, (size_t)(space - s)};
    *right = (mocl_text){space + 1, n - (size_t)(space - s) - 1};
    return true;
}

static mocl_status read_merges(tok_reader *r, const json_t *merges) {
    tok_bytes *joined = &r->t->spelled;
    if (!json_is_array(merges)) return fail(r, "the model has no array 'merges'");
    size_t n = json_array_size(merges);
    MOCL_TRY(mocl_tok_pairs_init(r->ctx, &r->t->pairs, n));
    for (size_t rank = 0; rank < n; rank++) {
        mocl_text left, right;
        int32_t a, b, id;
        if (!merge_sides(json_array_get(merges, rank), &left, &right))
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: merge %zu is not a pair of tokens",
                             r->path, rank);
        joined->n = 0;
        MOCL_TRY(mocl_tok_bytes_add(r->ctx, joined, left.p, left.n));
        MOCL_TRY(mocl_tok_bytes_add(r->ctx, joined, right.p, right.n));
        MOCL_TRY(token_id(r, rank, left, &a));
        MOCL_TRY(token_id(r, rank, right, &b));
        MOCL_TRY(token_id(r, rank, (mocl_text){joined->p, joined->n}, &id));
        if (!mocl_tok_pairs_add(&r->t->pairs, a, b, (uint32_t)rank, id))
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: merge %zu is there twice", r->path, rank);
    }
    return MOCL_OK;
}

static mocl_status read_unk(tok_reader *r, const json_t *model, bool needed) {
    mocl_text unk;
    MOCL_TRY(mocl_tok_json_text(r, model, "model", "unk_token", &unk));
    r->t->unk = unk.p ? mocl_tokenizer_token_to_id(r->t, unk.p, unk.n) : -1;
    if (unk.p && r->t->unk < 0 && needed)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: unk_token '%.60s' is not in the vocabulary",
                         r->path, unk.p);
    return MOCL_OK;
}

static mocl_status read_wordpiece(tok_reader *r, const json_t *model) {
    const char *what = "model WordPiece";
    mocl_text prefix;
    const json_t *most = json_object_get(model, "max_input_chars_per_word");
    MOCL_TRY(mocl_tok_json_object(r, model, what,
                                  "type unk_token continuing_subword_prefix max_input_chars_per_word vocab"));
    MOCL_TRY(mocl_tok_json_text(r, model, what, "continuing_subword_prefix", &prefix));
    if (!prefix.p) return fail(r, "model WordPiece has no 'continuing_subword_prefix'");
    if (!json_is_integer(most) || json_integer_value(most) < 0)
        return fail(r, "model WordPiece: 'max_input_chars_per_word' is not a count");
    r->t->kind = TOK_KIND_WORDPIECE;
    r->t->max_characters = (size_t)json_integer_value(most);
    MOCL_TRY(mocl_tok_bytes_add(r->ctx, &r->t->prefix, prefix.p, prefix.n));
    MOCL_TRY(read_vocab(r, json_object_get(model, "vocab")));
    return read_unk(r, model, false); /* an unknown word is an error then, as in the original */
}

static mocl_status read_model(tok_reader *r, const json_t *model) {
    static const char *const refused[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    mocl_tokenizer *t = r->t;
    mocl_text type;
    if (!json_is_object(model)) return fail(r, "no 'model': not a tokenizer.json");
    MOCL_TRY(mocl_tok_json_text(r, model, "model", "type", &type));
    /* older files name no type: BPE has merges, WordPiece its longest word */
    bool merges = json_object_get(model, "merges"), words = json_object_get(model, "max_input_chars_per_word");
    if (type.p ? strcmp(type.p, "WordPiece") == 0 : words && !merges) return read_wordpiece(r, model);
    if (!type.p && !merges) return fail(r, "the model has no type and no merges: only BPE and WordPiece are supported");
    if (type.p && strcmp(type.p, "BPE") != 0)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: model '%.60s' is not supported (BPE and WordPiece are)",
                         r->path, type.p);
    MOCL_TRY(
        mocl_tok_json_object(r, model, "model BPE",
                             "type dropout unk_token continuing_subword_prefix end_of_word_suffix "
                             "fuse_unk byte_fallback ignore_merges vocab merges"));
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0.0)
        return fail(r, "model BPE: dropout is not supported");
    for (int i = 0; i < 2; i++) {
        mocl_text s;
        MOCL_TRY(mocl_tok_json_text(r, model, "model BPE", refused[i], &s));
        if (s.n > 0)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: model BPE: %s '%.60s' is not supported",
                             r->path, refused[i], s.p);
    }
    MOCL_TRY(mocl_tok_json_bool(r, model, "model BPE", "fuse_unk", false, &t->fuse_unk));
    MOCL_TRY(mocl_tok_json_bool(r, model, "model BPE", "byte_fallback", false, &t->byte_fallback));
    MOCL_TRY(mocl_tok_json_bool(r, model, "model BPE", "ignore_merges", false, &t->ignore_merges));
    MOCL_TRY(read_vocab(r, json_object_get(model, "vocab")));
    MOCL_TRY(read_merges(r, json_object_get(model, "merges")));
    return read_unk(r, model, true);
}

/* the symbols of bytes: their GPT-2 character, or the "<0xHH>" tokens */
static void set_bytes(mocl_tokenizer *t) {
    static const char hex[] = "0123456789ABCDEF";
    for (int b = 0; b < 256; b++) {
        char s[6] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        uint32_t index;
        size_t n = 6;
        if (t->kind == TOK_KIND_BYTE_LEVEL)
            n = (size_t)mocl_tok_utf8_put(mocl_tok_byte_char((unsigned char)b), s);
        t->byte_id[b] = mocl_tok_map_find(&t->vocab, s, n, &index) ? t->index_id[index] : -1;
    }
    if (t->kind == TOK_KIND_BYTE_LEVEL) t->byte_fallback = false; /* each byte is a token already */
}

/* ---- added tokens ---- */

static mocl_status read_added(tok_reader *r, const json_t *o) {
    const char *what = "an added token";
    tok_added a = {.in_text = true};
    const json_t *id = json_object_get(o, "id");
    MOCL_TRY(mocl_tok_json_object(r, o, what,
                                  "id content single_word lstrip rstrip normalized special"));
    MOCL_TRY(mocl_tok_json_text(r, o, what, "content", &a.content));
    if (a.content.n == 0 || !json_is_integer(id))
        return fail(r, "an added token has no content or id");
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "special", false, &a.special));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "single_word", false, &a.single_word));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "lstrip", false, &a.lstrip));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "rstrip", false, &a.rstrip));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "normalized", !a.special, &a.normalized));
    a.match = a.content;
    json_int_t value = json_integer_value(id);
    int32_t known = mocl_tokenizer_token_to_id(r->t, a.content.p, a.content.n);
    if (value < 0 || value > TOK_MAX_ID || (known >= 0 && known != value))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: added token '%.60s' has id %lld%s", r->path,
                         a.content.p, (long long)value,
                         known >= 0 ? ", another one in the vocabulary" : "");
    a.id = (int32_t)value;
    for (size_t i = 0; i < r->t->n_added; i++)
        if (r->t->added[i].id == a.id)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: two added tokens have id %d", r->path,
                             a.id);
    return mocl_tok_add_added(r->ctx, r->t, r->path, &a);
}

/* an added token that is not in the model must not take the id of another token */
static mocl_status check_added(tok_reader *r) {
    mocl_tokenizer *t = r->t;
    bool *taken = mocl_calloc(r->ctx, (size_t)t->n_vocab, sizeof *taken);
    if (!taken) return mocl_nomem(r->ctx, (size_t)t->n_vocab);
    for (size_t i = 0; i < t->vocab.n; i++) taken[t->index_id[i]] = true;
    mocl_status st = MOCL_OK;
    for (size_t i = 0; i < t->n_added && !st; i++) {
        uint32_t index;
        const tok_added *a = &t->added[i];
        if (taken[a->id] && !mocl_tok_map_find(&t->vocab, a->content.p, a->content.n, &index))
            st = mocl_fail(r->ctx, MOCL_E_FORMAT,
                           "%s: added token '%.60s' has the id %d of another token", r->path,
                           a->content.p, a->id);
    }
    mocl_free(taken);
    return st;
}

/* ---- BOS and EOS ---- */

static int32_t special_id(const mocl_tokenizer *t, const char *name) {
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].special && t->added[i].content.n == strlen(name) &&
            memcmp(t->added[i].content.p, name, strlen(name)) == 0)
            return t->added[i].id;
    return -1;
}

/* From the template of the file: what comes before and after the text; else by the usual names. The
** tokenizer_config.json beside the file overrides both. */
static void guess_ends(mocl_tokenizer *t) {
    static const char *const bos[] = {"<s>", "<|begin_of_text|>"};
    static const char *const eos[] = {"</s>", "<|end_of_text|>", "<|endoftext|>"};
    if (t->n_single > 1) {
        if (t->single[0].id >= 0) t->bos = t->single[0].id;
        if (t->single[t->n_single - 1].id >= 0) t->eos = t->single[t->n_single - 1].id;
    }
    for (size_t i = 0; i < 2 && t->bos < 0; i++) t->bos = special_id(t, bos[i]);
    for (size_t i = 0; i < 3 && t->eos < 0; i++) t->eos = special_id(t, eos[i]);
}

/* ---- the whole file ---- */

static mocl_status read_root(tok_reader *r, const json_t *root, const tok_config *config) {
    mocl_tokenizer *t = r->t;
    MOCL_TRY(
        mocl_tok_json_object(r, root, "the file",
                             "version truncation padding added_tokens normalizer pre_tokenizer "
                             "post_processor decoder model"));
    mocl_text version;
    MOCL_TRY(mocl_tok_json_text(r, root, "the file", "version", &version));
    if (version.p && strcmp(version.p, "1.0") != 0)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: version '%.60s' is not supported (1.0 is)",
                         r->path, version.p);
    t->source_kind = TOK_SOURCE_JSON;
    t->kind = TOK_KIND_CHARACTER;
    r->config = config;
    MOCL_TRY(read_model(r, json_object_get(root, "model")));
    MOCL_TRY(mocl_tok_read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")));
    set_bytes(t);
    MOCL_TRY(mocl_tok_read_normalizer(r, json_object_get(root, "normalizer")));
    MOCL_TRY(mocl_tok_read_decoder(r, json_object_get(root, "decoder")));
    const json_t *added = json_object_get(root, "added_tokens");
    if (added && !json_is_array(added)) return fail(r, "'added_tokens' is not an array");
    for (size_t i = 0; i < json_array_size(added); i++)
        MOCL_TRY(read_added(r, json_array_get(added, i)));
    MOCL_TRY(check_added(r));
    MOCL_TRY(mocl_tok_read_post_processor(r, json_object_get(root, "post_processor")));
    t->n_space = 3;
    memcpy(t->space, "\xe2\x96\x81", 3);
    MOCL_TRY(mocl_tok_config_tokens(r->ctx, config, t));
    MOCL_TRY(mocl_tok_finish(r->ctx, t, r->path)); /* while root holds the texts it copies */
    guess_ends(t);
    t->template_of_file = t->n_single > 1;
    MOCL_TRY(mocl_tok_config_finish(r->ctx, config, t));
    return mocl_tok_default_template(r->ctx, t);
}

mocl_status mocl_tok_load_json(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                               const char *data, size_t n, const tok_config *config) {
    json_t *root = NULL;
    mocl_tokenizer *t = NULL;
    *out = NULL;
    tok_reader r = {.ctx = ctx, .path = path};
    MOCL_TRY(parse(ctx, path, data, n, &r.mark, &root));
    mocl_status st = mocl_tok_new(ctx, &t);
    r.t = t;
    if (!st) st = read_root(&r, root, config);
    if (!st) st = mocl_tok_bytes_add(ctx, &t->source, data, n);
    json_decref(root);
    if (st) {
        mocl_tokenizer_free(t);
        return st;
    }
    *out = t;
    return MOCL_OK;
}

/* ---- vocab.json + merges.txt ---- */

/* the lines of merges.txt as [left, right, ...]; a first line "#version" is skipped */
static mocl_status read_lines(tok_reader *r, const char *data, size_t n, mocl_text *merge,
                              size_t *n_merge) {
    size_t line = 0;
    *n_merge = 0;
    const char *wide = mocl_text_wide(data, n);
    if (wide) return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s", r->path, wide);
    for (size_t at = mocl_utf8_mark(data, n); at < n;) {
        const char *s = data + at, *end = memchr(s, '\n', n - at);
        size_t len = end ? (size_t)(end - s) : n - at;
        at += len + 1;
        line++;
        if (len > 0 && s[len - 1] == '\r') len--;
        if (len == 0 || (line == 1 && len >= 8 && memcmp(s, "#version", 8) == 0)) continue;
        const char *space = memchr(s, ' ', len);
        size_t left = space ? (size_t)(space - s) : 0;
        if (left == 0 || left + 1 == len || memchr(space + 1, ' ', len - left - 1))
            return mocl_fail(r->ctx, MOCL_E_FORMAT,
                             "%s:%zu: expected two tokens and a space between", r->path, line);
        merge[2 * *n_merge] = (mocl_text){s, left};
        merge[2 * *n_merge + 1] = (mocl_text){space + 1, len - left - 1};
        ++*n_merge;
    }
    return MOCL_OK;
}

/* bytes of a key once its zero bytes are turned back */
static size_t shown_length(const tok_mark *mark, const char *s, size_t n) {
    size_t m = n;
    for (size_t i = 0; mark->n && i + mark->n <= n;) {
        bool zero = memcmp(s + i, mark->c, mark->n) == 0;
        if (zero) m -= mark->n - 1;
        i += zero ? mark->n : 1;
    }
    return m;
}

/* all keys, one after the other, with their zero bytes */
static mocl_status show_keys(tok_reader *r, const json_t *vocab, tok_bytes *keys) {
    const char *key;
    size_t n;
    json_t *id;
    tok_bytes one = {0};
    mocl_status st = MOCL_OK;
    json_object_keylen_foreach((json_t *)vocab, key, n, id) {
        if (!st) st = mocl_tok_show_zeros(r->ctx, &r->mark, key, n, &one);
        if (!st) st = mocl_tok_bytes_add(r->ctx, keys, one.p, one.n);
    }
    mocl_free(one.p);
    return st;
}

enum { ROBERTA_TOKENS = 7 };

/* Which words the classes of transformers cut that keep their vocabulary in these two files. */
static mocl_status recipe_of(tok_reader *r, const tok_config *config, tok_recipe_kind *kind) {
    static const struct {
        const char *class;
        tok_recipe_kind kind;
    } known[] = {{"", TOK_RECIPE_GPT2},
                 {"GPT2Tokenizer", TOK_RECIPE_GPT2},
                 {"Qwen2Tokenizer", TOK_RECIPE_QWEN2},
                 {"RobertaTokenizer", TOK_RECIPE_ROBERTA},
                 {"BartTokenizer", TOK_RECIPE_ROBERTA}};
    char class[TOK_CLASS_BYTES];
    MOCL_TRY(mocl_tok_config_class(r->ctx, config, class));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        *kind = known[i].kind;
        if (strcmp(class, known[i].class) == 0) return MOCL_OK;
    }
    return mocl_fail(r->ctx, MOCL_E_FORMAT,
                     "%s: tokenizer_class = '%.60s' is not supported without a tokenizer.json (GPT2Tokenizer, "
                     "Qwen2Tokenizer, RobertaTokenizer and BartTokenizer are; save it with transformers to get one)",
                     mocl_path_tail(config->path[TOK_SIDE_CONFIG]), class);
}

/* RoBERTa's special tokens: those of the vocabulary, the others behind it in this order, which is transformers' own.
** token has room for all. */
static mocl_status roberta_tokens(tok_reader *r, const tok_config *config, mocl_text *token, size_t n, int32_t *special,
                                  tok_recipe *recipe, int32_t ends[2]) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    static const char *const texts[] = {"<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"};
    bool there;
    MOCL_TRY(mocl_tok_config_flag(r->ctx, config, "add_prefix_space", &there, &recipe->prefix_space));
    recipe->mask = ends[0] = ends[1] = -1;
    for (int i = 0; i < ROBERTA_TOKENS; i++) {
        mocl_text s;
        size_t id = 0, k = 0;
        MOCL_TRY(mocl_tok_config_token(r->ctx, config, names[i], texts[i], &s));
        if (!s.p && (i == 3 || i == 5)) return fail(r, "RoBERTa's sep_token and cls_token may not be null");
        if (!s.p) continue;
        while (id < n && !(token[id].p && token[id].n == s.n && memcmp(token[id].p, s.p, s.n) == 0)) id++;
        if (id == n) token[n++] = s;
        while (k < recipe->n_special && special[k] != (int32_t)id) k++;
        if (k == recipe->n_special) special[recipe->n_special++] = (int32_t)id;
        if (i == 3) ends[1] = (int32_t)id;
        if (i == 5) ends[0] = (int32_t)id;
        if (i == 6) recipe->mask = (int32_t)id;
    }
    recipe->special = special;
    recipe->ends = ends;
    return MOCL_OK;
}

static mocl_status pair_json(tok_reader *r, const json_t *vocab, const char *merges_path,
                             const char *merges, size_t n, const tok_config *config,
                             tok_bytes *text) {
    mocl_ctx *ctx = r->ctx;
    tok_recipe recipe = {0};
    tok_bytes keys = {0}; /* with zero bytes turned back */
    int32_t special[ROBERTA_TOKENS] = {-1}, ends[2];
    int64_t top = -1;
    const char *key;
    size_t n_key, n_lines = 1;
    json_t *id;
    MOCL_TRY(recipe_of(r, config, &recipe.kind));
    if (!json_is_object(vocab)) return fail(r, "not an object of tokens and ids");
    json_object_keylen_foreach((json_t *)vocab, key, n_key, id) {
        json_int_t i = json_integer_value(id);
        if (!json_is_integer(id) || i < 0 || i > TOK_MAX_ID)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: the id of token '%.60s' is not in 0 to %d",
                             r->path, key, TOK_MAX_ID);
        if (i > top) top = i;
        if (strcmp(key, "<|endoftext|>") == 0) special[0] = (int32_t)i;
    }
    for (size_t i = 0; i < n; i++) n_lines += merges[i] == '\n';
    mocl_text *token = mocl_calloc(ctx, (size_t)(top + 1) + ROBERTA_TOKENS, sizeof *token);
    mocl_text *merge = mocl_calloc(ctx, n_lines, 2 * sizeof *merge);
    mocl_status st = token && merge ? MOCL_OK : mocl_nomem(ctx, n_lines * 2 * sizeof *merge);
    if (!st) st = show_keys(r, vocab, &keys);
    size_t at = 0;
    json_object_keylen_foreach((json_t *)vocab, key, n_key, id) {
        mocl_text *s = st ? NULL : &token[json_integer_value(id)];
        size_t len = s ? shown_length(&r->mark, key, n_key) : 0;
        if (s && s->p)
            st = mocl_fail(ctx, MOCL_E_FORMAT, "%s: tokens '%.*s' and '%.60s' have the same id",
                           r->path, (int)(s->n < 60 ? s->n : 60), s->p, key);
        else if (s)
            *s = (mocl_text){keys.p + at, len};
        at += len;
    }
    tok_reader lines = {.ctx = ctx, .path = merges_path};
    if (!st) st = read_lines(&lines, merges, n, merge, &recipe.n_merge);
    recipe.token = token;
    recipe.n_token = (size_t)(top + 1);
    recipe.special = special;
    recipe.merge = merge;
    if (recipe.kind != TOK_RECIPE_ROBERTA)
        recipe.n_special = special[0] >= 0;
    else if (!st)
        st = roberta_tokens(r, config, token, recipe.n_token, special, &recipe, ends);
    if (!st) st = mocl_tok_write_json(ctx, &recipe, text);
    mocl_free(token);
    mocl_free(merge);
    mocl_free(keys.p);
    return st;
}

mocl_status mocl_tok_load_pair(mocl_ctx *ctx, mocl_tokenizer **out, const char *vocab_path,
                               const char *merges_path, const tok_config *config) {
    char *vocab = NULL, *merges = NULL;
    size_t n_vocab, n_merges;
    json_t *root = NULL;
    tok_bytes text = {0};
    tok_reader r = {.ctx = ctx, .path = vocab_path};
    mocl_status st = mocl_file_read(ctx, vocab_path, &vocab, &n_vocab);
    if (!st) st = mocl_file_read(ctx, merges_path, &merges, &n_merges);
    if (!st) st = parse(ctx, vocab_path, vocab, n_vocab, &r.mark, &root);
    if (!st) st = pair_json(&r, root, merges_path, merges, n_merges, config, &text);
    if (!st) st = mocl_tok_load_json(ctx, out, vocab_path, text.p, text.n, config);
    json_decref(root);
    mocl_free(text.p);
    mocl_free(vocab);
    mocl_free(merges);
    return st;
}
