/* runtime.cpp - the emulator's share of the CUDA runtime: one or more devices whose memory is the
** host's, and a stream in which everything has happened when the call returns.
*/
#include <cstdio>
#include <cstdlib>
#include <map>

#include "emu.h"
#include "emu_impl.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

struct emu_stream {
    int unused;
};

namespace {

/* What a host thread has made of its emulated device. A context belongs to one thread at a time, so two
** contexts in two threads do not meet. */
struct device_state {
    int sticky = 0;
    char text[256] = "";
    size_t used = 0;
    int64_t fault_at = 0; /* launches until the injected fault; 0 = none */
    bool reverse = false;
    std::map<void *, size_t> blocks;
};
thread_local device_state d;

int64_t number(const char *name, int64_t otherwise) {
    const char *s = getenv(name);
    return s && *s ? strtoll(s, nullptr, 10) : otherwise;
}

size_t total_memory() { return (size_t)number("MOCL_EMU_MEMORY", (int64_t)8 << 30); }

enum { GUARD_VALUE = 0xA5 };

} // namespace

namespace emu {

void device_fault(int code, const char *text) {
    if (d.sticky) return;
    d.sticky = code;
    snprintf(d.text, sizeof d.text, "%s", text);
}

bool injected_fault(int64_t) { return d.fault_at > 0 && --d.fault_at == 0; }
bool order_is_reverse() { return d.reverse; }

} // namespace emu

cudaError_t cudaDriverGetVersion(int *version) {
    *version = (int)number("MOCL_EMU_DRIVER", 99990);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = (int)number("MOCL_EMU_DEVICES", 1);
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    snprintf(p->name, sizeof p->name, "emulator");
    p->totalGlobalMem = total_memory();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int) {
    int64_t sm = number("MOCL_EMU_SM", 80);
    *value = what == cudaDevAttrMultiProcessorCount ? 4 : (int)(what == cudaDevAttrComputeCapabilityMajor ? sm / 10 : sm % 10);
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaMalloc(void **p, size_t bytes) {
    *p = nullptr;
    if (d.sticky) return d.sticky;
    size_t room = (bytes + 255) / 256 * 256;
    if (d.used + room > total_memory()) return cudaErrorMemoryAllocation;
    *p = aligned_alloc(256, room ? room : 256);
    if (!*p) return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    d.used += room;
    d.blocks[*p] = room;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    auto at = d.blocks.find(p);
    if (at == d.blocks.end()) return cudaErrorInvalidValue;
    ASAN_UNPOISON_MEMORY_REGION(p, at->second);
    d.used -= at->second;
    d.blocks.erase(at);
    free(p);
    return d.sticky;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = total_memory();
    *free_bytes = *total_bytes > d.used ? *total_bytes - d.used : 0;
    return d.sticky;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (d.sticky) return d.sticky;
    if (bytes) memcpy(dst, src, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t) {
    if (d.sticky) return d.sticky;
    memset(dst, value, bytes);
    return cudaSuccess;
}

/* a device is opened anew: what the environment says now holds, and faults are forgotten */
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    d.sticky = 0;
    d.text[0] = '\0';
    d.fault_at = number("MOCL_EMU_FAULT", 0);
    const char *order = getenv("MOCL_EMU_ORDER");
    d.reverse = order && strcmp(order, "reverse") == 0;
    *s = new (std::nothrow) emu_stream();
    return *s ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return d.sticky; }
cudaError_t cudaGetLastError() { return d.sticky; }

const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    default: return d.text[0] ? d.text : "emulated error";
    }
}

void emu_mark(void *p, size_t bytes, size_t rounded) {
    ASAN_UNPOISON_MEMORY_REGION(p, rounded);
    memset(p, 0xff, bytes);
    memset(static_cast<char *>(p) + bytes, GUARD_VALUE, rounded - bytes);
    ASAN_POISON_MEMORY_REGION(static_cast<char *>(p) + bytes, rounded - bytes);
}

int emu_check(void *p, size_t bytes, size_t rounded) {
    const unsigned char *c = static_cast<const unsigned char *>(p);
    ASAN_UNPOISON_MEMORY_REGION(p, rounded);
    for (size_t i = bytes; i < rounded; i++)
        if (c[i] != GUARD_VALUE) return 1;
    return 0;
}
