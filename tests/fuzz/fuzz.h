/* fuzz.h - what the fuzz targets share. A target is a program of libFuzzer that gives arbitrary bytes to one reader of
** files. It stops, which libFuzzer reports with the input, where the reader does what none may do: touch memory that is
** not its own, compute what C leaves undefined, lose memory, run for long, take memory that the file does not account
** for, fail without a message that names the file, or take a lack of memory for a mistake in the file. tests/fuzz/run.sh
** runs them all.
*/
#ifndef MOCL_FUZZ_H
#define MOCL_FUZZ_H

#include "base.h"

enum { FUZZ_FILES = 4 };

/* libFuzzer's entry, one in each target */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Writes a file with this name into the directory of the run ($MOCL_FUZZ_DIR) and returns its path, which lives until
** the next call. */
const char *fuzz_file(const char *name, const void *data, size_t n);
/* the directory */
const char *fuzz_dir(void);

/* Cuts the input at each "<<FILE>>" and writes the parts as files of these names. A name without a part is removed. */
void fuzz_files(const char *const names[], int n_names, const uint8_t *data, size_t n);

/* Calls read(ctx, path) and checks how it ends; then once more with one of its allocations failing, the one that the
** bytes of the input choose, which must end as MOCL_E_NOMEM. read frees all that it made. */
void fuzz_read(mocl_status (*read)(mocl_ctx *ctx, const char *path), const char *path, const uint8_t *data, size_t n);

/* Stops the program with a line that says why. */
_Noreturn void fuzz_stop(const char *what, const char *detail);

#define FUZZ_CHECK(condition)                                  \
    do {                                                       \
        if (!(condition)) fuzz_stop("not true", #condition);   \
    } while (0)

#endif
