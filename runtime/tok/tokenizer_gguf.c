/* tokenizer_gguf.c - the tokenizer in a GGUF file.
**
** It becomes what transformers would have had: kinds "gpt2" and "bert" a tokenizer.json, kind "llama" a SentencePiece
** model, each with a tokenizer_config.json, which are made in memory and loaded. So a tokenizer from a GGUF file has no code of its
** own, and saving it writes these files.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h" /* mocl_path_tail */
#include "io/gguf.h"
#include "io/json.h"
#include "io/text.h" /* mocl_utf8_check */
#include "tok/tokenizer_config.h"

#define TOKENS "tokenizer.ggml.tokens"

/* of a token */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

/* ---- keys ---- */

static const char *const honoured[] = {
    "tokenizer.ggml.model",         "tokenizer.ggml.pre",           TOKENS,
    "tokenizer.ggml.scores",        "tokenizer.ggml.token_type",    "tokenizer.ggml.merges",
    "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix",
    "tokenizer.chat_template"};

/* Keys that change neither the ids nor the text. Ids of ends of a turn are the model's matter; others name tokens for
** uses that mocl does not have. */
static const char *const without_effect[] = {
    "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.prefix_token_id",
    "tokenizer.ggml.suffix_token_id",  "tokenizer.ggml.middle_token_id",  "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id", "tokenizer.ggml.added_tokens",
    "tokenizer.ggml.token_type_count", "tokenizer.huggingface.json",      "tokenizer.chat_templates"};

/* flags that ask for nothing at this value */
static const struct {
    const char *key;
    bool value;
} neutral[] = {{"tokenizer.ggml.add_sep_token", false},
               {"tokenizer.ggml.remove_extra_whitespaces", false},
               {"tokenizer.ggml.escape_whitespaces", true}};

/* ids of the tokens with a name; the older spelling of the separator is the format's own */
static const struct {
    const char *key, *name;
} named[] = {{"tokenizer.ggml.bos_token_id", "bos_token"},     {"tokenizer.ggml.eos_token_id", "eos_token"},
             {"tokenizer.ggml.unknown_token_id", "unk_token"}, {"tokenizer.ggml.seperator_token_id", "sep_token"},
             {"tokenizer.ggml.padding_token_id", "pad_token"}, {"tokenizer.ggml.cls_token_id", "cls_token"},
             {"tokenizer.ggml.mask_token_id", "mask_token"}};
enum { BOS, EOS, UNK, SEP, PAD, CLS, MASK, N_NAMED = sizeof named / sizeof *named };

static bool in(const char *key, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, list[i]) == 0) return true;
    return false;
}
#define IN(key, list) in(key, list, sizeof list / sizeof *list)

typedef struct source {
    mocl_ctx *ctx;
    const char *path;
    const mocl_gguf *g;
    bool llama, bert; /* kinds, else "gpt2" */
    const tok_pre *pre;
    size_t n;            /* tokens, without the unused ones at the end */
    mocl_text *token;    /* by id; p NULL = empty */
    uint8_t *type;       /* by id */
    float *score;        /* by id; kind "llama" */
    int32_t id[N_NAMED]; /* -1 = none */
    bool add_bos, add_eos, prefix;
    /* for kind "gpt2" */
    mocl_text *merge;
    size_t n_merge;
    int32_t *added; /* ids of the tokens that are looked for in texts */
    bool *ordinary; /* of these: not special */
    size_t n_added;
} source;

static mocl_status fail(source *s, const char *key, const char *reason) {
    return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s %s", mocl_path_tail(s->path), key, reason);
}

static mocl_status check_keys(source *s) {
    for (size_t i = 0; i < s->g->n_keys; i++) {
        const char *key = s->g->keys[i].name;
        const mocl_gguf_value *v = &s->g->keys[i].value;
        bool known = strncmp(key, "tokenizer.", 10) != 0 || strncmp(key, "tokenizer.chat_template.", 24) == 0 ||
                     IN(key, honoured) || IN(key, without_effect);
        for (size_t k = 0; k < N_NAMED && !known; k++) known = strcmp(key, named[k].key) == 0;
        for (size_t k = 0; k < sizeof neutral / sizeof *neutral; k++) {
            if (strcmp(key, neutral[k].key) != 0) continue;
            known = true;
            if (s->bert && k == 0) break; /* add_sep_token: [SEP] is always put behind a text */
            if (v->type != MOCL_GGUF_BOOL || v->truth != neutral[k].value)
                return fail(
                    s, key,
                    neutral[k].value ? "is not true, which is not supported" : "is not false, which is not supported");
        }
        if (!known) return fail(s, key, "is not supported (mocl does not know this key)");
    }
    return MOCL_OK;
}

/* NULL if absent */
static mocl_status get(source *s, const char *key, mocl_gguf_type type, const mocl_gguf_value **out) {
    const mocl_gguf_key *k = mocl_gguf_find_key(s->g, key);
    *out = k ? &k->value : NULL;
    if (!k || k->value.type == type) return MOCL_OK;
    return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s is of type %s, and must be of type %s", mocl_path_tail(s->path),
                     key, mocl_gguf_type_name(k->value.type), mocl_gguf_type_name(type));
}

static mocl_status get_flag(source *s, const char *key, bool def, bool *out) {
    const mocl_gguf_value *v;
    MOCL_TRY(get(s, key, MOCL_GGUF_BOOL, &v));
    *out = v ? v->truth : def;
    return MOCL_OK;
}

/* An array of one of two types of element, of n values unless n is SIZE_MAX; NULL if absent. */
static mocl_status get_array(source *s, const char *key, mocl_gguf_type a, mocl_gguf_type b, size_t n,
                             const mocl_gguf_value **out) {
    MOCL_TRY(get(s, key, MOCL_GGUF_ARRAY, out));
    const mocl_gguf_value *v = *out;
    if (!v) return MOCL_OK;
    if (v->element != a && v->element != b)
        return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s is an array of type %s, and must be one of %s",
                         mocl_path_tail(s->path), key, mocl_gguf_type_name(v->element), mocl_gguf_type_name(a));
    if (n != SIZE_MAX && v->count != n)
        return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s has %llu values, %s has %zu", mocl_path_tail(s->path), key,
                         (unsigned long long)v->count, TOKENS, n);
    return MOCL_OK;
}

/* ---- the vocabulary ---- */

static mocl_status read_kind(source *s) {
    const mocl_gguf_value *v;
    static const char *const kinds[] = {"gpt2", "llama", "bert"};
    MOCL_TRY(get(s, "tokenizer.ggml.model", MOCL_GGUF_STRING, &v));
    bool none = !v || (v->text_bytes == 4 && memcmp(v->text, "none", 4) == 0);
    if (none)
        return fail(s, "tokenizer.ggml.model",
                    v ? "is none: the file holds no tokenizer; load one from elsewhere"
                      : "is missing: the file holds no tokenizer; load one from elsewhere");
    for (int i = 0; i < 3; i++) {
        if (v->text_bytes != strlen(kinds[i]) || memcmp(v->text, kinds[i], v->text_bytes) != 0) continue;
        s->llama = i == 1;
        s->bert = i == 2;
        return MOCL_OK;
    }
    return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: tokenizer.ggml.model = %.*s is not supported (gpt2, llama, bert)",
                     mocl_path_tail(s->path), (int)(v->text_bytes > 60 ? 60 : v->text_bytes), v->text);
}

/* For kinds "llama" and "bert" llama.cpp does not read it. */
static mocl_status read_pre(source *s) {
    const mocl_gguf_value *v;
    char name[64];
    MOCL_TRY(get(s, "tokenizer.ggml.pre", MOCL_GGUF_STRING, &v));
    size_t n = v ? v->text_bytes : 0;
    if (n < sizeof name && (!v || !memchr(v->text, 0, n))) {
        memcpy(name, v ? v->text : "", n);
        name[n] = '\0';
        s->pre = mocl_tok_pre_named(v && n ? name : "default");
    }
    if (s->pre || s->llama || s->bert) return MOCL_OK;
    return mocl_fail(s->ctx, MOCL_E_FORMAT,
                     "%s: tokenizer.ggml.pre = %.*s is not supported (docs/gguf.md lists the names that are); use the "
                     "tokenizer.json of the same model",
                     mocl_path_tail(s->path), (int)(n > 60 ? 60 : n), v->text);
}

static mocl_status read_types(source *s, size_t n) {
    const mocl_gguf_value *types;
    mocl_gguf_value v;
    MOCL_TRY(get_array(s, "tokenizer.ggml.token_type", MOCL_GGUF_I32, MOCL_GGUF_U32, n, &types));
    const unsigned char *at = types ? types->at : NULL;
    for (size_t i = 0; i < n; i++) {
        s->type[i] = NORMAL;
        if (!types) continue;
        at = mocl_gguf_read(&v, types->element, at);
        if (v.integer < 0 || v.integer > BYTE)
            return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: token %zu has type %lld, and 0 to 6 are known",
                             mocl_path_tail(s->path), i, (long long)v.integer);
        s->type[i] = v.integer ? (uint8_t)v.integer : NORMAL;
    }
    return MOCL_OK;
}

static mocl_status read_scores(source *s, size_t n) {
    const mocl_gguf_value *scores;
    mocl_gguf_value v;
    MOCL_TRY(get_array(s, "tokenizer.ggml.scores", MOCL_GGUF_F32, MOCL_GGUF_I32, n, &scores));
    if (!scores) return fail(s, "tokenizer.ggml.scores", "is missing: nothing says which pieces go first");
    s->score = mocl_calloc(s->ctx, n, sizeof *s->score);
    if (!s->score) return mocl_nomem(s->ctx, n * sizeof *s->score);
    const unsigned char *at = scores->at;
    for (size_t i = 0; i < n; i++) {
        at = mocl_gguf_read(&v, scores->element, at);
        s->score[i] = v.type == MOCL_GGUF_F32 ? (float)v.real : (float)v.integer;
        if (!isfinite(s->score[i]))
            return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: the score of token %zu is not finite", mocl_path_tail(s->path),
                             i);
    }
    return MOCL_OK;
}

static mocl_status check_spellings(source *s) {
    tok_map seen = {0};
    mocl_status st = MOCL_OK;
    for (size_t i = 0; i < s->n && !st; i++) {
        mocl_text t = s->token[i];
        uint32_t index;
        bool added = true;
        /* an empty token has an entry too, so that the places are the ids */
        char empty[32];
        if (!t.p) t = (mocl_text){empty, (size_t)snprintf(empty, sizeof empty, "\n%zu", i)};
        st = mocl_tok_map_add(s->ctx, &seen, t.p, t.n, &index, &added);
        if (!st && !added)
            st = mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: tokens %u and %zu are both '%.*s'", mocl_path_tail(s->path),
                           index, i, (int)(t.n > 60 ? 60 : t.n), t.p);
        if (!st && s->llama && s->type[i] == BYTE && mocl_tok_hex_byte(t.p, t.n) < 0)
            st = mocl_fail(s->ctx, MOCL_E_FORMAT,
                           "%s: token %zu is a byte by its type and is spelled '%.*s', not like <0x0A>",
                           mocl_path_tail(s->path), i, (int)(t.n > 60 ? 60 : t.n), t.p);
    }
    mocl_tok_map_free(&seen);
    return st;
}

static mocl_status read_tokens(source *s) {
    const mocl_gguf_value *tokens;
    mocl_gguf_value v;
    MOCL_TRY(get_array(s, TOKENS, MOCL_GGUF_STRING, MOCL_GGUF_STRING, SIZE_MAX, &tokens));
    if (!tokens || tokens->count == 0) return fail(s, TOKENS, "is missing or empty");
    if (tokens->count > TOK_MAX_ID + 1)
        return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s has %llu tokens, at most %d are supported",
                         mocl_path_tail(s->path), TOKENS, (unsigned long long)tokens->count, TOK_MAX_ID + 1);
    size_t n = s->n = (size_t)tokens->count;
    s->token = mocl_calloc(s->ctx, n, sizeof *s->token);
    s->type = mocl_calloc(s->ctx, n, sizeof *s->type);
    if (!s->token || !s->type) return mocl_nomem(s->ctx, n * sizeof *s->token);
    const unsigned char *at = tokens->at;
    for (size_t i = 0; i < n; i++) {
        at = mocl_gguf_read(&v, MOCL_GGUF_STRING, at);
        if (v.text_bytes) s->token[i] = (mocl_text){v.text, v.text_bytes};
    }
    MOCL_TRY(read_types(s, n));
    MOCL_TRY(check_spellings(s));
    return s->llama ? read_scores(s, n) : MOCL_OK;
}

/* The ids with a name; the defaults of kind "llama" are llama.cpp's, where a vocabulary has them. */
static mocl_status read_named(source *s) {
    for (int i = 0; i < N_NAMED; i++) {
        const mocl_gguf_key *k = mocl_gguf_find_key(s->g, named[i].key);
        int32_t def = !s->llama ? -1 : i == BOS ? 1 : i == EOS ? 2 : i == UNK ? 0 : -1;
        s->id[i] = def < (int32_t)s->n ? def : -1;
        if (!k) continue;
        mocl_gguf_type type = k->value.type;
        if (type == MOCL_GGUF_STRING || type == MOCL_GGUF_ARRAY || type == MOCL_GGUF_BOOL || type == MOCL_GGUF_F32 ||
            type == MOCL_GGUF_F64)
            return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s is of type %s, and must be an integer",
                             mocl_path_tail(s->path), named[i].key, mocl_gguf_type_name(type));
        if (k->value.integer < 0 || (uint64_t)k->value.integer >= s->n || !s->token[k->value.integer].p)
            return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s = %lld is no token: the vocabulary has %zu",
                             mocl_path_tail(s->path), named[i].key, (long long)k->value.integer, s->n);
        s->id[i] = (int32_t)k->value.integer;
    }
    MOCL_TRY(get_flag(s, "tokenizer.ggml.add_bos_token", s->llama || (s->pre && s->pre->add_bos), &s->add_bos));
    MOCL_TRY(get_flag(s, "tokenizer.ggml.add_eos_token", false, &s->add_eos));
    MOCL_TRY(get_flag(s, "tokenizer.ggml.add_space_prefix", s->llama, &s->prefix));
    const mocl_gguf_key *bos = mocl_gguf_find_key(s->g, "tokenizer.ggml.add_bos_token");
    if (s->bert && bos && !s->add_bos)
        return fail(s, "tokenizer.ggml.add_bos_token", "is false, which is not supported for tokenizer.ggml.model = bert");
    s->add_bos = s->add_bos && s->id[BOS] >= 0;
    s->add_eos = s->add_eos && s->id[EOS] >= 0;
    /* Padding of a model's rows is no part of the tokenizer, which would draw it. */
    int32_t top = -1;
    for (int i = 0; i < N_NAMED; i++) top = s->id[i] > top ? s->id[i] : top;
    while (s->n > 1 && s->type[s->n - 1] == UNUSED && (int32_t)s->n - 1 > top) s->n--;
    return MOCL_OK;
}

/* A token that is written as JSON must be UTF-8. */
static mocl_status check_text(source *s, size_t i) {
    if (mocl_utf8_check(s->token[i].p, s->token[i].n) == s->token[i].n) return MOCL_OK;
    return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: token %zu is not UTF-8", mocl_path_tail(s->path), i);
}

static bool is_added(const source *s, size_t i) {
    return s->token[i].p && (s->type[i] == UNKNOWN || s->type[i] == CONTROL || s->type[i] == USER_DEFINED);
}

/* ---- tokenizer_config.json ---- */

static mocl_status put_added(source *s, json_t *root) {
    json_t *decoder = json_object();
    if (!decoder || json_object_set_new(root, "added_tokens_decoder", decoder)) return mocl_nomem(s->ctx, s->n);
    for (size_t i = 0; i < s->n; i++) {
        char id[24];
        if (!is_added(s, i)) continue;
        snprintf(id, sizeof id, "%zu", i);
        MOCL_TRY(check_text(s, i));
        json_t *token =
            json_pack("{s:o,s:b,s:b,s:b,s:b,s:b}", "content", json_stringn(s->token[i].p, s->token[i].n), "lstrip", 0,
                      "normalized", 0, "rstrip", 0, "single_word", 0, "special", s->type[i] != USER_DEFINED);
        if (!token || json_object_set_new(decoder, id, token)) return mocl_nomem(s->ctx, s->n);
    }
    return MOCL_OK;
}

/* A token that a key names is special for transformers. As for llama.cpp, its type alone makes it one, but for BOS and
** EOS: files exist whose padding is an ordinary "!". */
static mocl_status fill_config(source *s, json_t *root) {
    const mocl_gguf_value *chat;
    int failed = 0;
    MOCL_TRY(get(s, "tokenizer.chat_template", MOCL_GGUF_STRING, &chat));
    for (int i = 0; i < N_NAMED; i++) {
        if (s->id[i] >= 0 && (i <= EOS || s->bert || s->type[s->id[i]] != NORMAL)) {
            MOCL_TRY(check_text(s, (size_t)s->id[i]));
            mocl_text name = s->token[s->id[i]];
            failed |= json_object_set_new(root, named[i].name, json_stringn(name.p, name.n));
        } else if (i <= EOS && !s->bert) { /* not guessed from the usual names */
            failed |= json_object_set_new(root, named[i].name, json_null());
        }
    }
    if (s->llama) {
        failed |= json_object_set_new(root, "add_bos_token", json_boolean(s->add_bos));
        failed |= json_object_set_new(root, "add_eos_token", json_boolean(s->add_eos));
        failed |= json_object_set_new(root, "legacy", json_true());
        MOCL_TRY(put_added(s, root));
    }
    if (s->bert) {
        failed |= json_object_set_new(root, "do_lower_case", json_true());
        MOCL_TRY(put_added(s, root));
    }
    if (chat && mocl_utf8_check(chat->text, chat->text_bytes) != chat->text_bytes)
        return fail(s, "tokenizer.chat_template", "is not UTF-8");
    if (chat) failed |= json_object_set_new(root, "chat_template", json_stringn(chat->text, chat->text_bytes));
    failed |= json_object_set_new(root, "clean_up_tokenization_spaces", json_false());
    failed |= json_object_set_new(root, "tokenizer_class",
                                  json_string(s->llama  ? "LlamaTokenizer"
                                              : s->bert ? "BertTokenizer"
                                                        : "PreTrainedTokenizerFast"));
    return failed ? mocl_nomem(s->ctx, s->n) : MOCL_OK;
}

/* c is to be freed with mocl_tok_config_free, also after a failure */
static mocl_status make_config(source *s, tok_config *c) {
    json_t *root = c->root[TOK_SIDE_CONFIG] = mocl_may_alloc(s->ctx) ? json_object() : NULL;
    c->path[TOK_SIDE_CONFIG] = mocl_strdup(s->ctx, s->path);
    if (!root || !c->path[TOK_SIDE_CONFIG]) return mocl_nomem(s->ctx, strlen(s->path));
    MOCL_TRY(fill_config(s, root));
    char *text = json_dumps(root, JSON_INDENT(2));
    if (text) c->data[TOK_SIDE_CONFIG] = mocl_strdup(s->ctx, text);
    free(text);
    if (!c->data[TOK_SIDE_CONFIG]) return mocl_nomem(s->ctx, s->n);
    c->n[TOK_SIDE_CONFIG] = strlen(c->data[TOK_SIDE_CONFIG]);
    return MOCL_OK;
}

/* ---- kind "gpt2": tokenizer.json ---- */

static mocl_status read_merges(source *s) {
    const mocl_gguf_value *merges;
    mocl_gguf_value v;
    MOCL_TRY(get_array(s, "tokenizer.ggml.merges", MOCL_GGUF_STRING, MOCL_GGUF_STRING, SIZE_MAX, &merges));
    if (!merges) return fail(s, "tokenizer.ggml.merges", "is missing");
    s->n_merge = (size_t)merges->count;
    s->merge = mocl_calloc(s->ctx, s->n_merge, 2 * sizeof *s->merge);
    if (!s->merge) return mocl_nomem(s->ctx, s->n_merge * 2 * sizeof *s->merge);
    const unsigned char *at = merges->at;
    for (size_t i = 0; i < s->n_merge; i++) {
        at = mocl_gguf_read(&v, MOCL_GGUF_STRING, at);
        const char *space = v.text_bytes > 1 ? memchr(v.text + 1, ' ', v.text_bytes - 1) : NULL;
        size_t left = space ? (size_t)(space - v.text) : 0;
        if (left == 0 || left + 1 == v.text_bytes || mocl_utf8_check(v.text, v.text_bytes) != v.text_bytes)
            return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: merge %zu is not two tokens in UTF-8 and a space between",
                             mocl_path_tail(s->path), i);
        s->merge[2 * i] = (mocl_text){v.text, left};
        s->merge[2 * i + 1] = (mocl_text){space + 1, v.text_bytes - left - 1};
    }
    return MOCL_OK;
}

static mocl_status load_gpt2(source *s, mocl_tokenizer **out, const tok_config *config) {
    tok_bytes text = {0};
    MOCL_TRY(read_merges(s));
    s->added = mocl_calloc(s->ctx, s->n, sizeof *s->added);
    s->ordinary = mocl_calloc(s->ctx, s->n, sizeof *s->ordinary);
    if (!s->added || !s->ordinary) return mocl_nomem(s->ctx, s->n * sizeof *s->added);
    for (size_t i = 0; i < s->n; i++) {
        MOCL_TRY(check_text(s, i));
        if (!is_added(s, i)) continue;
        s->ordinary[s->n_added] = s->type[i] == USER_DEFINED;
        s->added[s->n_added++] = (int32_t)i;
    }
    const int32_t ends[] = {s->add_bos ? s->id[BOS] : -1, s->add_eos ? s->id[EOS] : -1};
    tok_recipe recipe = {.token = s->token,
                         .n_token = s->n,
                         .special = s->added,
                         .ordinary = s->ordinary,
                         .n_special = s->n_added,
                         .merge = s->merge,
                         .n_merge = s->n_merge,
                         .kind = TOK_RECIPE_PATTERNS,
                         .ends = ends,
                         .pattern = s->pre->pattern,
                         .ignore_merges = s->pre->ignore_merges};
    mocl_status st = mocl_tok_write_json(s->ctx, &recipe, &text);
    if (!st) st = mocl_tok_load_json(s->ctx, out, s->path, text.p, text.n, config);
    mocl_free(text.p);
    return st;
}

/* ---- kind "llama": the protobuf of SentencePiece ---- */

static mocl_status put_varint(source *s, tok_bytes *out, uint64_t v) {
    do {
        unsigned char c = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        MOCL_TRY(mocl_tok_bytes_add(s->ctx, out, &c, 1));
        v >>= 7;
    } while (v);
    return MOCL_OK;
}

static mocl_status put_number(source *s, tok_bytes *out, int field, int64_t v) {
    MOCL_TRY(put_varint(s, out, (uint64_t)field << 3));
    return put_varint(s, out, (uint64_t)v);
}

static mocl_status put_bytes(source *s, tok_bytes *out, int field, const char *p, size_t n) {
    MOCL_TRY(put_varint(s, out, (uint64_t)field << 3 | 2));
    MOCL_TRY(put_varint(s, out, n));
    return mocl_tok_bytes_add(s->ctx, out, p, n);
}

/* Piece number i. One that users defined is an ordinary piece here, and tokenizer_config.json has it looked for in
** texts; an unused one has a spelling and is never found. */
static mocl_status put_piece(source *s, tok_bytes *out, tok_bytes *piece, size_t i) {
    int type = s->type[i] == USER_DEFINED ? NORMAL : s->type[i] == UNUSED || !s->token[i].p ? CONTROL : s->type[i];
    char empty[32];
    mocl_text text = s->token[i];
    if (!text.p) text = (mocl_text){empty, (size_t)snprintf(empty, sizeof empty, "[EMPTY_%zu]", i)};
    unsigned char score[5] = {2 << 3 | 5};
    memcpy(score + 1, &s->score[i], 4);
    piece->n = 0;
    MOCL_TRY(put_bytes(s, piece, 1, text.p, text.n));
    MOCL_TRY(mocl_tok_bytes_add(s->ctx, piece, score, 5));
    MOCL_TRY(put_number(s, piece, 3, type));
    return put_bytes(s, out, 1, piece->p, piece->n);
}

static mocl_status put_model(source *s, tok_bytes *out, tok_bytes *part) {
    for (size_t i = 0; i < s->n; i++) MOCL_TRY(put_piece(s, out, part, i));
    part->n = 0;
    MOCL_TRY(put_number(s, part, 3, 2)); /* BPE */
    MOCL_TRY(put_number(s, part, 4, (int64_t)s->n));
    MOCL_TRY(put_number(s, part, 35, 1)); /* byte fallback */
    MOCL_TRY(put_number(s, part, 40, s->id[UNK]));
    MOCL_TRY(put_number(s, part, 41, s->id[BOS]));
    MOCL_TRY(put_number(s, part, 42, s->id[EOS]));
    MOCL_TRY(put_number(s, part, 43, -1)); /* padding */
    MOCL_TRY(put_bytes(s, out, 2, part->p, part->n));
    part->n = 0;
    MOCL_TRY(put_bytes(s, part, 1, "identity", 8));
    MOCL_TRY(put_number(s, part, 3, s->prefix)); /* a space in front */
    MOCL_TRY(put_number(s, part, 4, 0));         /* spaces are kept */
    MOCL_TRY(put_number(s, part, 5, 1));         /* and escaped */
    return put_bytes(s, out, 3, part->p, part->n);
}

static mocl_status load_llama(source *s, mocl_tokenizer **out, const tok_config *config) {
    tok_bytes model = {0}, part = {0};
    mocl_status st = put_model(s, &model, &part);
    if (!st) st = mocl_tok_load_model(s->ctx, out, s->path, model.p, model.n, config);
    mocl_free(model.p);
    mocl_free(part.p);
    return st;
}

/* ---- kind "bert": a list of tokens ---- */

static bool is_text(mocl_text t, const char *s) { return t.n == strlen(s) && memcmp(t.p, s, t.n) == 0; }

/* The tokens with a name: by their key, else by BERT's name. llama.cpp calls the token of the class BOS as well. */
static mocl_status find_bert_names(source *s) {
    static const char *const text[N_NAMED] = {
        [UNK] = "[UNK]", [SEP] = "[SEP]", [PAD] = "[PAD]", [CLS] = "[CLS]", [MASK] = "[MASK]"};
    if (s->id[CLS] < 0) s->id[CLS] = s->id[BOS];
    for (int k = UNK; k < N_NAMED; k++) {
        for (size_t i = 0; i < s->n && s->id[k] < 0; i++)
            if (s->token[i].p && is_text(s->token[i], text[k])) s->id[k] = (int32_t)i;
        if (s->id[k] < 0 && k != PAD && k != MASK)
            return mocl_fail(s->ctx, MOCL_E_FORMAT, "%s: %s is missing, and no token is spelled %s",
                             mocl_path_tail(s->path), named[k].key, text[k]);
    }
    return MOCL_OK;
}

/* whether token i stands in the file as the vocabulary has it */
static bool is_verbatim(const source *s, size_t i) {
    mocl_text t = s->token[i];
    if (s->type[i] != NORMAL || (t.n > 2 && t.p[0] == '[' && t.p[t.n - 1] == ']')) return true;
    for (int k = 0; k < N_NAMED; k++)
        if (s->id[k] == (int32_t)i) return true;
    return false;
}

/* GGUF marks the tokens that begin a word, with U+2581, and BERT those that continue one, with "##". */
static mocl_status bert_token(source *s, size_t i, char **to, mocl_text *out) {
    mocl_text t = s->token[i];
    if (!t.p) return MOCL_OK;
    MOCL_TRY(check_text(s, i));
    *out = t;
    if (is_verbatim(s, i)) return MOCL_OK;
    for (size_t k = 0; k < t.n; k++)
        if (t.p[k] >= 'A' && t.p[k] <= 'Z')
            return mocl_fail(s->ctx, MOCL_E_FORMAT,
                             "%s: token %zu is '%.*s', with a capital letter: a GGUF file does not say that texts keep "
                             "their case, and llama.cpp takes it away; use the tokenizer.json or vocab.txt of the same model",
                             mocl_path_tail(s->path), i, (int)(t.n > 60 ? 60 : t.n), t.p);
    bool begins = t.n >= 3 && memcmp(t.p, "\xe2\x96\x81", 3) == 0;
    *out = begins ? (mocl_text){t.p + 3, t.n - 3} : (mocl_text){*to, t.n + 2};
    if (begins) return MOCL_OK;
    memcpy(*to, "##", 2);
    memcpy(*to + 2, t.p, t.n);
    *to += t.n + 2;
    return MOCL_OK;
}

static mocl_status load_bert(source *s, mocl_tokenizer **out, const tok_config *config) {
    size_t bytes = 1;
    for (size_t i = 0; i < s->n; i++) bytes += s->token[i].n + 2;
    mocl_text *token = mocl_calloc(s->ctx, s->n, sizeof *token);
    char *text = mocl_alloc(s->ctx, bytes), *to = text;
    mocl_status st = token && text ? MOCL_OK : mocl_nomem(s->ctx, bytes);
    for (size_t i = 0; i < s->n && !st; i++) st = bert_token(s, i, &to, &token[i]);
    if (!st) st = mocl_tok_load_wordpiece(s->ctx, out, s->path, token, s->n, config);
    mocl_free(token);
    mocl_free(text);
    return st;
}

/* ---- the whole file ---- */

static mocl_status read_all(source *s) {
    MOCL_TRY(read_kind(s));
    MOCL_TRY(check_keys(s));
    MOCL_TRY(read_pre(s));
    MOCL_TRY(read_tokens(s));
    MOCL_TRY(read_named(s));
    if (!s->llama && s->prefix)
        return fail(s, "tokenizer.ggml.add_space_prefix",
                    s->bert ? "is true, which is not supported for tokenizer.ggml.model = bert"
                            : "is true, which is not supported for tokenizer.ggml.model = gpt2");
    return s->bert ? find_bert_names(s) : MOCL_OK;
}

mocl_status mocl_tok_load_gguf(mocl_ctx *ctx, mocl_tokenizer **out, const char *path) {
    mocl_gguf *g;
    tok_config config = {0};
    *out = NULL;
    MOCL_TRY(mocl_gguf_open(ctx, &g, path));
    source s = {.ctx = ctx, .path = path, .g = g};
    mocl_status st = read_all(&s);
    if (!st) st = make_config(&s, &config);
    if (!st)
        st = s.llama  ? load_llama(&s, out, &config)
             : s.bert ? load_bert(&s, out, &config)
                      : load_gpt2(&s, out, &config);
    mocl_tok_config_free(&config);
    void *const memory[] = {s.token, s.type, s.score, s.merge, s.added, s.ordinary};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) mocl_free(memory[i]);
    mocl_gguf_close(g);
    return st;
}
