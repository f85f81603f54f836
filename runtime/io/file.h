/* file.h - whole files: read into memory, written atomically.
**
** A write goes to a temporary name in the same directory, is synced and renamed over the old file,
** then the directory is synced: a reader, also one after a power cut, sees the old bytes or the new
** ones, never a part. Failures are MOCL_E_IO with the text "path: reason". Where the path is a
** symbolic link, the file it points to is replaced and the link stays. Refuses to replace what is
** not a regular file (a directory, a device).
*/
#ifndef MOCL_FILE_H
#define MOCL_FILE_H

#include <sys/stat.h>

#include "io/os.h"

/* *data receives the bytes of the file and one NUL after them, *n their number (without the NUL).
** Free with mocl_free. On failure *data is NULL and *n 0. Also reads pipes and /proc. */
mocl_status mocl_file_read(mocl_ctx *ctx, const char *path, char **data, size_t *n);

/* On failure the old file is untouched and the temporary one is gone (but if the very last step,
** the sync of the directory, fails, the new file is already in place). */
mocl_status mocl_file_write_atomic(mocl_ctx *ctx, const char *path, const void *data, size_t n);

/* What `from` holds becomes the file `to`, in the same way. */
mocl_status mocl_file_copy(mocl_ctx *ctx, const char *from, const char *to);

/* The same in pieces, for files too large for memory: begin, append any number of times, then
** commit or abort. commit and abort free the writer, whatever they return; after a failed append
** call abort (NULL is fine). On failure of begin *out is NULL. */
typedef struct mocl_writer mocl_writer;
mocl_status mocl_writer_begin(mocl_ctx *ctx, mocl_writer **out, const char *path);
mocl_status mocl_writer_append(mocl_writer *w, const void *data, size_t n);
mocl_status mocl_writer_commit(mocl_writer *w);
void mocl_writer_abort(mocl_writer *w);

/* fsync of a file or directory */
mocl_status mocl_file_sync(mocl_ctx *ctx, const char *path);
/* fsync of the directory that holds `path`, after a name in it has changed */
mocl_status mocl_file_sync_parent(mocl_ctx *ctx, const char *path);

/* Maps a regular file to be read: *map and *bytes, NULL and 0 of an empty one and on failure; *info is what stat says of it.
** Free with munmap. */
mocl_status mocl_file_map(mocl_ctx *ctx, const char *path, void **map, size_t *bytes, struct stat *info);

/* The pages of bytes [at, at + n) of a mapped file leave this process's memory until they are read again: for a reader that has
** copied them. Pages that lie partly outside stay. */
void mocl_file_forget(const void *at, size_t n);

/* A new name in the directory of `path` that no file has and that only this process makes:
** directory/.mocl-PID-NUMBER.tmp. Free with mocl_free; NULL without memory. */
char *mocl_path_temporary(mocl_ctx *ctx, const char *path, int number);

#endif
