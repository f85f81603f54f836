/* gguf.h - the GGUF format, versions 2 and 3: "GGUF", version, number of tensors, number of keys; the keys with their
** values; the descriptions of the tensors; the data, each tensor at a multiple of the alignment.
**
** The reader checks everything before it hands out a pointer and refuses, with "path: reason": files that end too
** early, big-endian ones, lengths and counts that the file cannot hold, types that it does not know, keys and names
** that are there twice, are empty or hold zero bytes, an alignment that is no power of two, tensors without or with
** more than 4 dimensions, with a size of 0, with rows that do not fill their blocks, off the alignment, beyond the end
** of the file, or on top of each other. What it allocates is a small multiple of the file's own size. Little-endian
** machines only.
*/
#ifndef MOCL_GGUF_H
#define MOCL_GGUF_H

#include "base.h"
#include "tensor.h"

/* ---- types ---- */

typedef enum mocl_gguf_type {
    MOCL_GGUF_U8,
    MOCL_GGUF_I8,
    MOCL_GGUF_U16,
    MOCL_GGUF_I16,
    MOCL_GGUF_U32,
    MOCL_GGUF_I32,
    MOCL_GGUF_F32,
    MOCL_GGUF_BOOL,
    MOCL_GGUF_STRING,
    MOCL_GGUF_ARRAY,
    MOCL_GGUF_U64,
    MOCL_GGUF_I64,
    MOCL_GGUF_F64,
    MOCL_GGUF_TYPES
} mocl_gguf_type;

/* How the values of a tensor are stored: in blocks of `values` values and `bytes` bytes (gguf_blocks.c). */
typedef struct mocl_gguf_format {
    uint32_t id; /* in the file */
    const char *name;
    uint32_t values, bytes;
    /* one block to its values, in 32-bit arithmetic; NULL: mocl does not read this format */
    void (*unpack)(const unsigned char *block, mk_real *out);
    /* the reverse, with the bytes of llama.cpp; NULL: mocl does not write it */
    void (*pack)(const mk_real *in, unsigned char *block);
} mocl_gguf_format;

/* NULL if unknown */
const mocl_gguf_format *mocl_gguf_format_of(uint32_t id);
const mocl_gguf_format *mocl_gguf_format_named(const char *name);
/* n values, a multiple of format->values, to floats: the bits of llama.cpp. format->unpack must be there. */
void mocl_gguf_dequantize(const mocl_gguf_format *format, const void *data, size_t n, mk_real *out);

/* ---- reading ---- */

/* a value of the metadata; of the members the one that `type` says: `integer` for all integers (those of 64 bits
** without sign are below 2^63), `truth`, `real`, or the bytes of a string; for an array `count` values of type
** `element` from `at` */
typedef struct mocl_gguf_value {
    mocl_gguf_type type;
    int64_t integer;
    bool truth;
    double real;
    const char *text;
    size_t text_bytes; /* without a zero byte behind them */
    mocl_gguf_type element;
    uint64_t count;
    const unsigned char *at;
} mocl_gguf_value;

/* Reads a value of the type at `at` of an open file; returns where the next one begins. */
const unsigned char *mocl_gguf_read(mocl_gguf_value *out, mocl_gguf_type type, const unsigned char *at);

typedef struct mocl_gguf_key {
    const char *name; /* ends with a zero byte */
    mocl_gguf_value value;
} mocl_gguf_key;

typedef struct mocl_gguf_tensor {
    const char *name; /* ends with a zero byte */
    const mocl_gguf_format *format;
    int ndim;         /* 1 to 4 */
    int64_t shape[4]; /* the outermost size first, as in PyTorch; the file has the innermost first */
    const void *data; /* inside the mapped file */
    size_t bytes;
    int64_t numel;
} mocl_gguf_tensor;

/* All pointers live until close. Changing the file while it is open changes the data; cutting it makes reads of the
** lost part fault (SIGBUS): replace files by renaming, as mocl_writer does. */
typedef struct mocl_gguf {
    uint32_t version;
    uint32_t alignment;
    size_t n_keys;
    const mocl_gguf_key *keys; /* in the order of the file */
    size_t n_tensors;
    const mocl_gguf_tensor *tensors; /* in the order of the file */
    /* private */
    const mocl_gguf_key **keys_by_name;
    const mocl_gguf_tensor **tensors_by_name;
    char *text; /* the names */
    void *map;
    size_t map_bytes;
} mocl_gguf;

/* On failure *out is NULL. Free with mocl_gguf_close (NULL is fine). */
mocl_status mocl_gguf_open(mocl_ctx *ctx, mocl_gguf **out, const char *path);
void mocl_gguf_close(mocl_gguf *g);

/* NULL if there is none */
const mocl_gguf_key *mocl_gguf_find_key(const mocl_gguf *g, const char *name);
const mocl_gguf_tensor *mocl_gguf_find_tensor(const mocl_gguf *g, const char *name);

/* The tensor t on a device: f32, whatever format it is stored in, or the integer type that it has. heads above 0: t has
** the rows of so many attention heads in llama.cpp's order, in which the two halves of a head alternate for the rotary
** embedding, and *out has them in the order of Hugging Face, one half behind the other. MOCL_E_FORMAT where mocl does
** not read the format; `path` starts the message. */
mocl_status mocl_gguf_load(mocl_tensor **out, mocl_device *dev, const char *path, const mocl_gguf_tensor *t,
                           int64_t heads);

/* ---- writing (gguf_write.c) ---- */

typedef struct mocl_gguf_source {
    const char *name;               /* UTF-8, each once */
    const mocl_gguf_format *format; /* its pack is there */
    mocl_tensor *t;                 /* f32 or bf16, contiguous, 1 to 4 dimensions, rows of whole blocks */
    int64_t heads;                  /* as in mocl_gguf_load: above 0, rows are put into llama.cpp's order */
} mocl_gguf_source;

/* Writes a file of version 3 with alignment 32, atomically (file.h), the tensors in the order of the list. keys: n_keys
** keys with their values as they stand in a file, in key_bytes bytes. Wrong arguments are MOCL_E_ARG. */
mocl_status mocl_gguf_write(mocl_ctx *ctx, const char *path, const char *keys, size_t key_bytes, size_t n_keys,
                            const mocl_gguf_source *list, size_t n);

/* ---- names ---- */

/* "u32", "array"; "" if out of range */
const char *mocl_gguf_type_name(mocl_gguf_type type);

/* Whether the file at path begins as a GGUF file does, in either byte order. */
bool mocl_gguf_is(const char *path);

#endif
