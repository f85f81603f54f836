/* tokenizer_tiktoken.c - a tokenizer.model of tiktoken, as Llama 3 has it: byte-level BPE.
**
** Each line is a token's bytes in base64, a space and its rank, which is its id. Two neighbours merge if their bytes
** together are a token, lowest rank first, and a word that is a token is that token. The file says neither how texts are
** cut into words nor which special tokens there are: words are cut as Llama 3 cuts them, as in transformers, and
** tokenizer_config.json names the tokens.
*/
#include <string.h>

#include "tok/tokenizer_config.h"

const char mocl_tok_llama3_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* the six bits of a letter of base64, -1 for anything else */
static int bits(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* length of the line's base64 if it is one with a rank behind it, which goes to *rank; else 0 */
static size_t parse_line(const char *s, size_t n, int64_t *rank) {
    size_t m = 0, i;
    while (m < n && bits(s[m]) >= 0) m++;
    for (i = m; i < n && s[i] == '=' && i - m < 2; i++) {}
    if (m == 0 || m % 4 == 1 || i % 4 != 0 || i + 1 >= n || s[i] != ' ' || n - i > 9) return 0;
    *rank = 0;
    for (size_t k = i + 1; k < n; k++) {
        if (s[k] < '0' || s[k] > '9') return 0;
        *rank = *rank * 10 + (s[k] - '0');
    }
    return m;
}

bool mocl_tok_is_tiktoken(const char *data, size_t n) {
    const char *end = memchr(data, '\n', n);
    int64_t rank;
    return end && parse_line(data, (size_t)(end - data), &rank) && rank == 0;
}

static mocl_status put_bytes(mocl_ctx *ctx, const char *s, size_t n, tok_bytes *out) {
    uint32_t held = 0;
    int n_held = 0;
    out->n = 0;
    for (size_t i = 0; i < n; i++) {
        held = held << 6 | (uint32_t)bits(s[i]);
        n_held += 6;
        if (n_held < 8) continue;
        n_held -= 8;
        char byte = (char)(held >> n_held & 0xff);
        MOCL_TRY(mocl_tok_spell(ctx, out, &byte, 1));
    }
    return MOCL_OK;
}

static mocl_status read_lines(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data, size_t n,
                              float *score) {
    size_t line = 0;
    for (size_t at = 0; at < n;) {
        const char *s = data + at, *end = memchr(s, '\n', n - at);
        size_t len = end ? (size_t)(end - s) : n - at;
        int64_t rank;
        at += len + 1;
        line++;
        if (len > 0 && s[len - 1] == '\r') len--;
        if (len == 0) continue;
        size_t m = parse_line(s, len, &rank);
        if (m == 0)
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s:%zu: not a token in base64, a space and its rank", path, line);
        MOCL_TRY(put_bytes(ctx, s, m, &t->spelled));
        score[t->vocab.n] = -(float)rank;
        MOCL_TRY(mocl_tok_add(ctx, t, path, (mocl_text){t->spelled.p, t->spelled.n}, rank));
    }
    return MOCL_OK;
}

mocl_status mocl_tok_build_tiktoken(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data, size_t n,
                                    const tok_config *config, float *score) {
    tok_step *step;
    (void)config;
    t->kind = TOK_KIND_BYTE_LEVEL;
    t->source_kind = TOK_SOURCE_MODEL;
    t->ignore_merges = true;
    MOCL_TRY(read_lines(ctx, t, path, data, n, score));
    MOCL_TRY(mocl_tok_pairs_of_scores(ctx, t, path, score));
    for (int b = 0; b < 256; b++) {
        char s[4];
        uint32_t index;
        size_t m = (size_t)mocl_tok_utf8_put(mocl_tok_byte_char((unsigned char)b), s);
        if (!mocl_tok_map_find(&t->vocab, s, m, &index))
            return mocl_fail(ctx, MOCL_E_FORMAT, "%s: no token for the byte 0x%02x", path, (unsigned)b);
        t->byte_id[b] = t->index_id[index];
    }
    MOCL_TRY(mocl_tok_steps_add(ctx, &t->splitter, TOK_SPLIT, &step));
    step->behavior = TOK_ISOLATED;
    MOCL_TRY(mocl_tok_step_compile(ctx, step, mocl_tok_llama3_pattern, strlen(mocl_tok_llama3_pattern)));
    return mocl_tok_steps_add(ctx, &t->decoder, TOK_BYTE_LEVEL, &step);
}
