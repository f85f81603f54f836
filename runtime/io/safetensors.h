/* safetensors.h - the safetensors format: 8 bytes little-endian length of the header, a JSON header
** {"name": {"dtype", "shape", "data_offsets"}, ..., "__metadata__": {"key": "text"}} and the data.
**
** The reader checks everything before it hands out a pointer and refuses what the format forbids: a
** header that is no JSON object or is over 100 MB, unknown dtypes, shapes that do not fit their bytes, overlaps, holes, and a
** file that is longer or shorter than its tensors. As the format's own library it takes blanks around the header, metadata that
** is null, and names with "\u0000". A name that is there twice is refused where its descriptions differ. Failures:
** "path: reason" or "path: tensor 'x': reason". Little-endian machines only.
*/
#ifndef MOCL_SAFETENSORS_H
#define MOCL_SAFETENSORS_H

#include "io/file_hash.h"
#include "tensor.h"

/* Bits of one element of a dtype as the format names it ("F32", "BOOL", ...), 0 if unknown. */
int mocl_safetensors_bits(const char *dtype);
/* Its place in the format's fixed order of dtypes, narrow before wide; -1 if unknown. */
int mocl_safetensors_rank(const char *dtype);

/* ---- reading ---- */

typedef struct mocl_safetensors_entry {
    const char *name;     /* name_bytes bytes, among which there may be zero bytes, and one more */
    size_t name_bytes;
    const char *dtype;
    int ndim;             /* 0 for a scalar */
    const int64_t *shape; /* ndim sizes */
    const void *data;     /* inside the mapped file, not aligned to anything: copy it out */
    size_t bytes;
} mocl_safetensors_entry;

typedef struct mocl_safetensors_pair {
    const char *key;
    const char *value;
} mocl_safetensors_pair;

/* a pair of the metadata as it was read: among the bytes there may be zero bytes, and there is one more behind them */
typedef struct mocl_safetensors_text {
    const char *key, *value;
    size_t key_bytes, value_bytes;
} mocl_safetensors_text;

/* All pointers live until close. Changing the file while it is open changes the data; cutting it
** makes reads of the lost part fault (SIGBUS): replace files by renaming, as mocl_writer does. */
typedef struct mocl_safetensors {
    size_t n;
    const mocl_safetensors_entry *entries; /* in the order of their bytes in the file */
    size_t n_metadata;
    const mocl_safetensors_text *metadata; /* sorted by key */
    /* private */
    const mocl_safetensors_entry **by_name;
    int64_t *sizes; /* pools the entries point into */
    char *text;
    void *map;
    size_t map_bytes;
    mocl_mapping *mapping; /* of mocl_safetensors_tensor: owns the map from then on */
    mocl_passing hash;
} mocl_safetensors;

/* On failure *out is NULL. Free with mocl_safetensors_close (NULL is fine). */
mocl_status mocl_safetensors_open(mocl_ctx *ctx, mocl_safetensors **out, const char *path);
void mocl_safetensors_close(mocl_safetensors *s);

/* For a reader that copies all entries in their order: hashes entry i before it is copied, so that its bytes come from the disk
** once (file_hash.h); and, behind the last one, remembers the hash of the file. Both do nothing unless hashes are wanted. */
void mocl_safetensors_pass(mocl_safetensors *s, size_t i);
void mocl_safetensors_passed(mocl_ctx *ctx, mocl_safetensors *s, const char *path);

/* Entry e as a tensor on dev: a copy, or, if `map` is set, dev is the cpu and the entry is aligned to its type, the mapped file
** itself (mocl_tensor_of_map), which then stays mapped as long as the tensor lives. */
mocl_status mocl_safetensors_tensor(mocl_tensor **out, mocl_device *dev, mocl_safetensors *s, const mocl_safetensors_entry *e,
                                    mk_dtype dtype, bool map);

/* NULL if there is none. Names with zero bytes are not found. */
const mocl_safetensors_entry *mocl_safetensors_find(const mocl_safetensors *s, const char *name);

/* ---- writing ---- */

typedef struct mocl_safetensors_source {
    const char *name;  /* UTF-8, not "__metadata__", each once */
    const char *dtype; /* as in mocl_safetensors_bits */
    int ndim;
    const int64_t *shape;
    const void *data;  /* all bytes, or NULL: then fill is asked piece by piece, in order */
    mocl_status (*fill)(mocl_ctx *ctx, void *user, size_t offset, void *buffer, size_t n);
    void *user;
} mocl_safetensors_source;

/* Writes the file atomically (file.h). The bytes depend on the arguments alone, not on their order:
** tensors are sorted by dtype, widest first, so that each is aligned to its element size, then by
** name, which is also the order of the format's own library; the header is padded with spaces to a
** multiple of 8 bytes. Wrong arguments are MOCL_E_ARG. */
mocl_status mocl_safetensors_write(mocl_ctx *ctx, const char *path,
                                   const mocl_safetensors_source *list, size_t n,
                                   const mocl_safetensors_pair *metadata, size_t n_metadata);

#endif
