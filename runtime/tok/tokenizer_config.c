/* tokenizer_config.c - the files of transformers beside a tokenizer: which tokens they add, and
** which of their keys change the ids.
**
** As transformers reads them: added_tokens_decoder of tokenizer_config.json says which tokens there
** are and hides the two older files; without it special_tokens_map.json overrides the names in
** tokenizer_config.json, and added_tokens.json gives ids. A named token that no file gives an id
** gets the next one.
*/
#include "tok/tokenizer_config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/file.h"
#include "io/json.h"

const char *const mocl_tok_side_name[TOK_SIDES] = {[TOK_SIDE_CONFIG] = "tokenizer_config.json",
                                                   [TOK_SIDE_MAP] = "special_tokens_map.json",
                                                   [TOK_SIDE_ADDED] = "added_tokens.json"};

/* ---- keys ---- */

/* the special tokens with a name, in the order in which new ones get their ids */
static const char *const named[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
enum { N_NAMED = sizeof named / sizeof *named };

/* lists of special tokens without a name (extra_special_tokens may also be an object) */
static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};

static const char *const honoured[] = {
    "added_tokens_decoder", "add_bos_token",   "add_eos_token",  "add_prefix_space", "legacy",
    "split_special_tokens", "tokenizer_class", "sp_model_kwargs"};

/* Keys that change neither the ids nor the text of the tokenizers that mocl reads. */
static const char *const without_effect[] = {
    /* lengths and padding, which the caller decides */
    "model_max_length", "max_len", "max_length", "padding", "padding_side", "pad_to_multiple_of",
    "pad_token_id", "pad_token_type_id", "pad_token_type", "stride", "truncation",
    "truncation_side", "truncation_strategy", "return_tensors", "return_token_type_ids",
    "return_attention_mask", "model_input_names", "bos_token_id", "eos_token_id", "unk_token_id",
    /* chats, which are templates over texts */
    "chat_template", "chat_control_tokens", "response_schema", "response_template",
    "use_default_system_prompt",
    /* where the files came from and which program wrote them */
    "name_or_path", "_name_or_path", "tokenizer_file", "vocab_file", "merges_file",
    "special_tokens_map", "special_tokens_map_file", "added_tokens_file", "tokenizer_type",
    "model_type", "processor_class", "slow_tokenizer_class", "backend", "is_local",
    "local_files_only", "files_loaded", "device_map", "from_slow", "use_fast", "trust_remote_code",
    "use_auth_token", "token", "revision", "verbose", "init_inputs", "transformers_version",
    "_commit_hash", "vocab_size", "max_position_embeddings", "torch_dtype", "dtype",
    /* of BERT's tokenizers in Python; offsets, which there are none of here */
    "do_basic_tokenize", "never_split", "wordpieces_prefix", "trim_offsets",
    /* for BERT's decoders in Python */
    "spaces_between_special_tokens", "errors",
    /* honoured for WordPiece. Decoding BPE gives the bytes that went in: transformers 5 ignores the last for BPE as
    ** well */
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "clean_up_tokenization_spaces"};

/* Keys that ask for nothing at this value: false, or an empty object or list. */
static const char *const refused[] = {
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "fix_mistral_regex",
    "auto_map"};

static bool in(const char *key, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, list[i]) == 0) return true;
    return false;
}
#define IN(key, list) in(key, list, sizeof list / sizeof *list)

/* any other name of a special token, as the tokenizers of models with images have them */
static bool is_token_name(const char *key, const json_t *v) {
    size_t n = strlen(key);
    return n > 6 && strcmp(key + n - 6, "_token") == 0 && !IN(key, named) && !IN(key, honoured) &&
           (json_is_string(v) || json_is_object(v));
}

static bool asks_nothing(const json_t *v) {
    return json_is_null(v) || json_is_false(v) || (json_is_array(v) && !json_array_size(v)) ||
           (json_is_object(v) && !json_object_size(v));
}

static mocl_status refuse(mocl_ctx *ctx, const char *path, const char *key, const json_t *v,
                          const char *cure) {
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    mocl_status st = mocl_fail(ctx, MOCL_E_FORMAT, "%s: %.80s = %.80s%s is not supported (%s)",
                               mocl_path_tail(path), key, text ? text : "?",
                               text && strlen(text) > 80 ? "..." : "", cure);
    free(text);
    return st;
}

static mocl_status check_keys(mocl_ctx *ctx, const tok_config *c, int side) {
    const char *key;
    json_t *v;
    json_object_foreach(c->root[side], key, v) {
        if (json_is_null(v) || IN(key, named) || IN(key, lists) || is_token_name(key, v)) continue;
        if (side == TOK_SIDE_MAP)
            return refuse(ctx, c->path[side], key, v, "mocl does not know this key");
        if (IN(key, honoured) || IN(key, without_effect)) continue;
        if (!IN(key, refused))
            return refuse(ctx, c->path[side], key, v,
                          "mocl does not know this key; take it out if the ids are the same "
                          "without it");
        if (!asks_nothing(v))
            return refuse(ctx, c->path[side], key, v,
                          strcmp(key, "auto_map") == 0
                              ? "the tokenizer is Python code of its own; take the key out if "
                                "tokenizer.json says the same"
                              : "false");
    }
    return MOCL_OK;
}

/* ---- reading ---- */

static char *beside(mocl_ctx *ctx, const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    char *s = mocl_alloc(ctx, n + strlen(name) + 1);
    if (!s) return NULL;
    memcpy(s, path, n);
    strcpy(s + n, name);
    return s;
}

static mocl_status read_side(mocl_ctx *ctx, tok_config *c, int side) {
    json_error_t e;
    MOCL_TRY(mocl_file_read(ctx, c->path[side], &c->data[side], &c->n[side]));
    mocl_status st =
        mocl_json_parse(ctx, &c->root[side], c->data[side], c->n[side], JSON_REJECT_DUPLICATES, &e);
    if (st == MOCL_E_FORMAT)
        return mocl_fail(ctx, MOCL_E_FORMAT, "%s:%d:%d: %s", c->path[side], e.line, e.column,
                         e.text);
    MOCL_TRY(st);
    if (json_is_object(c->root[side])) return MOCL_OK;
    return mocl_fail(ctx, MOCL_E_FORMAT, "%s: not a JSON object", c->path[side]);
}

mocl_status mocl_tok_config_load(mocl_ctx *ctx, tok_config *c, const char *path) {
    *c = (tok_config){0};
    for (int side = 0; side < TOK_SIDES; side++) {
        struct stat info;
        c->path[side] = beside(ctx, path, mocl_tok_side_name[side]);
        if (!c->path[side]) return mocl_nomem(ctx, strlen(path));
        if (stat(c->path[side], &info) == 0) MOCL_TRY(read_side(ctx, c, side));
    }
    for (int side = 0; side <= TOK_SIDE_MAP; side++)
        if (c->root[side]) MOCL_TRY(check_keys(ctx, c, side));
    return MOCL_OK;
}

void mocl_tok_config_free(tok_config *c) {
    for (int side = 0; side < TOK_SIDES; side++) {
        mocl_free(c->path[side]);
        mocl_free(c->data[side]);
        json_decref(c->root[side]); /* NULL is fine */
    }
    *c = (tok_config){0};
}

const json_t *mocl_tok_config_key(const tok_config *c, const char *key) {
    const json_t *v = c ? json_object_get(c->root[TOK_SIDE_CONFIG], key) : NULL;
    return json_is_null(v) ? NULL : v;
}

/* false where the key is absent or null */
static mocl_status flag(mocl_ctx *ctx, const tok_config *c, const char *key, bool *there,
                        bool *out) {
    const json_t *v = mocl_tok_config_key(c, key);
    *there = v != NULL;
    *out = json_is_true(v);
    if (!v || json_is_boolean(v)) return MOCL_OK;
    return refuse(ctx, c->path[TOK_SIDE_CONFIG], key, v, "true, false");
}

mocl_status mocl_tok_config_flag(mocl_ctx *ctx, const tok_config *c, const char *key, bool *there, bool *out) {
    bool value;
    MOCL_TRY(flag(ctx, c, key, there, &value));
    if (*there) *out = value;
    return MOCL_OK;
}

mocl_status mocl_tok_config_refuse(mocl_ctx *ctx, const tok_config *c, const char *key, const char *cure) {
    return refuse(ctx, c->path[TOK_SIDE_CONFIG], key, mocl_tok_config_key(c, key), cure);
}

/* ---- the class ---- */

static const struct {
    const char *model_type, *class;
} classes[] = {{"bert", "BertTokenizer"},       {"distilbert", "DistilBertTokenizer"},
               {"roberta", "RobertaTokenizer"}, {"bart", "BartTokenizer"},
               {"gpt2", "GPT2Tokenizer"},       {"qwen2", "Qwen2Tokenizer"},
               {"qwen3", "Qwen2Tokenizer"}};

static mocl_status class_of_model(mocl_ctx *ctx, const char *path, char class[TOK_CLASS_BYTES]) {
    char *data;
    size_t n;
    json_t *root = NULL;
    json_error_t e;
    MOCL_TRY(mocl_file_read(ctx, path, &data, &n));
    mocl_status st = mocl_json_parse(ctx, &root, data, n, 0, &e);
    if (st == MOCL_E_FORMAT)
        st = mocl_fail(ctx, MOCL_E_FORMAT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
    const char *type = st ? NULL : json_string_value(json_object_get(root, "model_type"));
    for (size_t i = 0; type && i < sizeof classes / sizeof *classes; i++)
        if (strcmp(type, classes[i].model_type) == 0) strcpy(class, classes[i].class);
    json_decref(root);
    mocl_free(data);
    return st;
}

mocl_status mocl_tok_config_class(mocl_ctx *ctx, const tok_config *c, char class[TOK_CLASS_BYTES]) {
    struct stat info;
    const json_t *v = mocl_tok_config_key(c, "tokenizer_class");
    class[0] = '\0';
    if (v && (!json_is_string(v) || json_string_length(v) >= TOK_CLASS_BYTES))
        return mocl_tok_config_refuse(ctx, c, "tokenizer_class", "the name of a class");
    if (v) {
        size_t n = json_string_length(v);
        strcpy(class, json_string_value(v));
        if (n > 4 && strcmp(class + n - 4, "Fast") == 0) class[n - 4] = '\0';
        return MOCL_OK;
    }
    /* a GGUF file has no config.json of its own */
    if (!c || !c->path[TOK_SIDE_CONFIG] || !c->path[TOK_SIDE_MAP]) return MOCL_OK;
    char *path = beside(ctx, c->path[TOK_SIDE_CONFIG], "config.json");
    if (!path) return mocl_nomem(ctx, strlen(c->path[TOK_SIDE_CONFIG]));
    mocl_status st = stat(path, &info) == 0 ? class_of_model(ctx, path, class) : MOCL_OK;
    mocl_free(path);
    return st;
}

/* The value of a named token and the file that has it; NULL with *null where it is null. */
static const json_t *named_token(const tok_config *c, const char *key, int *side, bool *null) {
    const json_t *v = NULL;
    *null = false;
    *side = TOK_SIDE_CONFIG;
    if (!mocl_tok_config_key(c, "added_tokens_decoder")) {
        v = json_object_get(c->root[TOK_SIDE_MAP], key);
        if (v) *side = TOK_SIDE_MAP;
    }
    if (!v) v = json_object_get(c->root[TOK_SIDE_CONFIG], key);
    *null = json_is_null(v);
    return *null ? NULL : v;
}

mocl_status mocl_tok_config_token(mocl_ctx *ctx, const tok_config *c, const char *key, const char *def,
                                  mocl_text *out) {
    int side;
    bool null = false;
    const json_t *v = c ? named_token(c, key, &side, &null) : NULL;
    const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
    *out = null ? (mocl_text){NULL, 0} : (mocl_text){def, strlen(def)};
    if (!v) return MOCL_OK;
    if (!json_is_string(content) || json_string_length(content) == 0)
        return refuse(ctx, c->path[side], key, v, "a token is a string or an object with its content");
    *out = (mocl_text){json_string_value(content), json_string_length(content)};
    return MOCL_OK;
}

/* ---- added tokens ---- */

typedef struct tokens {
    mocl_ctx *ctx;
    const tok_config *c;
    mocl_tokenizer *t;
    int side; /* the file that is being read */
} tokens;

/* one token: a string, or an object with its content and flags */
static mocl_status read_token(tokens *k, const char *key, const json_t *v, bool special,
                              tok_added *a) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
    const char *path = k->c->path[k->side], *field;
    const json_t *content = json_is_object(v) ? json_object_get(v, "content") : v;
    json_t *value;
    *a = (tok_added){.special = special, .in_text = true};
    if (!json_is_string(content) || json_string_length(content) == 0)
        return refuse(k->ctx, path, key, v, "a token is a string or an object with its content");
    a->content = (mocl_text){json_string_value(content), json_string_length(content)};
    a->match = a->content;
    bool *out[] = {&a->single_word, &a->lstrip, &a->rstrip, &a->normalized, &a->special};
    json_object_foreach((json_t *)(json_is_object(v) ? v : NULL), field, value) {
        if (strcmp(field, "content") == 0 || strcmp(field, "__type") == 0) continue;
        if (strcmp(field, "id") == 0) continue;
        size_t i = 0;
        while (i < 5 && strcmp(field, flags[i]) != 0) i++;
        if (i == 5 || !(json_is_boolean(value) || json_is_null(value)))
            return refuse(k->ctx, path, field, value, "a flag of an added token");
        if (!json_is_null(value)) *out[i] = json_is_true(value);
    }
    const json_t *normalized = json_is_object(v) ? json_object_get(v, "normalized") : NULL;
    if (!json_is_boolean(normalized)) a->normalized = !a->special;
    return MOCL_OK;
}

static tok_added *find_added(mocl_tokenizer *t, mocl_text s) {
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].content.n == s.n && memcmp(t->added[i].content.p, s.p, s.n) == 0)
            return &t->added[i];
    return NULL;
}

static mocl_status conflict(tokens *k, const tok_added *a, long long id, long long other,
                            const char *why) {
    return mocl_fail(k->ctx, MOCL_E_FORMAT, "%s: the token '%.*s' has the id %lld here and %lld %s",
                     mocl_path_tail(k->c->path[k->side]),
                     (int)(a->content.n > 60 ? 60 : a->content.n), a->content.p, id, other, why);
}

/* A token with an id of its own, -1 = the next one. Flags of a token that is there are replaced.
 */
static mocl_status put(tokens *k, const tok_added *a, int64_t id) {
    mocl_tokenizer *t = k->t;
    tok_added *there = find_added(t, a->content);
    uint32_t index;
    tok_added new = *a;
    /* a SentencePiece model's own steps are not for the tokens beside it */
    if (t->source_kind == TOK_SOURCE_MODEL) new.normalized = false;
    if (there) {
        if (id >= 0 && there->id != id)
            return conflict(k, a, id, there->id, "in the tokenizer's file: make them equal");
        new.id = there->id;
        new.content = there->content;
        new.match = there->match;
        new.special |= there->special; /* what a file calls special stays so, as in the original */
        *there = new;
        return MOCL_OK;
    }
    if (mocl_tok_map_find(&t->vocab, a->content.p, a->content.n, &index)) {
        if (id >= 0 && t->index_id[index] != id)
            return conflict(k, a, id, t->index_id[index], "in the vocabulary: make them equal");
        new.id = t->index_id[index];
    } else if (id >= 0 && id != t->n_vocab) {
        return conflict(k, a, id, t->n_vocab,
                        "in transformers, where it is the next free one: make the ids contiguous");
    } else {
        new.id = t->n_vocab;
    }
    return mocl_tok_add_added(k->ctx, t, k->c->path[k->side], &new);
}

/* A token that a key calls special; listed: in a list, which overrides no flag that a file states.
*Of
** two keys that name the same new token the later one says its flags. */
static mocl_status put_special(tokens *k, const char *key, const json_t *v, bool listed) {
    tok_added a;
    MOCL_TRY(read_token(k, key, v, true, &a));
    a.special = true;
    a.origin = TOK_BY_NAME;
    tok_added *there = find_added(k->t, a.content);
    if (!there || there->origin == TOK_BY_NAME) return put(k, &a, -1);
    there->in_text = true;
    if (there->origin == TOK_BY_ID) there->normalized = false;
    if (there->origin == TOK_BY_ID || !listed) there->special = true;
    return MOCL_OK;
}

typedef struct numbered {
    int64_t id;
    const char *key;
    const json_t *token;
} numbered;

static int by_id(const void *p, const void *q) {
    const numbered *a = p, *b = q;
    return a->id < b->id ? -1 : a->id > b->id;
}

static bool parse_id(const char *s, int64_t *id) {
    *id = 0;
    if (!*s || strlen(s) > 7) return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return false;
        *id = *id * 10 + (*s - '0');
    }
    return *id <= TOK_MAX_ID;
}

/* added_tokens_decoder ({"id": token}) or added_tokens.json ({"content": id}), by id */
static mocl_status put_numbered(tokens *k, const json_t *o, bool decoder) {
    const char *key, *path = k->c->path[k->side];
    json_t *v;
    size_t n = 0;
    if (!json_is_object(o))
        return refuse(k->ctx, path, "added_tokens_decoder", o, "an object of ids and tokens");
    numbered *list = mocl_calloc(k->ctx, json_object_size(o) + 1, sizeof *list);
    if (!list) return mocl_nomem(k->ctx, json_object_size(o) * sizeof *list);
    mocl_status st = MOCL_OK;
    json_object_foreach((json_t *)o, key, v) {
        numbered *e = &list[n++];
        *e = (numbered){.key = key, .token = v};
        bool ok = decoder ? parse_id(key, &e->id) : json_is_integer(v);
        if (ok && !decoder) e->id = json_integer_value(v);
        if (!st && (!ok || e->id < 0 || e->id > TOK_MAX_ID))
            st = refuse(k->ctx, path, key, v, "an id is an integer from 0 to 4194303");
    }
    if (!st) qsort(list, n, sizeof *list, by_id);
    for (size_t i = 0; i < n && !st; i++) {
        tok_added a = {.content = {list[i].key, strlen(list[i].key)},
                       .normalized = true,
                       .in_text = true,
                       .origin = TOK_BY_ID};
        a.match = a.content;
        if (decoder) st = read_token(k, list[i].key, list[i].token, false, &a);
        if (!st && a.content.n == 0)
            st = refuse(k->ctx, path, list[i].key, list[i].token, "the token is empty");
        if (!st) st = put(k, &a, list[i].id);
    }
    mocl_free(list);
    return st;
}

/* the tokens of one file that have a name beside the usual seven, then the lists */
static mocl_status put_others(tokens *k) {
    const json_t *root = k->c->root[k->side];
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)root, key, v) {
        if (is_token_name(key, v)) MOCL_TRY(put_special(k, key, v, false));
    }
    for (size_t i = 0; i < 2; i++) {
        const json_t *list = json_object_get(root, lists[i]);
        if (!list || json_is_null(list)) continue;
        if (!json_is_array(list) && !(i == 1 && json_is_object(list)))
            return refuse(k->ctx, k->c->path[k->side], lists[i], list, "a list of tokens");
        for (size_t j = 0; j < json_array_size(list); j++)
            MOCL_TRY(put_special(k, lists[i], json_array_get(list, j), true));
        json_object_foreach((json_t *)(json_is_object(list) ? list : NULL), key, v) {
            if (!json_is_null(v)) MOCL_TRY(put_special(k, key, v, false));
        }
    }
    return MOCL_OK;
}

mocl_status mocl_tok_config_tokens(mocl_ctx *ctx, const tok_config *c, mocl_tokenizer *t) {
    tokens k = {ctx, c, t, TOK_SIDE_CONFIG};
    const json_t *decoder = mocl_tok_config_key(c, "added_tokens_decoder");
    if (decoder) {
        MOCL_TRY(put_numbered(&k, decoder, true));
    } else if (c->root[TOK_SIDE_ADDED]) {
        k.side = TOK_SIDE_ADDED;
        MOCL_TRY(put_numbered(&k, c->root[TOK_SIDE_ADDED], false));
    }
    for (size_t i = 0; i < N_NAMED; i++) {
        bool null;
        const json_t *v = named_token(c, named[i], &k.side, &null);
        if (v) MOCL_TRY(put_special(&k, named[i], v, false));
    }
    for (k.side = TOK_SIDE_CONFIG; k.side <= TOK_SIDE_MAP; k.side++)
        if (k.side == TOK_SIDE_CONFIG || !decoder) MOCL_TRY(put_others(&k));
    return MOCL_OK;
}

/* ---- after the vocabulary ---- */

static mocl_status set_end(mocl_ctx *ctx, const tok_config *c, mocl_tokenizer *t, const char *key,
                           int32_t *id) {
    bool null;
    tokens k = {ctx, c, t, 0};
    tok_added a;
    const json_t *v = named_token(c, key, &k.side, &null);
    if (null) *id = -1;
    if (!v) return MOCL_OK;
    MOCL_TRY(read_token(&k, key, v, true, &a));
    *id = mocl_tokenizer_token_to_id(t, a.content.p, a.content.n);
    return MOCL_OK;
}

/* Whether a space goes in front is the tokenizer's own step, which transformers rebuilds in some
** classes and versions from this key: where they differ nobody can say which is meant. */
static mocl_status check_prefix(mocl_ctx *ctx, const tok_config *c, const mocl_tokenizer *t) {
    bool there, prefix;
    MOCL_TRY(flag(ctx, c, "add_prefix_space", &there, &prefix));
    if (!there || t->source_kind != TOK_SOURCE_JSON || prefix == mocl_tok_prefixes(t))
        return MOCL_OK;
    return refuse(ctx, c->path[TOK_SIDE_CONFIG], "add_prefix_space",
                  mocl_tok_config_key(c, "add_prefix_space"),
                  prefix ? "the tokenizer's file puts no space in front: false, or take it out"
                         : "the tokenizer's file puts a space in front: true, or take it out");
}

mocl_status mocl_tok_config_finish(mocl_ctx *ctx, const tok_config *c, mocl_tokenizer *t) {
    bool bos_there, eos_there, bos, eos, there, clean;
    MOCL_TRY(set_end(ctx, c, t, "bos_token", &t->bos));
    MOCL_TRY(set_end(ctx, c, t, "eos_token", &t->eos));
    MOCL_TRY(check_prefix(ctx, c, t));
    MOCL_TRY(flag(ctx, c, "split_special_tokens", &there, &t->split_special));
    MOCL_TRY(flag(ctx, c, "clean_up_tokenization_spaces", &there, &clean));
    if (clean && t->kind == TOK_KIND_WORDPIECE) MOCL_TRY(mocl_tok_clean_up(ctx, t));
    MOCL_TRY(flag(ctx, c, "add_bos_token", &bos_there, &bos));
    MOCL_TRY(flag(ctx, c, "add_eos_token", &eos_there, &eos));
    /* the post-processor of a tokenizer.json goes before these keys */
    if ((bos_there || eos_there) && !t->template_of_file) {
        if (!bos_there) bos = t->kind == TOK_KIND_SENTENCEPIECE;
        MOCL_TRY(mocl_tok_set_template(ctx, t, bos, eos));
    }
    for (int side = 0; side < TOK_SIDES; side++) {
        t->side_there[side] = c->root[side] != NULL;
        if (c->root[side])
            MOCL_TRY(mocl_tok_bytes_add(ctx, &t->side[side], c->data[side], c->n[side]));
    }
    return MOCL_OK;
}

/* ---- BERT ---- */

bool mocl_tok_class_is_bert(const char *class) {
    return strcmp(class, "BertTokenizer") == 0 || strcmp(class, "DistilBertTokenizer") == 0;
}

mocl_status mocl_tok_config_bert(mocl_ctx *ctx, const tok_config *config, tok_bert *keys) {
    static const char *const key[] = {"do_lower_case", "tokenize_chinese_chars", "strip_accents"};
    char class[TOK_CLASS_BYTES];
    bool value[3] = {true, true, false}, there[3];
    if (!config) return MOCL_OK;
    MOCL_TRY(mocl_tok_config_class(ctx, config, class));
    for (int i = 0; i < 3; i++) MOCL_TRY(mocl_tok_config_flag(ctx, config, key[i], &there[i], &value[i]));
    if (mocl_tok_class_is_bert(class)) { /* these classes have defaults, whatever a tokenizer.json says */
        *keys = (tok_bert){true, value[0], value[1], there[2] ? value[2] : -1};
        return MOCL_OK;
    }
    bool file[3] = {keys->lower, keys->apart, keys->strip < 0 ? keys->lower : keys->strip};
    for (int i = 0; i < 3; i++)
        if (there[i] && value[i] != file[i])
            return mocl_tok_config_refuse(ctx, config, key[i],
                                          "the tokenizer's file says the opposite: make them equal");
    return MOCL_OK;
}
