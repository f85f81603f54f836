/* tokenizer_write.c - the text of a tokenizer.json (byte-level BPE) and of its
** tokenizer_config.json.
**
** One space per level, the key order of the Hugging Face library, so that two writes of the same
** tokenizer are the same bytes.
*/
#include <stdio.h>
#include <string.h>

#include "tokenizer_impl.h"

static const char qwen2_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

typedef struct writer {
    mocl_ctx *ctx;
    tok_bytes *out;
} writer;

static mocl_status raw(writer *w, const char *s) {
    return mocl_tok_bytes_add(w->ctx, w->out, s, strlen(s));
}

static mocl_status number(writer *w, long long v) {
    char s[32];
    snprintf(s, sizeof s, "%lld", v);
    return raw(w, s);
}

/* the inside of a JSON string; s is UTF-8 */
static mocl_status escaped(writer *w, mocl_text s) {
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        char escape[8];
        if (c != '"' && c != '\\' && c >= 0x20) {
            MOCL_TRY(mocl_tok_bytes_add(w->ctx, w->out, s.p + i, 1));
            continue;
        }
        snprintf(escape, sizeof escape, c < 0x20 ? "\\u%04x" : "\\%c", c);
        MOCL_TRY(raw(w, escape));
    }
    return MOCL_OK;
}

static mocl_status quoted(writer *w, mocl_text s) {
    MOCL_TRY(raw(w, "\""));
    MOCL_TRY(escaped(w, s));
    return raw(w, "\"");
}

static mocl_status added_tokens(writer *w, const tok_recipe *recipe) {
    MOCL_TRY(raw(w, " \"added_tokens\": ["));
    for (size_t i = 0; i < recipe->n_special; i++) {
        MOCL_TRY(raw(w, i ? ",\n  {\"id\": " : "\n  {\"id\": "));
        MOCL_TRY(number(w, recipe->special[i]));
        MOCL_TRY(raw(w, ", \"content\": "));
        MOCL_TRY(quoted(w, recipe->token[recipe->special[i]]));
        MOCL_TRY(raw(w,
                     ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                     "\"normalized\": false, \"special\": true}"));
    }
    return raw(w, recipe->n_special ? "\n ],\n" : "],\n");
}

static mocl_status pre_tokenizer(writer *w, tok_recipe_kind kind) {
    static const char byte_level[] =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
        "\"use_regex\": ";
    bool gpt2 = kind == TOK_RECIPE_GPT2;
    const char *pattern = kind == TOK_RECIPE_QWEN2 ? qwen2_pattern : mocl_tok_own_pattern;
    MOCL_TRY(raw(w, " \"pre_tokenizer\": "));
    if (!gpt2) {
        MOCL_TRY(raw(w,
                     "{\"type\": \"Sequence\", \"pretokenizers\": [\n"
                     "  {\"type\": \"Split\", \"pattern\": {\"Regex\": "));
        MOCL_TRY(quoted(w, (mocl_text){pattern, strlen(pattern)}));
        MOCL_TRY(raw(w, "}, \"behavior\": \"Isolated\", \"invert\": false},\n  "));
    }
    MOCL_TRY(raw(w, byte_level));
    return raw(w, gpt2 ? "true},\n" : "false}]},\n");
}

static mocl_status vocabulary(writer *w, const tok_recipe *recipe) {
    bool first = true;
    MOCL_TRY(raw(w, "  \"vocab\": {"));
    for (size_t i = 0; i < recipe->n_token; i++) {
        if (!recipe->token[i].p) continue;
        MOCL_TRY(raw(w, first ? "\n   " : ",\n   "));
        MOCL_TRY(quoted(w, recipe->token[i]));
        MOCL_TRY(raw(w, ": "));
        MOCL_TRY(number(w, (long long)i));
        first = false;
    }
    return raw(w, "\n  },\n");
}

static mocl_status merges(writer *w, const tok_recipe *recipe) {
    MOCL_TRY(raw(w, "  \"merges\": ["));
    for (size_t i = 0; i < recipe->n_merge; i++) {
        MOCL_TRY(raw(w, i ? ",\n   \"" : "\n   \""));
        MOCL_TRY(escaped(w, recipe->merge[2 * i]));
        MOCL_TRY(raw(w, " "));
        MOCL_TRY(escaped(w, recipe->merge[2 * i + 1]));
        MOCL_TRY(raw(w, "\""));
    }
    return raw(w, recipe->n_merge ? "\n  ]\n" : "]\n");
}

mocl_status mocl_tok_write_json(mocl_ctx *ctx, const tok_recipe *recipe, tok_bytes *out) {
    writer w = {ctx, out};
    MOCL_TRY(raw(&w, "{\n \"version\": \"1.0\",\n \"truncation\": null,\n \"padding\": null,\n"));
    MOCL_TRY(added_tokens(&w, recipe));
    MOCL_TRY(raw(&w, recipe->kind == TOK_RECIPE_QWEN2 ? " \"normalizer\": {\"type\": \"NFC\"},\n"
                                                      : " \"normalizer\": null,\n"));
    MOCL_TRY(pre_tokenizer(&w, recipe->kind));
    MOCL_TRY(raw(&w,
                 " \"post_processor\": null,\n \"decoder\": {\"type\": \"ByteLevel\", "
                 "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},\n"
                 " \"model\": {\n  \"type\": \"BPE\",\n  \"dropout\": null,\n"
                 "  \"unk_token\": null,\n  \"continuing_subword_prefix\": null,\n"
                 "  \"end_of_word_suffix\": null,\n  \"fuse_unk\": false,\n"
                 "  \"byte_fallback\": false,\n  \"ignore_merges\": false,\n"));
    MOCL_TRY(vocabulary(&w, recipe));
    MOCL_TRY(merges(&w, recipe));
    return raw(&w, " }\n}\n");
}

static mocl_status token_or_null(writer *w, const mocl_tokenizer *t, int32_t id) {
    return id < 0 ? raw(w, "null") : quoted(w, t->token[id]);
}

mocl_status mocl_tok_write_config(mocl_ctx *ctx, const mocl_tokenizer *t, tok_bytes *out) {
    writer w = {ctx, out};
    MOCL_TRY(raw(&w, "{\n \"bos_token\": "));
    MOCL_TRY(token_or_null(&w, t, t->bos));
    MOCL_TRY(raw(&w, ",\n \"eos_token\": "));
    MOCL_TRY(token_or_null(&w, t, t->eos));
    if (t->own && t->bos >= 0) MOCL_TRY(raw(&w, ",\n \"add_bos_token\": true"));
    return raw(&w, ",\n \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}
