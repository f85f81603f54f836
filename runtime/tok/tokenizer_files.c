/* tokenizer_files.c - which files a tokenizer is loaded from and saved to */
#include <string.h>
#include <sys/stat.h>

#include "io/file.h"
#include "io/gguf.h"
#include "io/text.h"
#include "tok/tokenizer_config.h"

/* in the order in which a directory is searched */
static const struct {
    const char *name;
    tok_source source;
} file_names[] = {{"tokenizer.json", TOK_SOURCE_JSON},
                  {"tokenizer.model", TOK_SOURCE_MODEL},
                  {"tokenizer.bin", TOK_SOURCE_BIN}};
/* looked for behind vocab.json with merges.txt; such a tokenizer becomes a tokenizer.json */
static const char vocab_name[] = "vocab.txt";
enum { N_NAMES = sizeof file_names / sizeof *file_names };

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

static bool is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* directory/name */
static char *join(mocl_ctx *ctx, const char *directory, const char *name) {
    size_t n = strlen(directory);
    char *s = mocl_alloc(ctx, n + strlen(name) + 2);
    if (!s) return NULL;
    memcpy(s, directory, n);
    s[n] = '/';
    strcpy(s + n + 1, name);
    return s;
}

/* ---- loading ---- */

static mocl_status load_data(mocl_ctx *ctx, mocl_tokenizer **out, const char *path,
                             const char *data, size_t n) {
    size_t at = mocl_utf8_mark(data, n);
    while (at < n && memchr(" \t\r\n", data[at], 4)) at++;
    if (ends_with(path, ".bin")) return mocl_tok_load_bin(ctx, out, path, data, n);
    bool model = ends_with(path, ".model");
    const char *slash = strrchr(path, '/');
    bool vocab = strcmp(slash ? slash + 1 : path, vocab_name) == 0;
    if (!model && !vocab && !ends_with(path, ".json") && !(at < n && data[at] == '{'))
        return mocl_fail(ctx, MOCL_E_FORMAT,
                         "%s: not a tokenizer (expected tokenizer.json, .bin, .model, .gguf or vocab.txt)", path);
    tok_config config;
    mocl_status st = mocl_tok_config_load(ctx, &config, path);
    if (!st)
        st = vocab   ? mocl_tok_load_vocab(ctx, out, path, data, n, &config)
             : model ? mocl_tok_load_model(ctx, out, path, data, n, &config)
                     : mocl_tok_load_json(ctx, out, path, data, n, &config);
    mocl_tok_config_free(&config);
    return st;
}

static mocl_status load_file(mocl_ctx *ctx, mocl_tokenizer **out, const char *path) {
    char *data;
    size_t n;
    if (ends_with(path, ".gguf") || mocl_gguf_is(path)) return mocl_tok_load_gguf(ctx, out, path);
    MOCL_TRY(mocl_file_read(ctx, path, &data, &n));
    mocl_status st = load_data(ctx, out, path, data, n);
    mocl_free(data);
    return st;
}

mocl_status mocl_tokenizer_load_pair(mocl_ctx *ctx, mocl_tokenizer **out, const char *vocab_path,
                                     const char *merges_path) {
    tok_config config;
    *out = NULL;
    mocl_status st = mocl_tok_config_load(ctx, &config, vocab_path);
    if (!st) st = mocl_tok_load_pair(ctx, out, vocab_path, merges_path, &config);
    mocl_tok_config_free(&config);
    return st;
}

static mocl_status load_pair_in(mocl_ctx *ctx, mocl_tokenizer **out, const char *directory) {
    char *vocab = join(ctx, directory, "vocab.json"), *merges = join(ctx, directory, "merges.txt");
    char *words = join(ctx, directory, vocab_name);
    mocl_status st = vocab && merges && words ? MOCL_OK : mocl_nomem(ctx, strlen(directory));
    if (!st && exists(vocab) && exists(merges))
        st = mocl_tokenizer_load_pair(ctx, out, vocab, merges);
    else if (!st && exists(words))
        st = load_file(ctx, out, words);
    else if (!st && !exists(directory))
        st = mocl_fail(ctx, MOCL_E_IO, "%s: No such file or directory", directory);
    else if (!st)
        st = mocl_fail(ctx, MOCL_E_IO,
                       "%s: holds no tokenizer.json, tokenizer.model, tokenizer.bin, vocab.json with merges.txt or "
                       "vocab.txt",
                       directory);
    mocl_free(vocab);
    mocl_free(merges);
    mocl_free(words);
    return st;
}

mocl_status mocl_tokenizer_load(mocl_ctx *ctx, mocl_tokenizer **out, const char *path) {
    *out = NULL;
    if (!is_directory(path)) return load_file(ctx, out, path);
    for (int i = 0; i < N_NAMES; i++) {
        char *name = join(ctx, path, file_names[i].name);
        if (!name) return mocl_nomem(ctx, strlen(path));
        bool there = exists(name);
        mocl_status st = there ? load_file(ctx, out, name) : MOCL_OK;
        mocl_free(name);
        if (there) return st;
    }
    return load_pair_in(ctx, out, path);
}

/* ---- saving ---- */

typedef struct saving {
    mocl_ctx *ctx;
    mocl_tokenizer *t;
    bool directory; /* the path that was asked for is one */
    char *path;     /* of the tokenizer's file */
    char *side[TOK_SIDES];
    tok_bytes made; /* a tokenizer_config.json with the names of BOS and EOS */
} saving;

static mocl_status would_change(saving *s, const char *path, const char *why) {
    return mocl_fail(s->ctx, MOCL_E_FORMAT,
                     "%s: %s; remove this file, or save to another directory", mocl_path_tail(path),
                     why);
}

/* a file that a load of the directory finds before the one that is saved */
static mocl_status check_before(saving *s, const char *directory) {
    for (int i = 0; i < N_NAMES && file_names[i].source != s->t->source_kind; i++) {
        char *name = join(s->ctx, directory, file_names[i].name);
        if (!name) return mocl_nomem(s->ctx, strlen(directory));
        mocl_status st = exists(name)
                             ? would_change(s, name, "would be loaded in place of what is saved")
                             : MOCL_OK;
        mocl_free(name);
        MOCL_TRY(st);
    }
    return MOCL_OK;
}

static mocl_status check_ending(saving *s) {
    bool bin = ends_with(s->path, ".bin"), model = ends_with(s->path, ".model");
    tok_source source = s->t->source_kind;
    if (bin == (source == TOK_SOURCE_BIN) && model == (source == TOK_SOURCE_MODEL)) return MOCL_OK;
    return mocl_fail(s->ctx, MOCL_E_FORMAT,
                     "%s: this tokenizer is a '%s' and could not be loaded by this name; end the "
                     "name so, or make the directory first",
                     mocl_path_tail(s->path),
                     source == TOK_SOURCE_BIN     ? ".bin"
                     : source == TOK_SOURCE_MODEL ? ".model"
                                                  : ".json");
}

/* what goes into a file beside the tokenizer, NULL = no such file */
static const tok_bytes *content(saving *s, int side) {
    if (s->t->side_there[side]) return &s->t->side[side];
    return side == TOK_SIDE_CONFIG && s->directory && s->t->source_kind == TOK_SOURCE_JSON
               ? &s->made
               : NULL;
}

/* A file that lies there must be one that is written anew, or say what the tokenizer says. */
static mocl_status check_side(saving *s, int side) {
    char *data;
    size_t n;
    const char *path = s->side[side];
    if (!exists(path) || (s->directory && content(s, side))) return MOCL_OK;
    MOCL_TRY(mocl_file_read(s->ctx, path, &data, &n));
    const tok_bytes *same = s->t->side_there[side]    ? &s->t->side[side]
                            : side == TOK_SIDE_CONFIG ? &s->made
                                                      : NULL;
    bool equal = same && same->n == n && memcmp(same->p, data, n) == 0;
    mocl_free(data);
    return equal ? MOCL_OK
                 : would_change(s, path, "belongs to another tokenizer and would change this one");
}

static mocl_status save(saving *s, const char *path) {
    mocl_ctx *ctx = s->ctx;
    bool sides = s->t->source_kind != TOK_SOURCE_BIN; /* transformers knows no .bin */
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    for (int i = 0; i < N_NAMES && s->directory; i++)
        if (file_names[i].source == s->t->source_kind)
            s->path = join(ctx, path, file_names[i].name);
    if (!s->directory && (s->path = mocl_alloc(ctx, strlen(path) + 1)) != NULL)
        strcpy(s->path, path);
    char *directory = mocl_alloc(ctx, strlen(path) + 3);
    mocl_status st = s->path && directory ? MOCL_OK : mocl_nomem(ctx, strlen(path));
    if (!st) {
        strcpy(directory, s->directory || slash ? path : ".");
        if (!s->directory && slash) directory[n ? n : 1] = '\0';
        for (int i = 0; i < TOK_SIDES && !st; i++)
            if (!(s->side[i] = join(ctx, directory, mocl_tok_side_name[i])))
                st = mocl_nomem(ctx, strlen(path));
    }
    mocl_free(directory);
    if (!st) st = s->directory ? check_before(s, path) : check_ending(s);
    if (!st && s->t->source_kind == TOK_SOURCE_JSON)
        st = mocl_tok_write_config(ctx, s->t, &s->made);
    for (int i = 0; i < TOK_SIDES && sides && !st; i++) st = check_side(s, i);
    if (!st) st = mocl_file_write_atomic(ctx, s->path, s->t->source.p, s->t->source.n);
    for (int i = 0; i < TOK_SIDES && sides && !st; i++) {
        const tok_bytes *b = content(s, i);
        if (b) st = mocl_file_write_atomic(ctx, s->side[i], b->p, b->n);
    }
    return st;
}

mocl_status mocl_tokenizer_save(mocl_ctx *ctx, mocl_tokenizer *t, const char *path) {
    saving s = {.ctx = ctx, .t = t, .directory = is_directory(path)};
    mocl_status st = save(&s, path);
    mocl_free(s.path);
    mocl_free(s.made.p);
    for (int i = 0; i < TOK_SIDES; i++) mocl_free(s.side[i]);
    return st;
}
