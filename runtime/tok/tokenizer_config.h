/* tokenizer_config.h - the files of transformers beside a tokenizer: tokenizer_config.json,
** special_tokens_map.json and added_tokens.json; for tokenizer*.c only */
#ifndef MOCL_TOKENIZER_CONFIG_H
#define MOCL_TOKENIZER_CONFIG_H

#include <jansson.h>

#include "tok/tokenizer_impl.h"

extern const char *const mocl_tok_side_name[TOK_SIDES];

/* what lies beside a tokenizer; all zero: nothing does */
struct tok_config {
    char *path[TOK_SIDES]; /* starts messages */
    char *data[TOK_SIDES]; /* the bytes of the file, NULL = there is none */
    size_t n[TOK_SIDES];
    json_t *root[TOK_SIDES]; /* an object, NULL = there is no file */
};

/* Reads the files that lie beside `path` and refuses keys that mocl does not know. Free with
** mocl_tok_config_free, also after a failure. */
mocl_status mocl_tok_config_load(mocl_ctx *ctx, tok_config *c, const char *path);
void mocl_tok_config_free(tok_config *c);

/* The tokens that the files name become added tokens of t. Call when the vocabulary and the added
** tokens of the main file are there, before mocl_tok_finish; c must live until that returns. */
mocl_status mocl_tok_config_tokens(mocl_ctx *ctx, const tok_config *c, mocl_tokenizer *t);

/* BOS, EOS, what add_special_tokens adds, and the other keys; then t keeps the bytes for
** mocl_tokenizer_save. Call after mocl_tok_finish. */
mocl_status mocl_tok_config_finish(mocl_ctx *ctx, const tok_config *c, mocl_tokenizer *t);

/* A key of tokenizer_config.json: NULL if it is absent or null. */
const json_t *mocl_tok_config_key(const tok_config *c, const char *key);
/* A key that is true or false; `out` stays as it is where it is absent. */
mocl_status mocl_tok_config_flag(mocl_ctx *ctx, const tok_config *c, const char *key, bool *there, bool *out);
/* fails with "FILE: key = value is not supported (cure)" */
mocl_status mocl_tok_config_refuse(mocl_ctx *ctx, const tok_config *c, const char *key, const char *cure);
/* The text of a named token: that of a file, else `def`; p NULL where it is null. */
mocl_status mocl_tok_config_token(mocl_ctx *ctx, const tok_config *c, const char *key, const char *def,
                                  mocl_text *out);
/* The class of transformers without "Fast": tokenizer_class, else that of model_type in the config.json beside, for
** the families that mocl knows; "" if neither says. */
enum { TOK_CLASS_BYTES = 64 };
mocl_status mocl_tok_config_class(mocl_ctx *ctx, const tok_config *c, char class[TOK_CLASS_BYTES]);

/* Is it a class of transformers whose tokenizers are WordPiece as BERT has it? */
bool mocl_tok_class_is_bert(const char *class);

#endif
