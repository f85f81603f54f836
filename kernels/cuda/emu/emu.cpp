/* emu.cpp - the emulator's fibers: blocks, threads, barriers, warp operations, shared memory. */
#include "emu.h"

#include <cstdio>
#include <cstdlib>
#include <new>
#include <sys/mman.h>

#include "emu_impl.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SWITCH_BEGIN(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define SWITCH_END(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define SWITCH_BEGIN(save, bottom, size) ((void)(save))
#define SWITCH_END(saved, bottom, size) ((void)(saved))
#endif

namespace emu {

enum { MAX_THREADS = 1024, STACK = 128 * 1024, GUARD = 4096, SHARED_LIMIT = 48 * 1024, REDZONE = 64 };
enum state { READY, AT_BARRIER, AT_WARP, DONE };

/* ---- switching stacks ----------------------------------------------------------------------------- */

#if defined(__x86_64__)
/* Saves the callee-saved registers and the stack pointer in *from, continues at `to`. */
extern "C" void mk_emu_switch(void **from, void *to);
asm(".text\n.p2align 4\n.globl mk_emu_switch\n.hidden mk_emu_switch\n.type mk_emu_switch,@function\n"
    "mk_emu_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size mk_emu_switch,.-mk_emu_switch\n");
typedef void *machine;
static void machine_switch(machine *from, machine *to) { mk_emu_switch(from, *to); }
static void machine_make(machine *m, char *stack, size_t size, int number, void (*entry)()) {
    size -= (size_t)number * 192 % 4096; /* so that the stacks' ends do not fall into the same lines of the cache */
    void **top = reinterpret_cast<void **>(stack + size) - 1; /* at entry rsp + 8 is a multiple of 16 */
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    *m = top;
}
#else
typedef ucontext_t machine;
static void machine_switch(machine *from, machine *to) { swapcontext(from, to); }
static void machine_make(machine *m, char *stack, size_t size, int number, void (*entry)()) {
    (void)number;
    getcontext(m);
    m->uc_stack.ss_sp = stack;
    m->uc_stack.ss_size = size;
    m->uc_link = nullptr;
    makecontext(m, entry, 0);
}
#endif

/* ---- a block -------------------------------------------------------------------------------------- */

struct fiber {
    dim3 thread;
    machine m;
    void *fake_stack; /* the sanitizer's */
    state st;
    unsigned mask;    /* of the warp operation it waits in */
    unsigned phase;   /* number of warp operations done, for the two sets of slots */
};

struct array {
    const void *tag;
    char *p;
    size_t bytes;
};

struct block_state {
    fiber f[MAX_THREADS];
    uint64_t slot[2][MAX_THREADS]; /* what lanes exchange; two sets, so that one barrier is enough */
    unsigned slot_mask[MAX_THREADS / 32]; /* lanes that wait in a warp operation */
    int threads;
    shape at;
    dim3 numbered_for; /* the block whose threads have their numbers */
    fiber *self;
    machine scheduler;
    void *scheduler_fake;
    const void *scheduler_bottom;
    size_t scheduler_size;
    body run;
    const void *arguments;
    char *stacks;
    char *shared_memory;
    size_t shared_used;
    array arrays[64];
    int n_arrays;
    char why[160]; /* a fault of this launch */
    int64_t launches;
    ~block_state() {
        ASAN_UNPOISON_MEMORY_REGION(shared_memory, 2 * SHARED_LIMIT);
        if (stacks) munmap(stacks, (size_t)MAX_THREADS * (STACK + GUARD));
        free(shared_memory);
    }
};

/* One for each host thread that launches. A plain pointer of the fast thread-local kind: fibers look at it
** all the time. */
static thread_local struct owner {
    block_state *p = nullptr;
    ~owner() { delete p; }
} owned;
static thread_local block_state *current __attribute__((tls_model("initial-exec"))) = nullptr;
#define b (*current)

const dim3 &thread() { return b.self->thread; }
const shape &here() { return b.at; }
unsigned lane() { return (unsigned)(b.self - b.f) % 32; }

static void to_scheduler() {
    fiber *f = b.self;
    SWITCH_BEGIN(f->st == DONE ? nullptr : &f->fake_stack, b.scheduler_bottom, b.scheduler_size);
    machine_switch(&f->m, &b.scheduler);
    SWITCH_END(f->fake_stack, &b.scheduler_bottom, &b.scheduler_size);
}

static void fiber_main() {
    SWITCH_END(nullptr, &b.scheduler_bottom, &b.scheduler_size);
    b.run(b.arguments);
    b.self->st = DONE;
    to_scheduler();
}

static char *stack_of(int i) { return b.stacks + (size_t)i * (STACK + GUARD) + GUARD; }

static void resume(fiber *f) {
    b.self = f;
    SWITCH_BEGIN(&b.scheduler_fake, stack_of((int)(f - b.f)), STACK);
    machine_switch(&b.scheduler, &f->m);
    SWITCH_END(b.scheduler_fake, nullptr, nullptr);
}

static void fault(const char *what) {
    if (!b.why[0]) snprintf(b.why, sizeof b.why, "%s", what);
}

void sync_threads() {
    b.self->st = AT_BARRIER;
    to_scheduler();
}

static void wait_for_warp(unsigned mask) {
    fiber *f = b.self;
    if (!(mask >> lane() & 1)) fault("a warp operation whose mask does not name the lane that calls it");
    f->mask = mask;
    f->st = AT_WARP;
    to_scheduler();
}

void sync_warp(unsigned mask) { wait_for_warp(mask); }

uint64_t exchange(unsigned mask, uint64_t value, unsigned source) {
    fiber *f = b.self;
    int at = (int)(f - b.f), first = at / 32 * 32;
    uint64_t *slot = b.slot[f->phase++ & 1];
    slot[at] = value;
    wait_for_warp(mask);
    if (!(mask >> source & 1) || first + (int)source >= b.threads) {
        fault("a shuffle that reads a lane outside its mask");
        return 0;
    }
    return slot[first + (int)source];
}

unsigned ballot(unsigned mask, int predicate) {
    fiber *f = b.self;
    int at = (int)(f - b.f), first = at / 32 * 32;
    uint64_t *slot = b.slot[f->phase++ & 1];
    slot[at] = predicate != 0;
    wait_for_warp(mask);
    unsigned bits = 0;
    for (int i = 0; i < 32 && first + i < b.threads; i++)
        if (mask >> i & 1) bits |= (unsigned)slot[first + i] << i;
    return bits;
}

void *shared(const void *tag, size_t bytes) {
    for (int i = 0; i < b.n_arrays; i++)
        if (b.arrays[i].tag == tag) return b.arrays[i].p;
    size_t room = (bytes + 15) / 16 * 16 + REDZONE;
    size_t used = 0;
    for (int i = 0; i < b.n_arrays; i++) used += b.arrays[i].bytes;
    if (b.n_arrays == 64 || used + bytes > SHARED_LIMIT || b.shared_used + room > 2 * SHARED_LIMIT) {
        fault("more than 48 KiB of shared memory");
        return b.shared_memory; /* the launch has failed; there is room for any one array that fits */
    }
    char *p = b.shared_memory + b.shared_used;
    b.shared_used += room;
    b.arrays[b.n_arrays++] = {tag, p, bytes};
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    memset(p, 0xff, bytes);
    return p;
}

/* ---- scheduling ----------------------------------------------------------------------------------- */

/* Releases the lanes of warp w whose masks have all arrived; 1 if any was. */
static int release_warp(int w) {
    int first = w * 32, n = b.threads - first < 32 ? b.threads - first : 32, any = 0;
    unsigned waiting = 0, gone = 0;
    for (int i = 0; i < n; i++) {
        if (b.f[first + i].st == AT_WARP) waiting |= 1u << i;
        if (b.f[first + i].st == DONE) gone |= 1u << i;
    }
    unsigned exists = n == 32 ? 0xffffffffu : (1u << n) - 1;
    for (int i = 0; i < n; i++) {
        fiber *f = &b.f[first + i];
        if (f->st != AT_WARP) continue;
        if (f->mask & exists & gone) {
            fault("a warp operation that waits for lanes that have returned");
            return 0;
        }
        if (f->mask & ~exists) {
            fault("a warp operation whose mask names lanes that the block does not have");
            return 0;
        }
        unsigned mask = f->mask;
        if ((waiting & mask) != mask) continue;
        int alike = 1;
        for (int j = 0; j < n; j++)
            if ((mask >> j & 1) && b.f[first + j].mask != mask) alike = 0;
        if (!alike) {
            fault("lanes of one warp operation with different masks");
            return 0;
        }
        for (int j = 0; j < n; j++)
            if (mask >> j & 1) b.f[first + j].st = READY;
        waiting &= ~mask;
        any = 1;
    }
    return any;
}

static void run_block(int backwards) {
    int warps = (b.threads + 31) / 32;
    b.n_arrays = 0;
    b.shared_used = 0;
    ASAN_POISON_MEMORY_REGION(b.shared_memory, 2 * SHARED_LIMIT);
    for (;;) {
        int moved = 0;
        for (int k = 0; k < warps; k++) {
            int w = backwards ? warps - 1 - k : k, first = w * 32;
            int n = b.threads - first < 32 ? b.threads - first : 32;
            do {
                for (int i = 0; i < n; i++) {
                    fiber *f = &b.f[first + (backwards ? n - 1 - i : i)];
                    if (f->st != READY) continue;
                    moved = 1;
                    resume(f);
                    if (b.why[0]) return;
                }
            } while (release_warp(w));
            if (b.why[0]) return;
        }
        int done = 0, at_barrier = 0;
        for (int i = 0; i < b.threads; i++) {
            done += b.f[i].st == DONE;
            at_barrier += b.f[i].st == AT_BARRIER;
        }
        if (done == b.threads) return;
        if (at_barrier == b.threads) {
            for (int i = 0; i < b.threads; i++) b.f[i].st = READY;
        } else if (done && done + at_barrier == b.threads) {
            return fault("a barrier that some threads of the block never reach");
        } else if (!moved) {
            return fault("threads of a block that wait for each other at different places");
        }
    }
}

static bool prepare() {
    if (current) return true;
    block_state *made = new (std::nothrow) block_state();
    if (!made) return false;
    current = owned.p = made;
    size_t bytes = (size_t)MAX_THREADS * (STACK + GUARD);
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    b.shared_memory = static_cast<char *>(aligned_alloc(64, 2 * SHARED_LIMIT));
    if (p == MAP_FAILED || !b.shared_memory) {
        if (p != MAP_FAILED) munmap(p, bytes);
        delete made;
        current = owned.p = nullptr;
        return false;
    }
    b.stacks = static_cast<char *>(p);
    for (int i = 0; i < MAX_THREADS; i++) mprotect(b.stacks + (size_t)i * (STACK + GUARD), GUARD, PROT_NONE);
    return true;
}

void launch(const char *name, dim3 grid, dim3 block, body run, const void *arguments) {
    char text[sizeof b.why + 80];
    int64_t threads = (int64_t)block.x * block.y * block.z;
    if (!prepare()) return device_fault(cudaErrorMemoryAllocation, "no memory for the emulator's stacks");
    if (threads < 1 || threads > MAX_THREADS || grid.x < 1 || grid.x > 2147483647u || grid.y < 1 || grid.y > 65535 ||
        grid.z < 1 || grid.z > 65535)
        return device_fault(cudaErrorInvalidConfiguration, name);
    b.launches++;
    if (injected_fault(b.launches)) {
        snprintf(text, sizeof text, "unspecified launch failure in %s (injected)", name);
        return device_fault(cudaErrorLaunchFailure, text);
    }
    b.run = run;
    b.arguments = arguments;
    b.threads = (int)threads;
    b.why[0] = '\0';
    int backwards = order_is_reverse();
    int64_t blocks = (int64_t)grid.x * grid.y * grid.z;
    if (memcmp(&b.numbered_for, &block, sizeof block) != 0) {
        for (unsigned u = 0; u < (unsigned)threads; u++)
            b.f[u].thread = dim3(u % block.x, u / block.x % block.y, u / block.x / block.y);
        b.numbered_for = block;
    }
    b.at = {dim3(), block, grid};
    for (int64_t k = 0; k < blocks && !b.why[0]; k++) {
        int64_t id = backwards ? blocks - 1 - k : k;
        b.at.block = dim3((unsigned)(id % grid.x), (unsigned)(id / grid.x % grid.y), (unsigned)(id / grid.x / grid.y));
        for (int i = 0; i < b.threads; i++) {
            fiber *f = &b.f[i];
            f->st = READY;
            f->phase = 0;
            f->fake_stack = nullptr;
            machine_make(&f->m, stack_of(i), STACK, i, fiber_main);
        }
        run_block(backwards);
    }
    if (b.why[0]) {
        for (int i = 0; i < b.threads; i++) ASAN_UNPOISON_MEMORY_REGION(stack_of(i), STACK);
        snprintf(text, sizeof text, "%s: %s", name, b.why);
        device_fault(cudaErrorLaunchFailure, text);
    }
}

} // namespace emu
