/* tokenizer_write.c - the text of a tokenizer.json (byte-level BPE) and of its
** tokenizer_config.json.
**
** One space per level, the key order of the Hugging Face library, so that two writes of the same
** tokenizer are the same bytes.
*/
#include <stdio.h>
#include <string.h>

#include "tok/tokenizer_impl.h"

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
                     ", \"single_word\": false, \"lstrip\": "));
        bool lstrip = recipe->kind == TOK_RECIPE_ROBERTA && recipe->special[i] == recipe->mask;
        MOCL_TRY(raw(w, lstrip ? "true" : "false"));
        MOCL_TRY(raw(w, ", \"rstrip\": false, \"normalized\": false, \"special\": "));
        MOCL_TRY(raw(w, recipe->ordinary && recipe->ordinary[i] ? "false}" : "true}"));
    }
    return raw(w, recipe->n_special ? "\n ],\n" : "],\n");
}

static const char *boolean(bool v) { return v ? "true" : "false"; }

static mocl_status normalizer(writer *w, const tok_recipe *recipe) {
    if (recipe->kind == TOK_RECIPE_QWEN2) return raw(w, " \"normalizer\": {\"type\": \"NFC\"},\n");
    if (recipe->kind != TOK_RECIPE_WORDPIECE) return raw(w, " \"normalizer\": null,\n");
    MOCL_TRY(raw(w, " \"normalizer\": {\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": "));
    MOCL_TRY(raw(w, boolean(recipe->apart)));
    MOCL_TRY(raw(w, ", \"strip_accents\": "));
    MOCL_TRY(raw(w, recipe->strip < 0 ? "null" : boolean(recipe->strip)));
    MOCL_TRY(raw(w, ", \"lowercase\": "));
    MOCL_TRY(raw(w, boolean(recipe->lower)));
    return raw(w, "},\n");
}

static mocl_status pre_tokenizer(writer *w, const tok_recipe *recipe) {
    if (recipe->kind == TOK_RECIPE_WORDPIECE) return raw(w, " \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"},\n");
    static const char byte_level[] =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": ";
    bool gpt2 = recipe->kind == TOK_RECIPE_GPT2 || recipe->kind == TOK_RECIPE_ROBERTA;
    const char *const one[] = {
        recipe->kind == TOK_RECIPE_QWEN2 ? qwen2_pattern : mocl_tok_own_pattern, NULL};
    const char *const *pattern = recipe->kind == TOK_RECIPE_PATTERNS ? recipe->pattern : one;
    MOCL_TRY(raw(w, " \"pre_tokenizer\": "));
    if (!gpt2) {
        MOCL_TRY(raw(w, "{\"type\": \"Sequence\", \"pretokenizers\": [\n  "));
        for (; *pattern; pattern++) {
            MOCL_TRY(raw(w, "{\"type\": \"Split\", \"pattern\": {\"Regex\": "));
            MOCL_TRY(quoted(w, (mocl_text){*pattern, strlen(*pattern)}));
            MOCL_TRY(raw(w, "}, \"behavior\": \"Isolated\", \"invert\": false},\n  "));
        }
    }
    MOCL_TRY(raw(w, byte_level));
    MOCL_TRY(raw(w, boolean(recipe->prefix_space)));
    MOCL_TRY(raw(w, ", \"trim_offsets\": true, \"use_regex\": "));
    return raw(w, gpt2 ? "true},\n" : "false}]},\n");
}

/* one entry of a template: a special token, or with text "A" or "B" that text */
static mocl_status template_part(writer *w, const tok_recipe *recipe, int32_t id, const char *text,
                                 const char *type, bool more) {
    MOCL_TRY(raw(w, text ? "{\"Sequence\": {\"id\": " : "{\"SpecialToken\": {\"id\": "));
    MOCL_TRY(quoted(w, text ? (mocl_text){text, 1} : recipe->token[id]));
    MOCL_TRY(raw(w, ", \"type_id\": "));
    MOCL_TRY(raw(w, type));
    return raw(w, more ? "}}, " : "}}");
}

/* "name": ["token", id] */
static mocl_status named_end(writer *w, const tok_recipe *recipe, const char *name, int32_t id) {
    MOCL_TRY(quoted(w, (mocl_text){name, strlen(name)}));
    MOCL_TRY(raw(w, ": ["));
    MOCL_TRY(quoted(w, recipe->token[id]));
    MOCL_TRY(raw(w, ", "));
    MOCL_TRY(number(w, id));
    return raw(w, "], ");
}

static mocl_status roberta_processing(writer *w, const tok_recipe *recipe) {
    MOCL_TRY(raw(w, "{\"type\": \"RobertaProcessing\", "));
    MOCL_TRY(named_end(w, recipe, "sep", recipe->ends[1]));
    MOCL_TRY(named_end(w, recipe, "cls", recipe->ends[0]));
    MOCL_TRY(raw(w, "\"trim_offsets\": true, \"add_prefix_space\": "));
    MOCL_TRY(raw(w, boolean(recipe->prefix_space)));
    return raw(w, "}");
}

static mocl_status post_processor(writer *w, const tok_recipe *recipe) {
    static const char *const name[] = {"A", "B"}, *const type[] = {"0", "1"};
    const int32_t none[] = {-1, -1}, *ends = recipe->ends ? recipe->ends : none;
    int32_t bos = ends[0], eos = ends[1];
    MOCL_TRY(raw(w, " \"post_processor\": "));
    if (bos < 0 && eos < 0) return raw(w, "null");
    if (recipe->kind == TOK_RECIPE_ROBERTA) return roberta_processing(w, recipe);
    MOCL_TRY(raw(w, "{\"type\": \"TemplateProcessing\",\n  "));
    for (int texts = 1; texts <= 2; texts++) {
        MOCL_TRY(raw(w, texts == 1 ? "\"single\": [" : "\"pair\": ["));
        for (int i = 0; i < texts; i++) {
            bool last = i == texts - 1;
            bool begin = bos >= 0 && (i == 0 || recipe->kind != TOK_RECIPE_WORDPIECE);
            if (begin) MOCL_TRY(template_part(w, recipe, bos, NULL, type[i], true));
            MOCL_TRY(template_part(w, recipe, 0, name[i], type[i], eos >= 0 || !last));
            if (eos >= 0) MOCL_TRY(template_part(w, recipe, eos, NULL, type[i], !last));
        }
        MOCL_TRY(raw(w, "],\n  "));
    }
    MOCL_TRY(raw(w, "\"special_tokens\": {"));
    for (int i = 0; i < 2; i++) {
        if (ends[i] < 0 || (i && eos == bos)) continue;
        MOCL_TRY(raw(w, i && bos >= 0 ? ", " : ""));
        MOCL_TRY(quoted(w, recipe->token[ends[i]]));
        MOCL_TRY(raw(w, ": {\"id\": "));
        MOCL_TRY(quoted(w, recipe->token[ends[i]]));
        MOCL_TRY(raw(w, ", \"ids\": ["));
        MOCL_TRY(number(w, ends[i]));
        MOCL_TRY(raw(w, "], \"tokens\": ["));
        MOCL_TRY(quoted(w, recipe->token[ends[i]]));
        MOCL_TRY(raw(w, "]}"));
    }
    return raw(w, "}}");
}

static mocl_status vocabulary(writer *w, const tok_recipe *recipe) {
    bool first = true;
    for (size_t i = 0; i < recipe->n_token; i++) {
        if (!recipe->token[i].p) continue;
        MOCL_TRY(raw(w, first ? "\n   " : ",\n   "));
        MOCL_TRY(quoted(w, recipe->token[i]));
        MOCL_TRY(raw(w, ": "));
        MOCL_TRY(number(w, (long long)i));
        first = false;
    }
    return raw(w, "\n  }");
}

static mocl_status merges(writer *w, const tok_recipe *recipe) {
    MOCL_TRY(raw(w, ",\n  \"merges\": ["));
    for (size_t i = 0; i < recipe->n_merge; i++) {
        MOCL_TRY(raw(w, i ? ",\n   \"" : "\n   \""));
        MOCL_TRY(escaped(w, recipe->merge[2 * i]));
        MOCL_TRY(raw(w, " "));
        MOCL_TRY(escaped(w, recipe->merge[2 * i + 1]));
        MOCL_TRY(raw(w, "\""));
    }
    return raw(w, recipe->n_merge ? "\n  ]\n" : "]\n");
}

/* decoder and model */
static mocl_status wordpiece(writer *w, const tok_recipe *recipe) {
    MOCL_TRY(raw(w,
                 ",\n \"decoder\": {\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true},\n"
                 " \"model\": {\n  \"type\": \"WordPiece\",\n  \"unk_token\": "));
    MOCL_TRY(quoted(w, recipe->unknown));
    MOCL_TRY(raw(w,
                 ",\n  \"continuing_subword_prefix\": \"##\",\n  \"max_input_chars_per_word\": 100,\n"
                 "  \"vocab\": {"));
    MOCL_TRY(vocabulary(w, recipe));
    return raw(w, "\n }\n}\n");
}

mocl_status mocl_tok_write_json(mocl_ctx *ctx, const tok_recipe *recipe, tok_bytes *out) {
    writer w = {ctx, out};
    MOCL_TRY(raw(&w, "{\n \"version\": \"1.0\",\n \"truncation\": null,\n \"padding\": null,\n"));
    MOCL_TRY(added_tokens(&w, recipe));
    MOCL_TRY(normalizer(&w, recipe));
    MOCL_TRY(pre_tokenizer(&w, recipe));
    MOCL_TRY(post_processor(&w, recipe));
    if (recipe->kind == TOK_RECIPE_WORDPIECE) return wordpiece(&w, recipe);
    MOCL_TRY(raw(&w,
                 ",\n \"decoder\": {\"type\": \"ByteLevel\", "
                 "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},\n"
                 " \"model\": {\n  \"type\": \"BPE\",\n  \"dropout\": null,\n"
                 "  \"unk_token\": null,\n  \"continuing_subword_prefix\": null,\n"
                 "  \"end_of_word_suffix\": null,\n  \"fuse_unk\": false,\n"
                 "  \"byte_fallback\": false,\n  \"ignore_merges\": "));
    MOCL_TRY(raw(&w, recipe->ignore_merges ? "true,\n  \"vocab\": {" : "false,\n  \"vocab\": {"));
    MOCL_TRY(vocabulary(&w, recipe));
    MOCL_TRY(merges(&w, recipe));
    return raw(&w, " }\n}\n");
}

static mocl_status token_or_null(writer *w, const mocl_tokenizer *t, int32_t id) {
    return id < 0 ? raw(w, "null") : quoted(w, t->token[id]);
}

static mocl_status bert_config(writer *w, const tok_bert *keys) {
    MOCL_TRY(raw(w, "{\n \"do_lower_case\": "));
    MOCL_TRY(raw(w, boolean(keys->lower)));
    MOCL_TRY(raw(w, ",\n \"strip_accents\": "));
    MOCL_TRY(raw(w, keys->strip < 0 ? "null" : boolean(keys->strip)));
    MOCL_TRY(raw(w, ",\n \"tokenize_chinese_chars\": "));
    MOCL_TRY(raw(w, boolean(keys->apart)));
    return raw(w, ",\n \"tokenizer_class\": \"BertTokenizer\"\n}\n");
}

mocl_status mocl_tok_write_config(mocl_ctx *ctx, const mocl_tokenizer *t, tok_bytes *out) {
    writer w = {ctx, out};
    if (t->bert.there) return bert_config(&w, &t->bert);
    MOCL_TRY(raw(&w, "{\n \"bos_token\": "));
    MOCL_TRY(token_or_null(&w, t, t->bos));
    MOCL_TRY(raw(&w, ",\n \"eos_token\": "));
    MOCL_TRY(token_or_null(&w, t, t->eos));
    if (t->own && t->bos >= 0) MOCL_TRY(raw(&w, ",\n \"add_bos_token\": true"));
    return raw(&w, ",\n \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}
