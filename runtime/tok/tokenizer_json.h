/* tokenizer_json.h - reading JSON objects strictly; for tokenizer_json.c and tokenizer_parts.c
** only */
#ifndef MOCL_TOKENIZER_JSON_H
#define MOCL_TOKENIZER_JSON_H

#include <jansson.h>

#include "tok/tokenizer_impl.h"

/* the character that stands for a zero byte in a parsed text; n 0 = none does */
typedef struct tok_mark {
    char c[4];
    size_t n;
} tok_mark;

typedef struct tok_reader {
    mocl_ctx *ctx;
    mocl_tokenizer *t;
    const char *path; /* starts messages */
    const tok_config *config;
    tok_mark mark;    /* in keys; strings have their zero bytes */
} tok_reader;

/* a parsed key with its zero bytes */
mocl_status mocl_tok_show_zeros(mocl_ctx *ctx, const tok_mark *mark, const char *s, size_t n,
                                tok_bytes *out);

/* Fails unless o is an object whose keys are all in the space-separated list, or null. */
mocl_status mocl_tok_json_object(tok_reader *r, const json_t *o, const char *what,
                                 const char *keys);
/* A field; absent and null give the default, another type fails. */
mocl_status mocl_tok_json_bool(tok_reader *r, const json_t *o, const char *what, const char *key,
                               bool def, bool *out);
/* p is NULL if absent; the string lives as long as o */
mocl_status mocl_tok_json_text(tok_reader *r, const json_t *o, const char *what, const char *key,
                               mocl_text *out);

/* the components; json null or absent means none */
mocl_status mocl_tok_read_normalizer(tok_reader *r, const json_t *o);
mocl_status mocl_tok_read_pre_tokenizer(tok_reader *r, const json_t *o);
mocl_status mocl_tok_read_decoder(tok_reader *r, const json_t *o);
mocl_status mocl_tok_read_post_processor(tok_reader *r, const json_t *o);

#endif
