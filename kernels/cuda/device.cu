/* device.cu - the device itself: what is there, its stream, memory, copies and first fault. */
#include "mk_cuda.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common.cuh"
#include "cublaslt.cuh"
#include "table.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define SM_MIN 80 /* compute capability 8.0 */
#ifndef MK_CUDA_SM /* the least one that the object was built for; the emulator is built for none */
#define MK_CUDA_SM SM_MIN
#endif

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

struct mk_cuda_state {
    int index, multiprocessors;
    cudaStream_t stream;
    void *scratch;
    size_t scratch_bytes;
    mk_cublaslt *lt;   /* NULL before the first product that might use it */
    bool sync;         /* MOCL_CUDA_SYNC=1: wait after each launch, so that a fault names its kernel */
    char fault[320];   /* the first one; empty while all is well */
};

static mk_cuda_state *state(mk_exec *e) { return static_cast<mk_cuda_state *>(e->device); }

/* Records the first fault and returns the code of the call. */
static int check(mk_cuda_state *s, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return MK_OK;
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* does not stick */
        return MK_NOMEM;
    }
    if (!s->fault[0])
        snprintf(s->fault, sizeof s->fault, "%s: %s%s", what, cudaGetErrorString(error),
                 s->sync ? "" : " (noticed here; MOCL_CUDA_SYNC=1 names the kernel that did it)");
    return MK_FAULT;
}

/* The runtime's current device belongs to a host thread, and a context may move from thread to thread. */
static thread_local int current = -1;

int mk_cuda_ready(mk_exec *e) {
    mk_cuda_state *s = state(e);
    if (s->fault[0]) return 0;
    if (current != s->index) {
        if (check(s, cudaSetDevice(s->index), "cudaSetDevice")) return 0;
        current = s->index;
    }
    return 1;
}

cudaStream_t mk_cuda_stream(mk_exec *e) { return state(e)->stream; }
int mk_cuda_multiprocessors(mk_exec *e) { return state(e)->multiprocessors; }

int mk_cuda_launched(mk_exec *e, const char *kernel) {
    mk_cuda_state *s = state(e);
    e->launches++;
    MK_TRY(check(s, cudaGetLastError(), kernel));
    return s->sync ? check(s, cudaStreamSynchronize(s->stream), kernel) : (int)MK_OK;
}

mk_cublaslt **mk_cuda_cublaslt(mk_exec *e) { return &state(e)->lt; }

int mk_cuda_fail(mk_exec *e, const char *what, const char *text) {
    mk_cuda_state *s = state(e);
    if (!s->fault[0]) snprintf(s->fault, sizeof s->fault, "%s: %s", what, text);
    return MK_FAULT;
}

void *mk_cuda_scratch(mk_exec *e, size_t bytes) {
    mk_cuda_state *s = state(e);
    if (!mk_cuda_ready(e)) return nullptr;
    if (bytes > s->scratch_bytes) {
        /* earlier kernels may still use the old block: cudaFree waits for them */
        cudaFree(s->scratch);
        s->scratch = nullptr;
        s->scratch_bytes = 0;
        size_t want = (bytes + bytes / 4 + 4095) / 4096 * 4096;
        if (cudaMalloc(&s->scratch, want) != cudaSuccess) {
            (void)cudaGetLastError();
            want = bytes;
            if (cudaMalloc(&s->scratch, want) != cudaSuccess) {
                (void)cudaGetLastError();
                s->scratch = nullptr;
                e->refused = bytes;
                return nullptr;
            }
        }
        s->scratch_bytes = want;
    }
#ifdef MK_EMU
    emu_mark(s->scratch, bytes, s->scratch_bytes);
#endif
    return s->scratch;
}

int mk_cuda_copy_bytes(mk_exec *e, void *dst, const void *src, size_t bytes) {
    mk_cuda_state *s = state(e);
    if (!mk_cuda_ready(e)) return MK_FAULT;
    if (bytes == 0) return MK_OK;
    return check(s, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, s->stream), "copy");
}

int mk_cuda_fetch(mk_exec *e, void *host, const void *device, size_t bytes) {
    mk_cuda_state *s = state(e);
    if (!mk_cuda_ready(e)) return MK_FAULT;
    if (bytes) MK_TRY(check(s, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, s->stream), "download"));
    return check(s, cudaStreamSynchronize(s->stream), "download");
}

/* ---- what the runtime calls --------------------------------------------------------------------- */

static int probe(int index, char *text, size_t size) {
    int driver = 0, runtime = 0, count = 0, major = 0, minor = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        snprintf(text, size, "no NVIDIA driver on this machine (libcuda.so.1 is not there)");
        return 0;
    }
    cudaRuntimeGetVersion(&runtime);
    if (driver / 1000 < runtime / 1000) {
        snprintf(text, size, "the NVIDIA driver supports CUDA %d.%d, this build needs %d.0 or later: update the driver",
                 driver / 1000, driver % 1000 / 10, runtime / 1000);
        return 0;
    }
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        (void)cudaGetLastError();
        snprintf(text, size, "no CUDA device: %s", cudaGetErrorString(error ? error : cudaErrorNoDevice));
        return 0;
    }
    if (index < 0 || index >= count) {
        if (count == 1) snprintf(text, size, "there is no device %d: this machine has cuda:0 alone", index);
        else snprintf(text, size, "there is no device %d: this machine has cuda:0 to cuda:%d", index, count - 1);
        return 0;
    }
    cudaDeviceProp p;
    error = cudaGetDeviceProperties(&p, index);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        snprintf(text, size, "device %d does not answer: %s", index, cudaGetErrorString(error));
        return 0;
    }
    if (major * 10 + minor < SM_MIN) {
        snprintf(text, size, "%s has compute capability %d.%d; mocl needs 8.0 or later", p.name, major, minor);
        return 0;
    }
    if (major * 10 + minor < MK_CUDA_SM) {
        snprintf(text, size, "%s has compute capability %d.%d, this build is for %d.%d and later: make cuda CUDA_SM=%d%d", p.name,
                 major, minor, MK_CUDA_SM / 10, MK_CUDA_SM % 10, major, minor);
        return 0;
    }
    snprintf(text, size, "%s, compute capability %d.%d, %.1f GiB, driver for CUDA %d.%d", p.name, major, minor,
             (double)p.totalGlobalMem / 1073741824.0, driver / 1000, driver % 1000 / 10);
    return 1;
}

static int open_device(mk_exec *e, int index, char *why, size_t size) {
    if (!probe(index, why, size)) return MK_FAULT;
    mk_cuda_state *s = new (std::nothrow) mk_cuda_state();
    if (!s) return MK_NOMEM;
    const char *sync = getenv("MOCL_CUDA_SYNC");
    s->sync = sync && strcmp(sync, "1") == 0;
    s->index = index;
    cudaError_t error = cudaSetDevice(index);
    current = error == cudaSuccess ? index : -1;
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&s->multiprocessors, cudaDevAttrMultiProcessorCount, index);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        snprintf(why, size, "cannot open device %d: %s", index, cudaGetErrorString(error));
        delete s;
        return error == cudaErrorMemoryAllocation ? MK_NOMEM : MK_FAULT;
    }
    e->device = s;
    return MK_OK;
}

static void close_device(mk_exec *e) {
    mk_cuda_state *s = state(e);
    if (!s) return;
    (void)mk_cuda_ready(e); /* a device that has faulted is closed like any other */
    (void)cudaStreamSynchronize(s->stream);
    mk_cublaslt_close(s->lt);
    (void)cudaFree(s->scratch);
    (void)cudaStreamDestroy(s->stream);
    delete s;
    e->device = nullptr;
}

static void *alloc(mk_exec *e, size_t bytes) {
    mk_cuda_state *s = state(e);
    void *p = nullptr;
    if (!mk_cuda_ready(e)) return nullptr;
    return check(s, cudaMalloc(&p, bytes), "alloc") == MK_OK ? p : nullptr;
}

static void free_block(mk_exec *e, void *p) {
    (void)mk_cuda_ready(e);
    (void)check(state(e), cudaFree(p), "free");
}

static void memory(mk_exec *e, size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = *total_bytes = 0;
    if (mk_cuda_ready(e)) (void)check(state(e), cudaMemGetInfo(free_bytes, total_bytes), "memory");
}

static int upload(mk_exec *e, void *dst, const void *src, size_t bytes) {
    mk_cuda_state *s = state(e);
    if (!mk_cuda_ready(e)) return MK_FAULT;
    if (bytes == 0) return MK_OK;
    /* from pageable memory: returns when src has been read */
    return check(s, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, s->stream), "upload");
}

static int sync(mk_exec *e) {
    mk_cuda_state *s = state(e);
    if (!mk_cuda_ready(e)) return MK_FAULT;
    return check(s, cudaStreamSynchronize(s->stream), "sync");
}

static const char *fault(mk_exec *e) { return state(e)->fault[0] ? state(e)->fault : nullptr; }

EXPORT const mk_cuda_api *mk_cuda_api_get(void) {
    static const mk_table table = mk_cuda_table_make();
    static const mk_cuda_api api = {
        MK_CUDA_ABI, sizeof(mk_table), sizeof(mk_exec), sizeof(mk_real),
#ifdef MK_EMU
        1, "emulator", &table,
#else
        0, "nvcc " TEXT(__CUDACC_VER_MAJOR__) "." TEXT(__CUDACC_VER_MINOR__), &table,
#endif
        probe, mk_cublaslt_describe, open_device, close_device, alloc, free_block, memory, upload, mk_cuda_fetch, sync, fault,
#ifdef MK_EMU
        emu_mark, emu_check,
#else
        nullptr, nullptr,
#endif
    };
    return &api;
}
