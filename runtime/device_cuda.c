/* device_cuda.c - finding and loading mocl_cuda.so. Nothing here or in libmocl links CUDA.
**
** The object is the one that the environment variable MOCL_CUDA names, or else mocl_cuda.so beside the
** program or library this code is in, as it is built, or below ../lib/mocl, as it is installed. It stays loaded: the driver's
** libraries do not like to be unloaded.
*/
#define _GNU_SOURCE
#include "device_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OBJECT "mocl_cuda.so"

/* Into path: dir(file)/name, if that can be read. */
static bool beside(char *path, size_t size, const char *file, const char *name) {
    const char *slash = strrchr(file, '/');
    if (!slash) return false;
    int n = snprintf(path, size, "%.*s/%s", (int)(slash - file), file, name);
    return n > 0 && (size_t)n < size && access(path, R_OK) == 0;
}

static bool find_object(char *path, size_t size) {
    static const char *const places[] = {OBJECT, "../lib/mocl/" OBJECT, "mocl/" OBJECT, "../../mocl/" OBJECT};
    const char *wanted = getenv("MOCL_CUDA");
    char exe[2048];
    Dl_info here;
    if (wanted && *wanted) {
        int n = snprintf(path, size, "%s", wanted);
        return n > 0 && (size_t)n < size;
    }
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    bool known = dladdr((const void *)places, &here) && here.dli_fname;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if ((known && beside(path, size, here.dli_fname, places[i])) || beside(path, size, exe, places[i])) return true;
    return false;
}

/* NULL with the reason in why */
static const mk_cuda_api *load(char *why, size_t size) {
    char path[4096];
    if (!find_object(path, sizeof path)) {
        snprintf(why, size, "this build has no CUDA part (no " OBJECT " beside it; make cuda builds it, where nvcc is)");
        return NULL;
    }
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!object) {
        const char *error = dlerror();
        snprintf(why, size, "cannot load %s", error ? error : path);
        return NULL;
    }
    mk_cuda_api_getter get;
    void *symbol = dlsym(object, MK_CUDA_SYMBOL);
    memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from void * to a function */
    const mk_cuda_api *api = symbol ? get() : NULL;
    if (!api || api->abi != MK_CUDA_ABI || api->table_bytes != sizeof(mk_table) ||
        api->exec_bytes != sizeof(mk_exec)) {
        snprintf(why, size, "%s is of another version of mocl: build it again with this one", path);
        return NULL;
    }
    if (api->real_bytes != sizeof(mk_real)) {
        snprintf(why, size, "the build in double precision runs on the cpu alone");
        return NULL;
    }
    return api;
}

mocl_status mocl_cuda_describe(mocl_ctx *ctx, int index, char *text, size_t size) {
    char products[192];
    const mk_cuda_api *api = load(text, size);
    if (!api || !api->probe(index, text, size)) return MOCL_E_DEVICE;
    api->products(ctx->blas, products, sizeof products);
    size_t n = strlen(text);
    snprintf(text + n, size - n, " (%s); bf16 products: %s", api->made_by, products);
    return MOCL_OK;
}

mocl_status mocl_cuda_open(mocl_ctx *ctx, int index, mk_exec *exec, const mk_cuda_api **api) {
    char why[512] = "";
    *api = load(why, sizeof why);
    exec->blas = (mk_blas)ctx->blas;
    int code = *api ? (*api)->open(exec, index, why, sizeof why) : MK_FAULT;
    if (code == MK_NOMEM) return mocl_fail(ctx, MOCL_E_NOMEM, "device cuda:%d: no memory to open it", index);
    if (code) return mocl_fail(ctx, MOCL_E_DEVICE, "device 'cuda:%d' is not available: %s; use device=cpu", index, why);
    return MOCL_OK;
}
