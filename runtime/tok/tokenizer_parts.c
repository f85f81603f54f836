/* tokenizer_parts.c - the components of a tokenizer.json: normalizer, pre-tokenizer, decoder and
** post-processor. Each one that is not listed in docs/tokenizer.md is refused by name. */
#include <string.h>

#include "tok/tokenizer_json.h"

/* ---- reading objects ---- */

static bool in_list(const char *word, const char *list) {
    size_t n = strlen(word);
    for (const char *p = list; n && (p = strstr(p, word)) != NULL; p += n)
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0')) return true;
    return false;
}

mocl_status mocl_tok_json_object(tok_reader *r, const json_t *o, const char *what,
                                 const char *keys) {
    if (!json_is_object(o))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s is not an object", r->path, what);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)o, key, value) {
        if (!json_is_null(value) && !in_list(key, keys))
            return mocl_fail(r->ctx, MOCL_E_FORMAT,
                             "%s: %s has a field '%.60s' that is not supported", r->path, what,
                             key);
    }
    return MOCL_OK;
}

mocl_status mocl_tok_json_bool(tok_reader *r, const json_t *o, const char *what, const char *key,
                               bool def, bool *out) {
    const json_t *v = json_object_get(o, key);
    *out = def;
    if (!v || json_is_null(v)) return MOCL_OK;
    if (!json_is_boolean(v))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: '%s' is not true or false", r->path, what,
                         key);
    *out = json_is_true(v);
    return MOCL_OK;
}

mocl_status mocl_tok_json_text(tok_reader *r, const json_t *o, const char *what, const char *key,
                               mocl_text *out) {
    const json_t *v = json_object_get(o, key);
    *out = (mocl_text){NULL, 0};
    if (!v || json_is_null(v)) return MOCL_OK;
    if (!json_is_string(v))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: '%s' is not a string", r->path, what, key);
    *out = (mocl_text){json_string_value(v), json_string_length(v)};
    return MOCL_OK;
}

static mocl_status need_text(tok_reader *r, const json_t *o, const char *what, const char *key,
                             mocl_text *out) {
    MOCL_TRY(mocl_tok_json_text(r, o, what, key, out));
    if (!out->p) return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s has no '%s'", r->path, what, key);
    return MOCL_OK;
}

static mocl_status type_of(tok_reader *r, const json_t *o, const char *what, const char **type) {
    mocl_text text;
    if (!json_is_object(o))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: the %s is not an object", r->path, what);
    MOCL_TRY(need_text(r, o, what, "type", &text));
    *type = text.p;
    return MOCL_OK;
}

static mocl_status unknown(tok_reader *r, const char *what, const char *type) {
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s '%.60s' is not supported", r->path, what, type);
}

/* the elements of a Sequence under `key`; NULL with a message if there is no such array */
static mocl_status list_of(tok_reader *r, const json_t *o, const char *what, const char *key,
                           const json_t **list) {
    *list = json_object_get(o, key);
    if (json_is_array(*list)) return MOCL_OK;
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: the Sequence of a %s has no array '%s'", r->path,
                     what, key);
}

static mocl_status put(tok_reader *r, tok_bytes *b, mocl_text s) {
    return mocl_tok_bytes_add(r->ctx, b, s.p, s.n);
}

/* {"String": s} or {"Regex": s} into the step */
static mocl_status read_pattern(tok_reader *r, const json_t *o, const char *what, tok_step *step) {
    mocl_text s;
    const json_t *pattern = json_object_get(o, "pattern");
    MOCL_TRY(mocl_tok_json_object(r, pattern, "a pattern", "String Regex"));
    MOCL_TRY(mocl_tok_json_text(r, pattern, what, "String", &s));
    if (s.p) {
        if (s.n == 0)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s has an empty pattern", r->path, what);
        return put(r, &step->pattern, s);
    }
    MOCL_TRY(need_text(r, pattern, what, "Regex", &s));
    if (mocl_tok_step_compile(r->ctx, step, s.p, s.n) == MOCL_OK) return MOCL_OK;
    char why[sizeof r->ctx->message];
    memcpy(why, r->ctx->message, sizeof why);
    return mocl_fail(r->ctx, r->ctx->status, "%s: %s: %s", r->path, what, why);
}

static mocl_status add_replace(tok_reader *r, const json_t *o, const char *what, tok_steps *steps) {
    tok_step *step;
    mocl_text s;
    MOCL_TRY(mocl_tok_json_object(r, o, what, "type pattern content"));
    MOCL_TRY(mocl_tok_steps_add(r->ctx, steps, TOK_REPLACE, &step));
    MOCL_TRY(read_pattern(r, o, what, step));
    MOCL_TRY(need_text(r, o, what, "content", &s));
    return put(r, &step->content, s);
}

/* ---- normalizer ---- */

/* With the keys of tokenizer_config.json, which go before the file's in the classes of BERT. */
static mocl_status read_bert_normalizer(tok_reader *r, const json_t *o) {
    const char *what = "BertNormalizer";
    const json_t *accents = json_object_get(o, "strip_accents");
    bool clean;
    tok_bert *keys = &r->t->bert;
    tok_step *step;
    MOCL_TRY(mocl_tok_json_object(r, o, what, "type clean_text handle_chinese_chars strip_accents lowercase"));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "clean_text", true, &clean));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "handle_chinese_chars", true, &keys->apart));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "lowercase", true, &keys->lower));
    if (accents && !json_is_null(accents) && !json_is_boolean(accents))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: 'strip_accents' is not true or false", r->path, what);
    keys->strip = !accents || json_is_null(accents) ? -1 : json_is_true(accents);
    MOCL_TRY(mocl_tok_config_bert(r->ctx, r->config, keys));
    if (clean || keys->apart) {
        MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->normalizer, TOK_BERT_CLEAN, &step));
        step->flag = clean;
        step->stop = keys->apart;
    }
    if (keys->strip < 0 ? keys->lower : keys->strip) {
        MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->normalizer, TOK_NFD, &step));
        MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->normalizer, TOK_BERT_MARKS, &step));
    }
    return keys->lower ? mocl_tok_steps_add(r->ctx, &r->t->normalizer, TOK_LOWERCASE, &step) : MOCL_OK;
}

mocl_status mocl_tok_read_normalizer(tok_reader *r, const json_t *o) {
    static const struct {
        const char *type;
        tok_step_kind kind;
    } plain[] = {{"NFC", TOK_NFC},
                 {"NFD", TOK_NFD},
                 {"NFKC", TOK_NFKC},
                 {"NFKD", TOK_NFKD},
                 {"Lowercase", TOK_LOWERCASE},
                 {"StripAccents", TOK_ACCENTS}};
    const char *what = "normalizer", *type;
    tok_steps *steps = &r->t->normalizer;
    tok_step *step;
    if (!o || json_is_null(o)) return MOCL_OK;
    MOCL_TRY(type_of(r, o, what, &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list;
        MOCL_TRY(mocl_tok_json_object(r, o, what, "type normalizers"));
        MOCL_TRY(list_of(r, o, what, "normalizers", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            MOCL_TRY(mocl_tok_read_normalizer(r, json_array_get(list, i)));
        return MOCL_OK;
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(type, plain[i].type) != 0) continue;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type"));
        return mocl_tok_steps_add(r->ctx, steps, plain[i].kind, &step);
    }
    if (strcmp(type, "BertNormalizer") == 0) return read_bert_normalizer(r, o);
    if (strcmp(type, "Strip") == 0) {
        bool left, right;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type strip_left strip_right"));
        MOCL_TRY(mocl_tok_json_bool(r, o, type, "strip_left", false, &left));
        MOCL_TRY(mocl_tok_json_bool(r, o, type, "strip_right", false, &right));
        MOCL_TRY(mocl_tok_steps_add(r->ctx, steps, TOK_TRIM, &step));
        step->start = left;
        step->stop = right;
        return MOCL_OK;
    }
    if (strcmp(type, "Replace") == 0) return add_replace(r, o, "normalizer Replace", steps);
    if (strcmp(type, "Prepend") == 0) {
        mocl_text s;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type prepend"));
        MOCL_TRY(need_text(r, o, type, "prepend", &s));
        MOCL_TRY(mocl_tok_steps_add(r->ctx, steps, TOK_PREPEND, &step));
        return put(r, &step->content, s);
    }
    return unknown(r, what, type);
}

/* ---- spaces ---- */

/* Metaspace of a pre-tokenizer or a decoder. add_prefix_space and str_rep are of older files: the
** first must agree with the scheme, as the library of Hugging Face demands, the second is unused. */
static mocl_status read_metaspace(tok_reader *r, const json_t *o, tok_steps *steps) {
    static const char *const names[] = {
        [TOK_ALWAYS] = "always", [TOK_FIRST] = "first", [TOK_NEVER] = "never"};
    const char *what = "Metaspace";
    tok_step *step;
    mocl_text replacement, scheme;
    uint32_t c;
    bool prefix;
    MOCL_TRY(mocl_tok_json_object(r, o, what,
                                  "type replacement prepend_scheme split add_prefix_space str_rep"));
    MOCL_TRY(need_text(r, o, what, "replacement", &replacement));
    if (replacement.n == 0 ||
        mocl_tok_utf8(replacement.p, replacement.n, &c) != (int)replacement.n)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: Metaspace: 'replacement' is not one character",
                         r->path);
    MOCL_TRY(mocl_tok_steps_add(r->ctx, steps, TOK_METASPACE, &step));
    MOCL_TRY(put(r, &step->content, replacement));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "split", true, &step->flag));
    MOCL_TRY(mocl_tok_json_bool(r, o, what, "add_prefix_space", true, &prefix));
    MOCL_TRY(mocl_tok_json_text(r, o, what, "prepend_scheme", &scheme));
    int i = scheme.p ? 0 : prefix ? TOK_ALWAYS : TOK_NEVER;
    while (scheme.p && i <= TOK_NEVER && strcmp(scheme.p, names[i]) != 0) i++;
    if (i > TOK_NEVER) return unknown(r, "prepend_scheme of Metaspace", scheme.p);
    if (!prefix && i != TOK_NEVER)
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: Metaspace: add_prefix_space is false and prepend_scheme is '%s'",
                         r->path, names[i]);
    step->scheme = (tok_scheme)i;
    return MOCL_OK;
}

/* ---- pre-tokenizer ---- */

static mocl_status read_byte_level(tok_reader *r, const json_t *o) {
    bool prefix, regex;
    tok_step *step;
    MOCL_TRY(
        mocl_tok_json_object(r, o, "ByteLevel", "type add_prefix_space trim_offsets use_regex"));
    MOCL_TRY(mocl_tok_json_bool(r, o, "ByteLevel", "add_prefix_space", true, &prefix));
    MOCL_TRY(mocl_tok_json_bool(r, o, "ByteLevel", "use_regex", true, &regex));
    if (r->t->kind == TOK_KIND_WORDPIECE)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: pre-tokenizer ByteLevel with a WordPiece model is not supported",
                         r->path);
    r->t->kind = TOK_KIND_BYTE_LEVEL;
    if (prefix) MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->splitter, TOK_PREFIX_SPACE, &step));
    if (!regex) return MOCL_OK;
    MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->splitter, TOK_SPLIT, &step));
    step->behavior = TOK_ISOLATED;
    return mocl_tok_step_compile(r->ctx, step, mocl_tok_gpt2_pattern,
                                 strlen(mocl_tok_gpt2_pattern));
}

static mocl_status read_split(tok_reader *r, const json_t *o) {
    static const char *const names[] = {[TOK_REMOVED] = "Removed",
                                        [TOK_ISOLATED] = "Isolated",
                                        [TOK_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [TOK_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [TOK_CONTIGUOUS] = "Contiguous"};
    tok_step *step;
    mocl_text behavior;
    MOCL_TRY(mocl_tok_json_object(r, o, "Split", "type pattern behavior invert"));
    MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->splitter, TOK_SPLIT, &step));
    MOCL_TRY(read_pattern(r, o, "pre-tokenizer Split", step));
    mocl_text regex;
    MOCL_TRY(mocl_tok_json_text(r, json_object_get(o, "pattern"), "Split", "Regex", &regex));
    if (regex.p && strcmp(regex.p, mocl_tok_own_pattern) == 0) r->t->own = true;
    MOCL_TRY(mocl_tok_json_bool(r, o, "Split", "invert", false, &step->flag));
    MOCL_TRY(need_text(r, o, "Split", "behavior", &behavior));
    for (int i = 0; i <= TOK_CONTIGUOUS; i++) {
        if (strcmp(behavior.p, names[i]) != 0) continue;
        step->behavior = (tok_behavior)i;
        return MOCL_OK;
    }
    return unknown(r, "behavior of Split", behavior.p);
}

/* pre-tokenizers without fields */
static const struct {
    const char *type;
    tok_step_kind kind;
} plain_splits[] = {{"BertPreTokenizer", TOK_BERT_SPLIT},
                    {"WhitespaceSplit", TOK_WHITESPACE_SPLIT},
                    {"Whitespace", TOK_WORDS}};

static mocl_status read_delimiter(tok_reader *r, const json_t *o) {
    const char *what = "CharDelimiterSplit";
    tok_step *step;
    mocl_text s;
    uint32_t c;
    MOCL_TRY(mocl_tok_json_object(r, o, what, "type delimiter"));
    MOCL_TRY(need_text(r, o, what, "delimiter", &s));
    if (s.n == 0 || mocl_tok_utf8(s.p, s.n, &c) != (int)s.n)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: 'delimiter' is not one character", r->path, what);
    MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->splitter, TOK_SPLIT, &step));
    step->behavior = TOK_REMOVED;
    return put(r, &step->pattern, s);
}

mocl_status mocl_tok_read_pre_tokenizer(tok_reader *r, const json_t *o) {
    const char *what = "pre-tokenizer", *type;
    if (!o || json_is_null(o)) return MOCL_OK;
    MOCL_TRY(type_of(r, o, what, &type));
    if (r->t->kind == TOK_KIND_BYTE_LEVEL)
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: pre-tokenizer '%.60s' after ByteLevel is not supported", r->path,
                         type);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list;
        MOCL_TRY(mocl_tok_json_object(r, o, what, "type pretokenizers"));
        MOCL_TRY(list_of(r, o, what, "pretokenizers", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            MOCL_TRY(mocl_tok_read_pre_tokenizer(r, json_array_get(list, i)));
        return MOCL_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, o);
    if (strcmp(type, "Split") == 0) return read_split(r, o);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(r, o, &r->t->splitter);
    if (strcmp(type, "CharDelimiterSplit") == 0) return read_delimiter(r, o);
    for (size_t i = 0; i < sizeof plain_splits / sizeof *plain_splits; i++) {
        tok_step *step;
        if (strcmp(type, plain_splits[i].type) != 0) continue;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type"));
        return mocl_tok_steps_add(r->ctx, &r->t->splitter, plain_splits[i].kind, &step);
    }
    if (strcmp(type, "Punctuation") == 0) {
        tok_step *step;
        mocl_text behavior;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type behavior"));
        MOCL_TRY(mocl_tok_json_text(r, o, type, "behavior", &behavior));
        if (behavior.p && strcmp(behavior.p, "Isolated") != 0) return unknown(r, "behavior of Punctuation", behavior.p);
        return mocl_tok_steps_add(r->ctx, &r->t->splitter, TOK_PUNCTUATION, &step);
    }
    if (strcmp(type, "Digits") == 0) {
        tok_step *step;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type individual_digits"));
        MOCL_TRY(mocl_tok_steps_add(r->ctx, &r->t->splitter, TOK_DIGITS, &step));
        return mocl_tok_json_bool(r, o, type, "individual_digits", false, &step->flag);
    }
    return unknown(r, what, type);
}

/* ---- decoder ---- */

static mocl_status read_strip(tok_reader *r, const json_t *o, tok_steps *steps) {
    tok_step *step;
    mocl_text s;
    uint32_t c;
    const json_t *start = json_object_get(o, "start"), *stop = json_object_get(o, "stop");
    MOCL_TRY(mocl_tok_json_object(r, o, "decoder Strip", "type content start stop"));
    MOCL_TRY(need_text(r, o, "decoder Strip", "content", &s));
    if (s.n == 0 || mocl_tok_utf8(s.p, s.n, &c) != (int)s.n)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: decoder Strip: 'content' is not one character",
                         r->path);
    if (!json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
        json_integer_value(stop) < 0 || json_integer_value(start) > INT32_MAX ||
        json_integer_value(stop) > INT32_MAX)
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: decoder Strip: 'start' and 'stop' must be counts", r->path);
    MOCL_TRY(mocl_tok_steps_add(r->ctx, steps, TOK_STRIP, &step));
    step->start = (int32_t)json_integer_value(start);
    step->stop = (int32_t)json_integer_value(stop);
    return put(r, &step->content, s);
}

/* *steps is where the next step goes: on each token until Fuse, then on the whole text */
static mocl_status read_decoder(tok_reader *r, const json_t *o, tok_steps **steps) {
    const char *what = "decoder", *type;
    tok_step *step;
    bool whole = *steps == &r->t->whole;
    MOCL_TRY(type_of(r, o, what, &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list;
        MOCL_TRY(mocl_tok_json_object(r, o, what, "type decoders"));
        MOCL_TRY(list_of(r, o, what, "decoders", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            MOCL_TRY(read_decoder(r, json_array_get(list, i), steps));
        return MOCL_OK;
    }
    if (strcmp(type, "Replace") == 0) return add_replace(r, o, "decoder Replace", *steps);
    if (strcmp(type, "Strip") == 0) return read_strip(r, o, *steps);
    if (strcmp(type, "Fuse") == 0) {
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type"));
        *steps = &r->t->whole;
        return MOCL_OK;
    }
    bool byte_level = strcmp(type, "ByteLevel") == 0, metaspace = strcmp(type, "Metaspace") == 0;
    bool wordpiece = strcmp(type, "WordPiece") == 0;
    if (!byte_level && !metaspace && !wordpiece && strcmp(type, "ByteFallback") != 0)
        return unknown(r, what, type);
    if (whole)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: decoder '%.60s' after Fuse is not supported",
                         r->path, type);
    if (metaspace) {
        MOCL_TRY(read_metaspace(r, o, *steps));
        if ((*steps)->p[(*steps)->n - 1].scheme != TOK_NEVER) r->t->first_differs = true;
        return MOCL_OK;
    }
    if (wordpiece) {
        mocl_text prefix;
        MOCL_TRY(mocl_tok_json_object(r, o, type, "type prefix cleanup"));
        MOCL_TRY(need_text(r, o, "decoder WordPiece", "prefix", &prefix));
        MOCL_TRY(mocl_tok_steps_add(r->ctx, *steps, TOK_WORDPIECE, &step));
        MOCL_TRY(mocl_tok_json_bool(r, o, "decoder WordPiece", "cleanup", true, &step->flag));
        r->t->first_differs = true;
        return put(r, &step->content, prefix);
    }
    MOCL_TRY(mocl_tok_json_object(
        r, o, type, byte_level ? "type add_prefix_space trim_offsets use_regex" : "type"));
    return mocl_tok_steps_add(r->ctx, *steps, byte_level ? TOK_BYTE_LEVEL : TOK_BYTE_FALLBACK,
                              &step);
}

mocl_status mocl_tok_read_decoder(tok_reader *r, const json_t *o) {
    tok_steps *steps = &r->t->decoder;
    r->t->join_with_space = !o || json_is_null(o);
    return r->t->join_with_space ? MOCL_OK : read_decoder(r, o, &steps);
}

/* ---- post-processor ---- */

static mocl_status add_part(tok_reader *r, bool pair, json_int_t id, json_int_t type) {
    if (type < 0 || type > INT32_MAX)
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: the post-processor has the type id %lld", r->path,
                         (long long)type);
    if (id < TOK_TEMPLATE_B || id >= r->t->n_vocab)
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: the post-processor adds id %lld, vocabulary has %d", r->path,
                         (long long)id, r->t->n_vocab);
    return mocl_tok_template_add(r->ctx, r->t, pair, (int32_t)id, (int32_t)type);
}

/* one element of a template: {"SpecialToken": {"id": "<s>"}} or {"Sequence": {"id": "A"}} */
static mocl_status read_part(tok_reader *r, const json_t *o, const json_t *specials, bool pair) {
    const char *what = "TemplateProcessing";
    mocl_text name;
    MOCL_TRY(mocl_tok_json_object(r, o, what, "SpecialToken Sequence"));
    const json_t *sequence = json_object_get(o, "Sequence");
    const json_t *part = sequence ? sequence : json_object_get(o, "SpecialToken");
    MOCL_TRY(mocl_tok_json_object(r, part, what, "id type_id"));
    MOCL_TRY(need_text(r, part, what, "id", &name));
    const json_t *given = json_object_get(part, "type_id");
    json_int_t type = json_integer_value(given); /* 0 if absent */
    if (given && !json_is_integer(given))
        return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: 'type_id' is not a count", r->path, what);
    if (sequence) {
        if (strcmp(name.p, "A") == 0) return add_part(r, pair, TOK_TEMPLATE_A, type);
        if (strcmp(name.p, "B") == 0 && pair) return add_part(r, pair, TOK_TEMPLATE_B, type);
        return unknown(r, "sequence in a template", name.p);
    }
    const json_t *ids = json_object_get(json_object_get(specials, name.p), "ids");
    if (!json_is_array(ids)) return unknown(r, "special token in a template", name.p);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: an id is not a count", r->path, what);
        MOCL_TRY(add_part(r, pair, json_integer_value(id), type));
    }
    return MOCL_OK;
}

static mocl_status read_template(tok_reader *r, const json_t *o) {
    const char *what = "TemplateProcessing";
    MOCL_TRY(mocl_tok_json_object(r, o, what, "type single pair special_tokens"));
    for (int pair = 0; pair < 2; pair++) {
        const json_t *list = json_object_get(o, pair ? "pair" : "single");
        if (!json_is_array(list))
            return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s has no array '%s'", r->path, what,
                             pair ? "pair" : "single");
        for (size_t i = 0; i < json_array_size(list); i++)
            MOCL_TRY(
                read_part(r, json_array_get(list, i), json_object_get(o, "special_tokens"), pair));
    }
    return MOCL_OK;
}

/* ["</s>", 2] */
static mocl_status named_id(tok_reader *r, const json_t *o, const char *type, const char *key,
                            json_int_t *id) {
    const json_t *v = json_array_get(json_object_get(o, key), 1);
    *id = json_integer_value(v);
    if (json_is_integer(v) && *id >= 0) return MOCL_OK;
    return mocl_fail(r->ctx, MOCL_E_FORMAT, "%s: %s: '%s' is not [token, id]", r->path, type, key);
}

/* RoBERTa puts its separator twice between two texts and calls all of it the first; BERT puts it once. */
static mocl_status read_ends(tok_reader *r, const json_t *o, const char *type, bool twice) {
    json_int_t cls, sep;
    MOCL_TRY(mocl_tok_json_object(
        r, o, type, twice ? "type sep cls trim_offsets add_prefix_space" : "type sep cls"));
    MOCL_TRY(named_id(r, o, type, "cls", &cls));
    MOCL_TRY(named_id(r, o, type, "sep", &sep));
    const json_int_t parts[] = {cls, TOK_TEMPLATE_A, sep, sep, TOK_TEMPLATE_B, sep};
    for (int i = 0; i < 6; i++) {
        if (i < 3) MOCL_TRY(add_part(r, false, parts[i], 0));
        if (i != 3 || twice) MOCL_TRY(add_part(r, true, parts[i], i > 3 && !twice));
    }
    return MOCL_OK;
}

mocl_status mocl_tok_read_post_processor(tok_reader *r, const json_t *o) {
    const char *what = "post-processor", *type;
    if (!o || json_is_null(o)) return MOCL_OK;
    MOCL_TRY(type_of(r, o, what, &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list;
        MOCL_TRY(mocl_tok_json_object(r, o, what, "type processors"));
        MOCL_TRY(list_of(r, o, what, "processors", &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            MOCL_TRY(mocl_tok_read_post_processor(r, json_array_get(list, i)));
        return MOCL_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) /* it only moves offsets, which there are none of here */
        return mocl_tok_json_object(r, o, type, "type add_prefix_space trim_offsets use_regex");
    if (r->t->n_single)
        return mocl_fail(r->ctx, MOCL_E_FORMAT,
                         "%s: a second post-processor '%.60s' is not supported", r->path, type);
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(r, o);
    if (strcmp(type, "RobertaProcessing") == 0) return read_ends(r, o, type, true);
    if (strcmp(type, "BertProcessing") == 0) return read_ends(r, o, type, false);
    return unknown(r, what, type);
}
