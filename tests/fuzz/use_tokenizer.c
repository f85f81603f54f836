/* use_tokenizer.c - loads a tokenizer and, where it is accepted, uses it */
#include "use_tokenizer.h"

#include <string.h>

#include "fuzz.h"
#include "tok/tokenizer.h"

/* letters, digits, spaces, line ends, contractions, other scripts, a combining mark, an emoji, bytes that are no UTF-8 */
static const char text[] = "The cat's 1234 mats,\n\n  don't\tsee <s> caf\xc3\xa9 e\xcc\x81 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80 \xff\xc3 \xc2\xbd  ";

static mocl_status use(mocl_ctx *ctx, mocl_tokenizer *t) {
    const int32_t *ids;
    const char *piece;
    size_t n, bytes;
    int32_t vocab = mocl_tokenizer_vocab_size(t), kept[1024];
    mocl_text pair = {text + 9, 40};
    for (int special = -1; special <= 1; special++) {
        mocl_tokenizer_encode_options o = {.special = special, .with_template = special == 0, .type_ids = special >= 0};
        if (special == 0) o.pair = &pair;
        mocl_status st = mocl_tokenizer_encode(ctx, t, text, sizeof text - 1, &o, &ids, &n);
        if (st == MOCL_E_FORMAT || st == MOCL_E_ARG) continue; /* the vocabulary lacks what the text needs */
        if (st) return st;
        FUZZ_CHECK(n <= 1024);
        for (size_t i = 0; i < n; i++) FUZZ_CHECK(ids[i] >= 0 && ids[i] < vocab);
        for (size_t i = 0; i < n && o.type_ids; i++) FUZZ_CHECK(mocl_tokenizer_type_ids(t)[i] >= 0);
        memcpy(kept, ids, n * sizeof *ids);
        MOCL_TRY(mocl_tokenizer_decode(ctx, t, kept, n, special == 1, &piece, &bytes));
        FUZZ_CHECK(bytes == 0 || piece != NULL);
    }
    for (int32_t id = 0; id < vocab && id < 1024; id++) {
        mocl_text token = mocl_tokenizer_id_to_token(t, id);
        if (token.p) FUZZ_CHECK(mocl_tokenizer_token_to_id(t, token.p, token.n) >= 0);
    }
    return MOCL_OK;
}

mocl_status fuzz_use_tokenizer(mocl_ctx *ctx, const char *path) {
    mocl_tokenizer *t;
    MOCL_TRY(mocl_tokenizer_load(ctx, &t, path));
    mocl_status st = use(ctx, t);
    mocl_tokenizer_free(t);
    return st;
}
