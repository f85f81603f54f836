/* tokenizer_bert.c - BERT's vocabularies that are no tokenizer.json.
**
** A list of tokens by id becomes the tokenizer.json that transformers makes of it, which is then loaded.
*/
#include <string.h>

#include "io/file.h" /* mocl_path_tail */
#include "io/text.h"
#include "tok/tokenizer_config.h"
#include "tok/unicode.h"

/* ---- a list of tokens ---- */

typedef struct list {
    mocl_ctx *ctx;
    const tok_config *config;
    mocl_text *token; /* by id, with room for BERT_TOKENS more */
    size_t n;
    int32_t special[5], ends[2];
    tok_recipe recipe;
} list;

enum { BERT_TOKENS = 5 };

/* the special tokens, those that are missing behind the vocabulary in this order, which is transformers' own */
static mocl_status name_tokens(list *l, const char *what) {
    static const char *const name[] = {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    static const char *const text[] = {"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"};
    size_t n = l->n;
    for (int i = 0; i < BERT_TOKENS; i++) {
        mocl_text s;
        size_t id = 0;
        MOCL_TRY(mocl_tok_config_token(l->ctx, l->config, name[i], text[i], &s));
        if (!s.p && i != 2 && i != 4)
            return mocl_fail(l->ctx, MOCL_E_FORMAT, "%s: a WordPiece vocabulary needs %s, which is null", what, name[i]);
        if (!s.p) continue;
        while (id < n && !(l->token[id].p && l->token[id].n == s.n && memcmp(l->token[id].p, s.p, s.n) == 0)) id++;
        if (id == n) l->token[n++] = s;
        size_t k = 0;
        while (k < l->recipe.n_special && l->special[k] != (int32_t)id) k++;
        if (k == l->recipe.n_special) l->special[l->recipe.n_special++] = (int32_t)id;
        if (i == 0) l->recipe.unknown = s;
        if (i == 1) l->ends[1] = (int32_t)id;
        if (i == 3) l->ends[0] = (int32_t)id;
    }
    return MOCL_OK;
}

static mocl_status make(list *l, const char *what, tok_bytes *text) {
    l->recipe = (tok_recipe){.kind = TOK_RECIPE_WORDPIECE,
                             .token = l->token,
                             .n_token = l->n,
                             .special = l->special,
                             .ends = l->ends,
                             .lower = true,
                             .apart = true,
                             .strip = -1};
    MOCL_TRY(name_tokens(l, what));
    bool there, strip = false;
    MOCL_TRY(mocl_tok_config_flag(l->ctx, l->config, "do_lower_case", &there, &l->recipe.lower));
    MOCL_TRY(mocl_tok_config_flag(l->ctx, l->config, "tokenize_chinese_chars", &there, &l->recipe.apart));
    MOCL_TRY(mocl_tok_config_flag(l->ctx, l->config, "strip_accents", &there, &strip));
    if (there) l->recipe.strip = strip;
    return mocl_tok_write_json(l->ctx, &l->recipe, text);
}

mocl_status mocl_tok_load_wordpiece(mocl_ctx *ctx, mocl_tokenizer **out, const char *what, const mocl_text *token,
                                    size_t n, const tok_config *config) {
    tok_bytes text = {0};
    list l = {.ctx = ctx, .config = config, .n = n};
    l.token = mocl_calloc(ctx, n + BERT_TOKENS, sizeof *l.token);
    if (!l.token) return mocl_nomem(ctx, n * sizeof *l.token);
    memcpy(l.token, token, n * sizeof *token);
    mocl_status st = make(&l, what, &text);
    if (!st) st = mocl_tok_load_json(ctx, out, what, text.p, text.n, config);
    mocl_free(l.token);
    mocl_free(text.p);
    return st;
}

/* ---- vocab.txt ---- */

/* The lines of the file by id. Of two equal ones the later is the token; transformers 5 takes white space off the ends
** of lines and 4 does not, so a line that ends so is refused. */
static mocl_status read_lines(mocl_ctx *ctx, const char *path, const char *data, size_t n, tok_map *map,
                              mocl_text *token, int32_t *line_of, size_t *n_token) {
    size_t id = 0;
    for (size_t at = mocl_utf8_mark(data, n); at < n; id++) {
        const char *s = data + at, *end = memchr(s, '\n', n - at);
        size_t len = end ? (size_t)(end - s) : n - at;
        uint32_t index, c = 0;
        bool added;
        at += len + 1;
        if (len > 0 && s[len - 1] == '\r') len--;
        size_t last = len;
        while (last > 0 && ((unsigned char)s[--last] & 0xc0) == 0x80) {}
        bool space = len > 0 && mocl_tok_utf8(s + last, len - last, &c) && mocl_unicode_is_space(c);
        if (space && last > 0)
            return mocl_fail(ctx, MOCL_E_FORMAT,
                             "%s:%zu: the token ends with white space, which transformers 5 takes off and 4 does not",
                             path, id + 1);
        MOCL_TRY(mocl_tok_map_add(ctx, map, s, len, &index, &added));
        if (!added) token[line_of[index]] = (mocl_text){NULL, 0};
        line_of[index] = (int32_t)id;
        token[id] = (mocl_text){s, len};
    }
    *n_token = id;
    return MOCL_OK;
}

mocl_status mocl_tok_load_vocab(mocl_ctx *ctx, mocl_tokenizer **out, const char *path, const char *data, size_t n,
                                const tok_config *config) {
    char class[TOK_CLASS_BYTES];
    size_t n_lines = 1, n_token = 0;
    const char *wide = mocl_text_wide(data, n);
    *out = NULL;
    if (wide) return mocl_fail(ctx, MOCL_E_FORMAT, "%s: %s", path, wide);
    size_t good = mocl_utf8_check(data, n);
    if (good != n) return mocl_fail(ctx, MOCL_E_FORMAT, "%s: byte %zu is not UTF-8", path, good);
    MOCL_TRY(mocl_tok_config_class(ctx, config, class));
    if (class[0] && !mocl_tok_class_is_bert(class))
        return mocl_fail(ctx, MOCL_E_FORMAT,
                         "%s: tokenizer_class = '%s' is not supported with vocab.txt (BertTokenizer and "
                         "DistilBertTokenizer are; save it with transformers to get a tokenizer.json)",
                         mocl_path_tail(path), class);
    for (size_t i = 0; i < n; i++) n_lines += data[i] == '\n';
    if (n_lines > TOK_MAX_ID)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s: %zu lines, at most %d are supported", path, n_lines, TOK_MAX_ID);
    tok_map map = {0};
    mocl_text *token = mocl_calloc(ctx, n_lines, sizeof *token);
    int32_t *line_of = mocl_calloc(ctx, n_lines, sizeof *line_of);
    mocl_status st = token && line_of ? MOCL_OK : mocl_nomem(ctx, n_lines * sizeof *token);
    if (!st) st = read_lines(ctx, path, data, n, &map, token, line_of, &n_token);
    if (!st && n_token == 0) st = mocl_fail(ctx, MOCL_E_FORMAT, "%s: the file is empty", path);
    if (!st) st = mocl_tok_load_wordpiece(ctx, out, path, token, n_token, config);
    if (!st) (*out)->bert.there = true; /* whether or not a file names the class */
    mocl_tok_map_free(&map);
    mocl_free(token);
    mocl_free(line_of);
    return st;
}
