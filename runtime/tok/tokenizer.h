/* tokenizer.h - text to token ids and back: Hugging Face tokenizer.json (BPE and WordPiece models), the files that came
** before it (vocab.json with merges.txt, vocab.txt), SentencePiece's and tiktoken's .model, llama2.c's .bin, and the
** tokenizer of a GGUF file.
**
** Refuses what it does not know: a tokenizer.json with another model, normalizer, pre-tokenizer,
** decoder or post-processor fails to load with a message that names the component. Ids are data
** and keep the value they have in the file. A tokenizer belongs to the context it was made in and
** may be used by one native thread at a time: encode and decode use scratch memory inside it.
*/
#ifndef MOCL_TOKENIZER_H
#define MOCL_TOKENIZER_H

#include "base.h"

typedef struct mocl_tokenizer mocl_tokenizer;

/* bytes that belong to someone else; may hold NUL */
typedef struct mocl_text {
    const char *p;
    size_t n;
} mocl_text;

/* *out receives a new tokenizer (NULL on failure); free with mocl_tokenizer_free (NULL is fine).
** path: tokenizer.json, a llama2.c .bin, a .model of SentencePiece (BPE only) or tiktoken, vocab.txt, a GGUF file, or a
** directory that holds tokenizer.json, tokenizer.model, tokenizer.bin, vocab.json with merges.txt or vocab.txt (the first
** found in this order). Beside all but a .bin, tokenizer_config.json, special_tokens_map.json and
** added_tokens.json are read too. MOCL_E_IO or MOCL_E_FORMAT with "path: reason". */
mocl_status mocl_tokenizer_load(mocl_ctx *ctx, mocl_tokenizer **out, const char *path);
/* the older pair of files of GPT-2 (vocab.json or encoder.json, merges.txt or vocab.bpe), with GPT-2's pre-tokenizer, or
** that of Qwen2, RoBERTa or BART where a tokenizer_config.json or config.json beside it says so */
mocl_status mocl_tokenizer_load_pair(mocl_ctx *ctx, mocl_tokenizer **out, const char *vocab_path,
                                     const char *merges_path);
void mocl_tokenizer_free(mocl_tokenizer *t);

typedef struct mocl_tokenizer_train_options {
    int64_t vocab_size;       /* at least n_special + 256 */
    int64_t min_frequency;    /* a pair seen less often is not merged; at least 1 */
    const mocl_text *special; /* ids 0 .. n_special - 1 */
    size_t n_special;
} mocl_tokenizer_train_options;

/* Byte-level BPE. Ids: the special tokens, the 256 bytes in order, then the merges. Of the pairs
** with the highest count the one with the smallest pair of ids is merged first. Stops early, with
** fewer ids, when no pair reaches min_frequency. */
mocl_status mocl_tokenizer_train(mocl_ctx *ctx, mocl_tokenizer **out, const mocl_text *texts,
                                 size_t n_texts, const mocl_tokenizer_train_options *options);

/* Writes the format it was loaded from (a trained one: tokenizer.json; one of a GGUF file: tokenizer.json, or
** tokenizer.model for SentencePiece), each file atomically, and
** beside it the files of transformers that it was loaded with. If path is a directory the file in it
** is tokenizer.json, .model or .bin, and beside a tokenizer.json without a tokenizer_config.json one
** with the names of BOS and EOS is made. MOCL_E_FORMAT before anything is written where another file
** there would be loaded in place of it, or would change it. */
mocl_status mocl_tokenizer_save(mocl_ctx *ctx, mocl_tokenizer *t, const char *path);

typedef struct mocl_tokenizer_encode_options {
    bool bos, eos;         /* put these ids first and last; an error if the tokenizer has none */
    int special;           /* text that spells a special token is 1: that token, -1: ordinary text,
                           ** 0: as the tokenizer's files say (that token if they say nothing) */
    bool with_template;    /* add what the tokenizer's files say goes before and after a text */
    const mocl_text *pair; /* second text, or NULL */
    bool type_ids;         /* for mocl_tokenizer_type_ids */
} mocl_tokenizer_encode_options;

/* *ids (n_ids of them) belong to the tokenizer and live until its next encode. Any bytes are fine
** as text. options NULL: all false. */
mocl_status mocl_tokenizer_encode(mocl_ctx *ctx, mocl_tokenizer *t, const char *text, size_t n,
                                  const mocl_tokenizer_encode_options *options, const int32_t **ids,
                                  size_t *n_ids);
/* The type of each id of the last encode with type_ids, which BERT calls its segment: 0 for the first text and what
** goes around it, 1 for the second, as the post-processor says. Lives as long as the ids. */
const int32_t *mocl_tokenizer_type_ids(const mocl_tokenizer *t);

/* *text (n bytes) belongs to the tokenizer and lives until its next decode. An id above the
** vocabulary is no text, as those that a padded model may draw; a negative one is MOCL_E_ARG. */
mocl_status mocl_tokenizer_decode(mocl_ctx *ctx, mocl_tokenizer *t, const int32_t *ids,
                                  size_t n_ids, bool skip_special, const char **text, size_t *n);

/* Decoding one id at a time. The pieces put together are what mocl_tokenizer_decode gives; each
** holds only complete UTF-8 characters (bytes that can never become one pass as they are). */
typedef struct mocl_tokenizer_stream {
    bool skip_special;
    bool started;       /* an id has been pushed */
    int32_t last;       /* the id before this one, -1 = none */
    int32_t strip_left; /* leading characters the decoder may still remove */
    int n_pending;      /* bytes of an unfinished character */
    char pending[4];
} mocl_tokenizer_stream;

mocl_status mocl_tokenizer_stream_begin(mocl_ctx *ctx, mocl_tokenizer *t, mocl_tokenizer_stream *s,
                                        bool skip_special);
mocl_status mocl_tokenizer_stream_push(mocl_ctx *ctx, mocl_tokenizer *t, mocl_tokenizer_stream *s,
                                       int32_t id, const char **text, size_t *n);
/* the bytes that are left; the stream can be used again */
mocl_status mocl_tokenizer_stream_flush(mocl_ctx *ctx, mocl_tokenizer *t, mocl_tokenizer_stream *s,
                                        const char **text, size_t *n);

/* the largest id + 1 */
int32_t mocl_tokenizer_vocab_size(const mocl_tokenizer *t);
int32_t mocl_tokenizer_bos(const mocl_tokenizer *t); /* -1 = none */
int32_t mocl_tokenizer_eos(const mocl_tokenizer *t); /* -1 = none */
/* "byte-level bpe", "character bpe", "sentencepiece bpe", "wordpiece" */
const char *mocl_tokenizer_kind(const mocl_tokenizer *t);
/* Spelling as in the file (a space is "\u0120" in a byte-level vocabulary). -1 if there is none. */
int32_t mocl_tokenizer_token_to_id(const mocl_tokenizer *t, const char *token, size_t n);
/* p is NULL if the id is outside the vocabulary or unused */
mocl_text mocl_tokenizer_id_to_token(const mocl_tokenizer *t, int32_t id);

#endif
