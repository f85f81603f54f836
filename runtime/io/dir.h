/* dir.h - directories and links. Failures are MOCL_E_IO with the text "path: reason". */
#ifndef MOCL_DIR_H
#define MOCL_DIR_H

#include "base.h"

/* Makes the directory and its missing parents; one that is there already is fine. */
mocl_status mocl_dir_make(mocl_ctx *ctx, const char *path);

/* *names receives the names in the directory without "." and "..", sorted by bytes, each followed
** by a NUL, *n their total size. Free with mocl_free. */
mocl_status mocl_dir_list(mocl_ctx *ctx, const char *path, char **names, size_t *n);

/* Removes a file, a link or a directory with all that is in it. Links are removed, never followed.
** Refuses "/", and names whose last part is "." or "..". A path that is not there is an error.
** Stops at the first failure: what was removed until then is gone. */
mocl_status mocl_dir_remove_tree(mocl_ctx *ctx, const char *path);

/* Makes `link` a symbolic link to `target` (taken as it is, relative to the directory of `link`),
** atomically replacing a link or file of that name; refuses to replace a directory. */
mocl_status mocl_link_replace(mocl_ctx *ctx, const char *target, const char *link);

#endif
