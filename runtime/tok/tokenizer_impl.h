/* tokenizer_impl.h - what the tokenizer*.c files share; nobody else includes it.
**
** A text becomes ids in this order: added tokens cut it into segments; a segment is cut where it is
** not UTF-8; the valid runs are normalized and split into words; the model turns each word into
** ids. Ids become text by concatenating `piece` of each id, computed at loading, then the few
** decoder steps that look at the whole text.
*/
#ifndef MOCL_TOKENIZER_IMPL_H
#define MOCL_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "tok/tokenizer.h"

/* ---- growable arrays: all zero is empty; free with mocl_free(x.p) ---- */

typedef struct tok_bytes {
    char *p;
    size_t n, cap;
} tok_bytes;

typedef struct tok_ids {
    int32_t *p;
    size_t n, cap;
} tok_ids;

typedef struct tok_span {
    size_t start, n;
} tok_span;

typedef struct tok_spans {
    tok_span *p;
    size_t n, cap;
} tok_spans;

/* Room for `more` elements after n. *p and *cap change together. */
mocl_status mocl_tok_grow(mocl_ctx *ctx, void **p, size_t *cap, size_t n, size_t more, size_t size);
/* room for n more bytes, so that many small pieces grow it once */
mocl_status mocl_tok_bytes_room(mocl_ctx *ctx, tok_bytes *b, size_t n);
mocl_status mocl_tok_bytes_add(mocl_ctx *ctx, tok_bytes *b, const void *p, size_t n);
mocl_status mocl_tok_ids_add(mocl_ctx *ctx, tok_ids *v, int32_t id);
mocl_status mocl_tok_spans_add(mocl_ctx *ctx, tok_spans *v, size_t start, size_t n);

/* ---- a map from byte strings to 0, 1, 2, ... in order of insertion ---- */

typedef struct tok_key {
    size_t start; /* in the keys of its map */
    uint32_t n, hash;
} tok_key;

typedef struct tok_map {
    tok_bytes keys; /* all keys, one after the other */
    tok_key *key;   /* by index */
    size_t n, cap;
    uint32_t *table; /* index + 1, 0 = empty; size is mask + 1 */
    size_t mask;
} tok_map;

bool mocl_tok_map_find(const tok_map *m, const char *s, size_t n, uint32_t *index);
/* *index receives the place of the key; *added (may be NULL) whether it is new */
mocl_status mocl_tok_map_add(mocl_ctx *ctx, tok_map *m, const char *s, size_t n, uint32_t *index,
                             bool *added);
mocl_text mocl_tok_map_key(const tok_map *m, size_t index);
void mocl_tok_map_clear(tok_map *m); /* keeps its memory */
void mocl_tok_map_free(tok_map *m);

/* ---- UTF-8 ---- */

/* bytes of the valid character at s (n > 0 bytes are there), 0 if there is none */
int mocl_tok_utf8(const char *s, size_t n, uint32_t *codepoint);
int mocl_tok_utf8_put(uint32_t codepoint, char out[4]);
/* GPT-2's spelling of bytes as printable characters */
uint32_t mocl_tok_byte_char(unsigned char byte);
int mocl_tok_char_byte(uint32_t codepoint); /* -1 if no byte is spelled so */
/* the byte that "<0xHH>" means, else -1 */
int mocl_tok_hex_byte(const char *s, size_t n);
/* appends bytes s in GPT-2's spelling */
mocl_status mocl_tok_spell(mocl_ctx *ctx, tok_bytes *out, const char *s, size_t n);

/* ---- steps of normalizers, pre-tokenizers and decoders ---- */

typedef enum tok_step_kind {
    TOK_NFC,
    TOK_NFD,
    TOK_NFKC,
    TOK_NFKD,
    TOK_LOWERCASE,
    TOK_PREPEND,
    TOK_REPLACE,
    TOK_PREFIX_SPACE,
    TOK_METASPACE,
    TOK_SPLIT,
    TOK_DIGITS,
    TOK_BYTE_LEVEL,
    TOK_BYTE_FALLBACK,
    TOK_FUSE,
    TOK_STRIP,
    /* tokenizer_wordpiece.c */
    TOK_BERT_CLEAN,
    TOK_BERT_MARKS,
    TOK_ACCENTS,
    TOK_TRIM,
    TOK_BERT_SPLIT,
    TOK_WHITESPACE_SPLIT,
    TOK_WORDS,
    TOK_PUNCTUATION,
    TOK_WORDPIECE
} tok_step_kind;

typedef enum tok_behavior {
    TOK_REMOVED,
    TOK_ISOLATED,
    TOK_MERGED_WITH_PREVIOUS,
    TOK_MERGED_WITH_NEXT,
    TOK_CONTIGUOUS
} tok_behavior;

/* Which words get something in front. METASPACE of a decoder: all but NEVER take the spaces of the
** first token away. */
typedef enum tok_scheme { TOK_ALWAYS, TOK_FIRST, TOK_NEVER } tok_scheme;

typedef struct tok_step {
    tok_step_kind kind;
    tok_behavior behavior; /* SPLIT */
    tok_scheme scheme;     /* METASPACE, PREPEND */
    bool flag;             /* SPLIT: invert; DIGITS: one by one; METASPACE: split at the spaces; BERT_CLEAN:
                           ** clean_text; WORDPIECE: cleanup */
    int32_t start, stop;   /* STRIP: characters at most; TRIM: whether at this end; BERT_CLEAN: stop is
                           ** handle_chinese_chars */
    tok_bytes pattern;     /* REPLACE, SPLIT: what to find, literal unless regex is set */
    tok_bytes content;     /* PREPEND, REPLACE: text; STRIP, METASPACE: the character; WORDPIECE: the prefix */
    pcre2_code *regex;     /* owned */
    pcre2_code *exact;     /* owned; NULL, or what to take where mocl_unicode_newer is true */
    pcre2_match_data *match;
} tok_step;

typedef struct tok_steps {
    tok_step *p;
    size_t n, cap;
} tok_steps;

void mocl_tok_steps_free(tok_steps *steps);
/* appends an all-zero step */
mocl_status mocl_tok_steps_add(mocl_ctx *ctx, tok_steps *steps, tok_step_kind kind, tok_step **out);
/* Translates the pattern from Oniguruma's dialect and compiles it; MOCL_E_FORMAT if it cannot. */
mocl_status mocl_tok_step_compile(mocl_ctx *ctx, tok_step *step, const char *pattern, size_t n);

/* All matches of a REPLACE or SPLIT step in s (valid UTF-8), from the left, in the order and number
** of the reference: a match may be empty, but not where the one before ended. */
typedef struct tok_search {
    const tok_step *step;
    const pcre2_code *regex; /* NULL: the literal of the step */
    const char *s;
    size_t n, from, last; /* where to look on, where the last match ended */
} tok_search;

tok_search mocl_tok_search(const tok_step *step, const char *s, size_t n);
mocl_status mocl_tok_search_next(mocl_ctx *ctx, tok_search *q, size_t *start, size_t *end,
                                 bool *found);

extern const char mocl_tok_gpt2_pattern[]; /* of GPT-2's ByteLevel pre-tokenizer */
extern const char mocl_tok_own_pattern[];  /* the same with each digit alone */

/* appends s with all that the pattern of a REPLACE step finds replaced */
mocl_status mocl_tok_replace(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n,
                             tok_bytes *out);
/* narrows [*s, *s + *n) by what a STRIP step takes off */
void mocl_tok_strip(const tok_step *step, const char **s, size_t *n);
/* Where a piece of text stands, for the steps that put something in front: it begins nothing, a
** segment, or the text. */
typedef enum tok_place { TOK_INSIDE, TOK_SEGMENT, TOK_TEXT } tok_place;

/* Normalizes s (valid UTF-8) into one of t's buffers, or leaves it where it is; *s and *n change. */
mocl_status mocl_tok_normalize(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place, const char **s,
                               size_t *n);
/* Splits s (valid UTF-8) into t->words, spans of *s; *s and *n change if a space was put in
** front. */
mocl_status mocl_tok_split(mocl_ctx *ctx, mocl_tokenizer *t, tok_place place, const char **s,
                           size_t *n);
/* A METASPACE step of a decoder on one token; first: no token comes before it. */
mocl_status mocl_tok_unspace(mocl_ctx *ctx, const tok_step *step, bool first, const char *s,
                             size_t n, tok_bytes *out);
/* tokenizer_wordpiece.c: the steps of BERT and the like */
mocl_status mocl_tok_bert_clean(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n, tok_bytes *out);
mocl_status mocl_tok_strip_marks(mocl_ctx *ctx, const tok_step *step, const char *s, size_t n, tok_bytes *out);
/* the words of a span: what BERT_SPLIT, WHITESPACE_SPLIT, WORDS or PUNCTUATION makes of it */
mocl_status mocl_tok_split_classes(mocl_ctx *ctx, const tok_step *step, const char *s, tok_span span, tok_spans *out);
/* A WORDPIECE step of a decoder on one token; first: no token comes before it. */
mocl_status mocl_tok_unprefix(mocl_ctx *ctx, const tok_step *step, bool first, const char *s, size_t n, tok_bytes *out);
/* adds the steps of clean_up_tokenization_spaces behind the decoder */
mocl_status mocl_tok_clean_up(mocl_ctx *ctx, mocl_tokenizer *t);
/* appends the ids of a word (valid UTF-8) of a WordPiece vocabulary */
mocl_status mocl_tok_wordpiece(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n, tok_ids *out);
/* whether the steps put a space in front of a text */
bool mocl_tok_prefixes(const mocl_tokenizer *t);

/* ---- added tokens ---- */

/* What added a token: the tokenizer's file or added_tokens_decoder, with all its flags;
** added_tokens.json, with its id alone; or a key that names it. */
typedef enum tok_origin { TOK_BY_FLAGS, TOK_BY_ID, TOK_BY_NAME } tok_origin;

typedef struct tok_added {
    mocl_text content; /* in t->added_text, once finished */
    mocl_text match;   /* what to look for: content, or content normalized */
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
    bool in_text; /* recognised in texts */
    tok_origin origin;
} tok_added;

/* The first added token of this kind at or after `from`: *which NULL if there is none, else its
** text is [*start, *end). */
void mocl_tok_added_find(const mocl_tokenizer *t, bool normalized, bool no_special, const char *s,
                         size_t n, size_t from, const tok_added **which, size_t *start,
                         size_t *end);

/* ---- the merge table: (left, right) -> rank, id ---- */

typedef struct tok_pair {
    uint64_t key;  /* left << 32 | right */
    uint32_t rank; /* merged in this order; equal ranks from the left */
    int32_t id;    /* -1 = empty slot */
} tok_pair;

typedef struct tok_pairs {
    tok_pair *slot;
    size_t n, mask;
} tok_pairs;

mocl_status mocl_tok_pairs_init(mocl_ctx *ctx, tok_pairs *pairs, size_t n);
/* false if the pair is there already; there must be room */
bool mocl_tok_pairs_add(tok_pairs *pairs, int32_t left, int32_t right, uint32_t rank, int32_t id);
const tok_pair *mocl_tok_pairs_find(const tok_pairs *pairs, int32_t left, int32_t right);

/* ---- the tokenizer ---- */

typedef enum tok_kind {
    TOK_KIND_BYTE_LEVEL,
    TOK_KIND_CHARACTER,
    TOK_KIND_SENTENCEPIECE,
    TOK_KIND_WORDPIECE
} tok_kind;
typedef enum tok_source { TOK_SOURCE_JSON, TOK_SOURCE_BIN, TOK_SOURCE_MODEL } tok_source;
/* the files of transformers beside a tokenizer (tokenizer_config.h) */
typedef enum tok_side { TOK_SIDE_CONFIG, TOK_SIDE_MAP, TOK_SIDE_ADDED, TOK_SIDES } tok_side;

/* a part of the post-processor's template: an id or TOK_TEMPLATE_, and the type that its ids get */
typedef struct tok_part {
    int32_t id, type;
} tok_part;

enum { TOK_TEMPLATE_A = -1, TOK_TEMPLATE_B = -2, TOK_MAX_ID = (1 << 22) - 1 };

/* the keys of BERT's classes, where a tokenizer is of one: a tokenizer_config.json that is made has them */
typedef struct tok_bert {
    bool there, lower, apart;
    int strip; /* -1 = null */
} tok_bert;

struct mocl_tokenizer {
    /* vocabulary */
    tok_map vocab;     /* spelling -> index */
    int32_t *index_id; /* id of each index of vocab */
    size_t index_cap;
    mocl_text *token; /* spelling by id; p NULL = unused id. Points into vocab.keys or added_text */
    mocl_text *piece; /* what decoding an id yields; points into piece_bytes */
    tok_bytes piece_bytes;
    bool *special;        /* by id */
    int32_t n_vocab;      /* the largest id + 1 */
    int32_t bos, eos;     /* -1 = none */
    tok_bytes added_text; /* spelling of all added tokens; complete before `added` points into it */
    tok_added *added;     /* longest first */
    size_t n_added, added_cap;
    bool added_first[2][256]; /* [normalized][byte]: a token to look for starts with it */

    /* model */
    tok_kind kind;
    tok_pairs pairs;
    int32_t byte_id[256]; /* byte-level: the byte; else its fallback token; -1 = none */
    int32_t unk;          /* -1 = none */
    bool byte_fallback, fuse_unk, ignore_merges;
    tok_bytes prefix;      /* WordPiece: of a token that continues a word */
    size_t max_characters; /* WordPiece: a longer word is unknown */
    tok_bert bert;
    tok_map user;          /* SentencePiece's pieces that users defined */
    int32_t *user_id;      /* by index of user */
    size_t user_cap, longest_user;
    bool user_first[256]; /* a piece of user starts with this byte */
    size_t longest;        /* bytes of the longest token of the model */
    bool cut_at_space; /* no merge crosses from something else to a space: words are cut there */
    char space[4];     /* the space character of this vocabulary, " " or U+2581, */
    int n_space;       /* its bytes */

    /* text steps */
    tok_steps normalizer, splitter;
    tok_steps decoder;      /* on each token; its result is `piece` */
    tok_steps whole;        /* then on the whole text: REPLACE and STRIP only */
    bool strip_after_bos;   /* decoding: one leading space goes if BOS comes before */
    bool join_with_space;   /* decoding: no decoder in the file, tokens are joined with a space */
    bool first_differs;     /* decoding: the first token's piece is another one than `piece` */
    tok_part *single, *pair; /* templates of the post-processor */
    size_t n_single, n_pair, single_cap, pair_cap;
    bool template_of_file; /* the tokenizer.json has a post-processor that adds ids */
    bool own;              /* with the word pattern of mocl_tokenizer_train */
    bool split_special;    /* text that spells a special token is ordinary text, unless asked */

    /* the file, for mocl_tokenizer_save */
    tok_bytes source;
    tok_source source_kind;
    tok_bytes side[TOK_SIDES]; /* what lay beside it */
    bool side_there[TOK_SIDES];

    /* scratch */
    tok_bytes text[4]; /* normalizer, pre-tokenizer: two in turn each */
    tok_bytes spelled, decoded, step[2], valid;
    tok_spans words, more_words;
    tok_ids out, types; /* types: of the ids in out, if they were asked for */
    struct tok_merge *merge; /* tokenizer_bpe.c */
};

mocl_status mocl_tok_new(mocl_ctx *ctx, mocl_tokenizer **out);
/* Adds a token to the vocabulary; MOCL_E_FORMAT for a duplicate or a bad id. `what` starts
** messages. */
mocl_status mocl_tok_add(mocl_ctx *ctx, mocl_tokenizer *t, const char *what, mocl_text spelling,
                         int64_t id);
/* Adds an added token; content and match stay where they are until mocl_tok_finish copies them. */
mocl_status mocl_tok_add_added(mocl_ctx *ctx, mocl_tokenizer *t, const char *what,
                               const tok_added *added);
/* Builds token, special, piece and the tables of added tokens, and decides cut_at_space. Call once,
** when the vocabulary, the merges and the steps are there. */
mocl_status mocl_tok_finish(mocl_ctx *ctx, mocl_tokenizer *t, const char *what);

/* tokenizer_bpe.c: appends the ids of a word to `out`; bytes [s, s+n), any bytes */
mocl_status mocl_tok_word(mocl_ctx *ctx, mocl_tokenizer *t, const char *s, size_t n, tok_ids *out);
mocl_status mocl_tok_merge_new(mocl_ctx *ctx, mocl_tokenizer *t);
void mocl_tok_merge_free(struct tok_merge *m);

/* Appends an id or TOK_TEMPLATE_ to a template. */
mocl_status mocl_tok_template_add(mocl_ctx *ctx, mocl_tokenizer *t, bool pair, int32_t id, int32_t type);
/* Makes the templates anew: ids before and after each text. A missing BOS or EOS is left out. */
mocl_status mocl_tok_set_template(mocl_ctx *ctx, mocl_tokenizer *t, bool bos, bool eos);
/* Call last: where no file says what add_special_tokens adds, it is BOS for a vocabulary of
** SentencePiece, llama2.c or our own training, else nothing. */
mocl_status mocl_tok_default_template(mocl_ctx *ctx, mocl_tokenizer *t);

typedef struct tok_config tok_config; /* tokenizer_config.h */
/* tokenizer_json.c: `path` starts messages */
mocl_status mocl_tok_load_json(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                               const char *data, size_t n, const tok_config *config);
/* vocab.json and merges.txt */
mocl_status mocl_tok_load_pair(mocl_ctx *ctx, mocl_tokenizer **out, const char *vocab_path,
                               const char *merges_path, const tok_config *config);
/* tokenizer_bert.c: vocab.txt */
mocl_status mocl_tok_load_vocab(mocl_ctx *ctx, mocl_tokenizer **out, const char *path, const char *data, size_t n,
                                const tok_config *config);
/* A vocabulary of n tokens by id (p NULL = unused) with BERT's special tokens, which config may name; ids beyond n
** are given to those that are missing. `what` starts messages. */
mocl_status mocl_tok_load_wordpiece(mocl_ctx *ctx, mocl_tokenizer **out, const char *what, const mocl_text *token,
                                    size_t n, const tok_config *config);
/* The steps of BertNormalizer as tokenizer_config.json has them, which in BERT's classes goes before the file's own;
** keys has the file's. */
mocl_status mocl_tok_config_bert(mocl_ctx *ctx, const tok_config *config, tok_bert *keys);
/* tokenizer_scores.c: the merge table of pieces with scores; score[i] belongs to index i of the vocabulary */
mocl_status mocl_tok_pairs_of_scores(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const float *score);
/* tokenizer_spm.c */
mocl_status mocl_tok_load_bin(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                              const char *data, size_t n);
mocl_status mocl_tok_load_model(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                                const char *data, size_t n, const tok_config *config);
/* tokenizer_tiktoken.c; score has room for each token that fits into half of n bytes */
bool mocl_tok_is_tiktoken(const char *data, size_t n);
mocl_status mocl_tok_build_tiktoken(mocl_ctx *ctx, mocl_tokenizer *t, const char *path, const char *data, size_t n,
                                    const tok_config *config, float *score);
extern const char mocl_tok_llama3_pattern[];
/* tokenizer_gguf.c: the tokenizer in a GGUF file, as the files of transformers that say the same */
mocl_status mocl_tok_load_gguf(mocl_ctx *ctx, mocl_tokenizer **out, const char *path);
/* tokenizer_pre.c: what `pre`, llama.cpp's name for a way to cut texts into words, stands for; NULL if
** unknown */
typedef struct tok_pre {
    const char *const *pattern; /* as in tok_recipe */
    bool ignore_merges;
    bool add_bos; /* where tokenizer.ggml.add_bos_token does not say */
} tok_pre;
const tok_pre *mocl_tok_pre_named(const char *name);
/* tokenizer_write.c: the text of a tokenizer.json; free out->p with mocl_free */
typedef enum tok_recipe_kind {
    TOK_RECIPE_OWN,
    TOK_RECIPE_GPT2,
    TOK_RECIPE_QWEN2,
    TOK_RECIPE_ROBERTA,
    TOK_RECIPE_PATTERNS,
    TOK_RECIPE_WORDPIECE
} tok_recipe_kind;
typedef struct tok_recipe {
    const mocl_text *token; /* spelling by id, special ones included; p NULL = unused id */
    size_t n_token;
    const int32_t *special; /* their ids */
    size_t n_special;
    const mocl_text *merge; /* left, right, left, right, ... */
    size_t n_merge;         /* number of pairs */
    tok_recipe_kind kind;
    /* all zero is fine below */
    const bool *ordinary; /* of `special`: an added token that is not special; NULL = all are */
    const int32_t *ends;  /* ids that add_special_tokens puts first and last, -1 = none; NULL = neither */
    const char *const *pattern; /* TOK_RECIPE_PATTERNS: a text is split by each in turn; ends with NULL */
    bool ignore_merges;         /* a word that is a token is that token, whatever the merges make of it */
    /* ROBERTA and WORDPIECE; ends are the separator's and the class's tokens */
    int32_t mask;      /* the token that takes the spaces before it; ROBERTA */
    bool prefix_space; /* ROBERTA */
    mocl_text unknown; /* WORDPIECE */
    bool lower, apart; /* WORDPIECE: lowercase, handle_chinese_chars */
    int strip;         /* WORDPIECE: strip_accents, -1 = null */
} tok_recipe;
mocl_status mocl_tok_write_json(mocl_ctx *ctx, const tok_recipe *recipe, tok_bytes *out);
/* the text of a tokenizer_config.json: names of BOS and EOS */
mocl_status mocl_tok_write_config(mocl_ctx *ctx, const mocl_tokenizer *t, tok_bytes *out);

#endif
