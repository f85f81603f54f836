/* test_failures.c [MEMORY [DISK [SEED]]] - a whole small run of recipes/moc_hh.lua with memory or the disk failing
** somewhere in it, MEMORY (12) and DISK (10) times; 0 = at every place there is.
**
** This program has its own malloc, so each allocation of the process can fail: those of mocl, of Lua, of the
** libraries and of the C library. A place is a return address and a depth of the C stack, which together tell the
** chain of calls; it is tried at its 1st, 8th, 64th, ... arrival. Each write, sync, rename and so on is a place of
** its own, and fails with ENOSPC or EIO. A fault is "lasting" (until the script has ended) or "short" (that call and, for memory, the
** next one, which is Lua's second try after a collection).
**
** After each: words that say what happened, or a run that is complete with the right bytes; the same state then
** takes a training step with the right loss, has no tensor, file or lock left; the run continued with resume=auto
** has the bytes of an unbroken one; the state closes and every block of memory is free again.
**
** Under a sanitizer, which has its own malloc, the linker's --wrap takes the calls from mocl alone, and the blocks
** are counted by the sanitizer.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mocl.h"

#pragma GCC visibility push(default) /* the functions of the same names elsewhere are replaced by those here */

/* ---- which call fails ---------------------------------------------------------------------------- */

typedef enum fault_kind { MEMORY, DISK } fault_kind;

enum { PLACES = 1 << 16 }; /* room of the table of places; more are not looked at */

typedef struct place {
    uintptr_t key;    /* 0 = free */
    uint32_t arrived; /* in the run numbered `run` */
    uint32_t run;
    uint32_t tried;   /* bit i: arrival 8^i has been given its chance */
} place;

static place places[2][PLACES];

static struct {
    bool armed;       /* a call may fail now */
    bool hit;         /* one did */
    bool lasting;
    fault_kind kind;  /* of calls that fail */
    int left;         /* of a short fault: further calls to fail */
    int error;        /* DISK: errno */
    uint32_t run;
    uint64_t calls;   /* in this run */
    uint64_t chances; /* places and arrivals found so far */
    uint64_t every, offset; /* those chosen: chances % every == offset */
    const char *what; /* name of the call that failed first */
    size_t bytes;     /* that it asked for */
    uintptr_t from;   /* and who called */
} fault;

static pthread_t main_thread;
static char *stack_base;
static atomic_long blocks; /* allocated and not freed */

static place *find_place(fault_kind kind, uintptr_t key) {
    for (uintptr_t i = key * 0x9E3779B97F4A7C15u >> 48, n = 0; n < PLACES; i++, n++) {
        place *p = &places[kind][i % PLACES];
        if (p->key == key) return p;
        if (p->key) continue;
        p->key = key;
        return p;
    }
    return NULL;
}

/* Shall this call fail? `from`: its return address; `frame`: an address in its frame. */
static bool fails(fault_kind kind, const char *what, size_t bytes, void *from, void *frame) {
    if (!fault.armed || fault.kind != kind || !pthread_equal(pthread_self(), main_thread)) return false;
    if (fault.hit) return fault.lasting || fault.left-- > 0;
    fault.calls++;
    place *p = find_place(kind, kind == DISK ? fault.calls : (uintptr_t)from * 31 + (uintptr_t)(stack_base - (char *)frame));
    if (!p) return false;
    if (p->run != fault.run) p->run = fault.run, p->arrived = 0;
    uint32_t n = ++p->arrived, power = 0;
    while (n > 1 && n % 8 == 0) n /= 8, power++;
    if (n != 1 || p->tried >> power & 1) return false;
    p->tried |= 1u << power;
    if (fault.chances++ % fault.every != fault.offset) return false;
    fault.hit = true;
    fault.left = kind == MEMORY ? 1 : 0;
    fault.what = what;
    fault.bytes = bytes;
    fault.from = (uintptr_t)from;
    return true;
}

#define FAILS(kind, what, bytes) fails(kind, what, bytes, __builtin_return_address(0), __builtin_frame_address(0))

/* ---- the allocator ------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { COUNTS_BLOCKS = 0 };
#define OURS(name) __wrap_##name
#define REAL(name) __real_##name
#define real_aligned __real_aligned_alloc
#else
enum { COUNTS_BLOCKS = 1 };
#define OURS(name) name
#define REAL(name) __libc_##name
#define real_aligned __libc_memalign
void free(void *p);
void __libc_free(void *p);
void *memalign(size_t alignment, size_t bytes);
int posix_memalign(void **out, size_t alignment, size_t bytes);
#endif

void *REAL(malloc)(size_t bytes);
void *REAL(calloc)(size_t n, size_t bytes);
void *REAL(realloc)(void *p, size_t bytes);
void *real_aligned(size_t alignment, size_t bytes);
void *OURS(malloc)(size_t bytes);
void *OURS(calloc)(size_t n, size_t bytes);
void *OURS(realloc)(void *p, size_t bytes);
void *OURS(aligned_alloc)(size_t alignment, size_t bytes);

static void *counted(void *p) {
    if (p) atomic_fetch_add_explicit(&blocks, 1, memory_order_relaxed);
    return p;
}

static void *no_memory(void) {
    errno = ENOMEM;
    return NULL;
}

void *OURS(malloc)(size_t bytes) {
    return FAILS(MEMORY, "malloc", bytes) ? no_memory() : counted(REAL(malloc)(bytes));
}

void *OURS(calloc)(size_t n, size_t bytes) {
    return FAILS(MEMORY, "calloc", n * bytes) ? no_memory() : counted(REAL(calloc)(n, bytes));
}

void *OURS(realloc)(void *p, size_t bytes) {
    if (!p) return FAILS(MEMORY, "realloc", bytes) ? no_memory() : counted(REAL(realloc)(p, bytes));
    if (bytes == 0) {
        free(p);
        return NULL;
    }
    if (bytes > malloc_usable_size(p) && FAILS(MEMORY, "realloc", bytes)) return no_memory();
    return REAL(realloc)(p, bytes);
}

void *OURS(aligned_alloc)(size_t alignment, size_t bytes) {
    return FAILS(MEMORY, "aligned_alloc", bytes) ? no_memory() : counted(real_aligned(alignment, bytes));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void *memalign(size_t alignment, size_t bytes) {
    return counted(__libc_memalign(alignment, bytes));
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    *out = counted(__libc_memalign(alignment, bytes));
    return *out ? 0 : ENOMEM;
}

void free(void *p) {
    if (p) atomic_fetch_sub_explicit(&blocks, 1, memory_order_relaxed);
    __libc_free(p);
}
#endif

/* ---- the disk: calls that may need room on it ----------------------------------------------------- */

static struct {
    int (*open)(const char *, int, ...);
    ssize_t (*write)(int, const void *, size_t);
    int (*fsync)(int), (*rename)(const char *, const char *), (*mkdir)(const char *, mode_t);
    int (*symlink)(const char *, const char *), (*truncate)(const char *, off_t), (*fflush)(FILE *);
    FILE *(*fopen)(const char *, const char *);
} real;

static void find_real(void) {
#define FIND(name) *(void **)&real.name = dlsym(RTLD_NEXT, #name)
    FIND(open);
    FIND(write);
    FIND(fsync);
    FIND(rename);
    FIND(mkdir);
    FIND(symlink);
    FIND(truncate);
    FIND(fflush);
    FIND(fopen);
#undef FIND
}

static bool disk_fails(const char *what, void *from, void *frame) {
    if (!fails(DISK, what, 0, from, frame)) return false;
    errno = fault.error;
    return true;
}
#define DISK_FAILS(what) disk_fails(what, __builtin_return_address(0), __builtin_frame_address(0))

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list ap;
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
        if (DISK_FAILS("open")) return -1;
    }
    return real.open(path, flags, mode);
}

FILE *fopen64(const char *path, const char *mode);
FILE *fopen(const char *path, const char *mode) {
    if (mode[0] != 'r' && DISK_FAILS("fopen")) return NULL;
    return real.fopen(path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    if (mode[0] != 'r' && DISK_FAILS("fopen")) return NULL;
    return real.fopen(path, mode);
}

ssize_t write(int fd, const void *data, size_t n) {
    if (!DISK_FAILS("write")) return real.write(fd, data, n);
    return -1;
}

int fsync(int fd) { return DISK_FAILS("fsync") ? -1 : real.fsync(fd); }
int rename(const char *a, const char *b) { return DISK_FAILS("rename") ? -1 : real.rename(a, b); }
int mkdir(const char *path, mode_t mode) { return DISK_FAILS("mkdir") ? -1 : real.mkdir(path, mode); }
int symlink(const char *a, const char *b) { return DISK_FAILS("symlink") ? -1 : real.symlink(a, b); }
int truncate(const char *path, off_t n) { return DISK_FAILS("truncate") ? -1 : real.truncate(path, n); }
int fflush(FILE *f) { return f != stdout && f != stderr && DISK_FAILS("fflush") ? EOF : real.fflush(f); }

/* ---- counting ------------------------------------------------------------------------------------- */

static int passed, failed;
static char root[] = "/tmp/mocl-failures-XXXXXX";
static FILE *out; /* the results: stdout belongs to the recipe, and goes nowhere */

static void tell(const char *mode, const char *what, const char *more) {
    Dl_info info;
    const char *who = dladdr((void *)fault.from, &info) && info.dli_sname ? info.dli_sname : "?";
    const char *file = fault.from && dladdr((void *)fault.from, &info) ? info.dli_fname : "";
    fprintf(out, "FAIL %s %s of %zu bytes from %s+%#zx (%s): %s%s%s\n", mode, fault.what ? fault.what : "no call",
            fault.bytes, file, fault.from - (fault.from ? (uintptr_t)info.dli_fbase : 0), who, what,
            more && *more ? ": " : "", more ? more : "");
    real.fflush(out);
}

/* ---- runs ------------------------------------------------------------------------------------------ */

static mocl_ctx *open_state(void) {
    return mocl_open(&(mocl_options){.size = sizeof(mocl_options), .n_threads = 2, .ignore_env = 1});
}

/* A run of the recipe in `ctx`. */
static int run(mocl_ctx *ctx, const char *dir, bool resume) {
    char code[256];
    snprintf(code, sizeof code, "arg = assert(loadfile('tests/failures.lua'))().arguments('%s', %s)", dir,
             resume ? "true" : "false");
    int status = mocl_dostring(ctx, code, "=arguments");
    return status ? status : mocl_dofile(ctx, "recipes/moc_hh.lua");
}

/* Calls a function of tests/failures.lua; false if it raised, with *why the reason. */
static bool ask(mocl_ctx *ctx, const char *function, const char *a, const char *b) {
    char code[256];
    snprintf(code, sizeof code, "return assert(loadfile('tests/failures.lua'))().%s(%s%s%s%s%s%s)", function,
             a ? "'" : "", a ? a : "", a ? "'" : "", b ? ", '" : "", b ? b : "", b ? "'" : "");
    return mocl_dostring(ctx, code, "=ask") == MOCL_DONE;
}

static int open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

static bool has_words(const char *message) {
    const char *words = fault.kind == DISK ? strerror(fault.error) : "memory"; /* or: Cannot allocate memory */
    return strstr(message, words) && !strstr(message, "attempt to") && !strstr(message, "internal");
}

static const char *mode_name(void) {
    return fault.kind == DISK ? fault.lasting ? "lasting disk" : "short disk"
                              : fault.lasting ? "lasting memory" : "short memory";
}

/* One run with a fault. False when no place was left to fail at. */
static bool one(int number, const char *reference) {
    char dir[128];
    const char *problem = NULL;
    static char more[2048];
    int files = open_files();
    long before = atomic_load(&blocks);
    snprintf(dir, sizeof dir, "%s/%d", root, number);
    more[0] = '\0';
    fault.hit = false;
    fault.what = NULL;
    fault.from = 0;
    fault.run++;
    fault.calls = 0;
    fault.armed = true;
    mocl_ctx *ctx = open_state();
    int status = ctx ? run(ctx, dir, false) : MOCL_FAILED;
    fault.armed = false;
    bool hit = fault.hit;
    if (!ctx) {
        ctx = hit ? NULL : open_state();
    } else {
        snprintf(more, sizeof more, "%s", mocl_error(ctx));
        if (status && !hit) problem = "failed without a fault";
        else if (status == MOCL_INTERRUPTED) problem = "interrupted";
        else if (status && !has_words(more)) problem = "the message has not the right words";
        else if (!ask(ctx, "alive", dir, fault.lasting ? "lasting" : "short"))
            problem = "the state", snprintf(more, sizeof more, "%s", mocl_error(ctx));
        else if (open_files() != files)
            problem = "files are open";
        else if (status && run(ctx, dir, true))
            problem = "cannot be continued", snprintf(more, sizeof more, "%s", mocl_error(ctx));
        else if (!ask(ctx, "same", dir, reference))
            problem = "other bytes", snprintf(more, sizeof more, "%s", mocl_error(ctx));
    }
    mocl_close(ctx);
    if (!problem && COUNTS_BLOCKS && atomic_load(&blocks) != before) {
        problem = "blocks of memory are lost";
        snprintf(more, sizeof more, "%ld", atomic_load(&blocks) - before);
    }
    if (problem) {
        failed++;
        tell(mode_name(), problem, more);
    } else if (hit) {
        passed++;
    }
    mocl_ctx *clean = open_state();
    ask(clean, "remove", dir, NULL);
    mocl_close(clean);
    return hit;
}

int main(int argc, char **argv) {
    char reference[128], base;
    const uint64_t wanted[] = {argc > 1 ? strtoull(argv[1], NULL, 10) : 12, argc > 2 ? strtoull(argv[2], NULL, 10) : 10};
    uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    find_real();
    stack_base = &base;
    main_thread = pthread_self();
    int fd = dup(STDOUT_FILENO);
    out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!out || !real.fopen("/dev/null", "r") || !freopen("/dev/null", "w", stdout)) return 2;
    if (!mkdtemp(root)) return 2;
    snprintf(reference, sizeof reference, "%s/reference", root);
    mocl_ctx *ctx = open_state();
    if (!ctx || run(ctx, reference, false)) {
        fprintf(out, "FAIL the run without faults: %s\n0 passed, 1 failed\n", ctx ? mocl_error(ctx) : "no state");
        return 1;
    }
    mocl_close(ctx);

    int number = 0;
    for (int kind = MEMORY; kind <= DISK; kind++) {
        /* a run in which no place is chosen: it finds those that there are, to know how many to leave out */
        fault.kind = (fault_kind)kind;
        fault.every = UINT64_MAX, fault.offset = UINT64_MAX - 1;
        fault.chances = 0;
        one(number++, reference);
        uint64_t there = fault.chances;
        memset(places[kind], 0, sizeof places[kind]);
        fault.chances = 0;
        fault.every = wanted[kind] > 0 && there > wanted[kind] ? there / wanted[kind] : 1;
        fault.offset = seed % fault.every;
        int faults = 0;
        do {
            fault.lasting = (fault.run & 1) != 0;
            fault.error = fault.run & 2 ? ENOSPC : EIO;
        } while (one(number++, reference) && ++faults);
        fprintf(out, "%s: %d faults, of %llu places and arrivals found\n", kind == MEMORY ? "memory" : "disk", faults,
                (unsigned long long)there);
        real.fflush(out);
    }
    ctx = open_state();
    ask(ctx, "remove", root, NULL);
    mocl_close(ctx);
    fprintf(out, "%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
