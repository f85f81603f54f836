/* peak.c - peak [THREADS]: the most single-precision multiply-adds the processor does, in 1e9 operations (two per
** multiply-add) a second: several runs of independent chains on each thread, nothing but registers.
** Prints "NAME BEST MEAN": the instruction set used, and sums over the threads, of each one's best run and of its mean. They
** differ where the clock falls under load, or others use the processor.
*/
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHAINS 24
#define STEPS 50000
#define RUNS 400

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* the chains are inlined as often as the compiler keeps registers for them: 24 of 32, or 12 of 16 */
#define BODY(name, bytes, chains, isa)                                                            \
    typedef float vec_##name __attribute__((vector_size(bytes)));                                 \
    isa static float run_##name(long steps, float a, float b) {                                   \
        vec_##name x[chains], m = a - (vec_##name){0}, c = b - (vec_##name){0};                   \
        _Pragma("GCC unroll 24") for (int i = 0; i < chains; i++) x[i] = m * (float)i;            \
        for (long s = 0; s < steps; s++)                                                          \
            _Pragma("GCC unroll 24") for (int i = 0; i < chains; i++) x[i] = x[i] * m + c;        \
        float sum = 0;                                                                            \
        for (int i = 0; i < chains; i++) sum += x[i][0];                                          \
        return sum;                                                                               \
    }                                                                                             \
    enum { work_##name = chains * bytes / 4 * 2 }

#if defined(__x86_64__)
BODY(avx512, 64, 24, __attribute__((target("avx512f"), optimize("fp-contract=fast"))));
BODY(avx2, 32, 12, __attribute__((target("avx2,fma"), optimize("fp-contract=fast"))));
#endif
BODY(base, 16, 12, __attribute__((optimize("fp-contract=fast"))));

static struct {
    const char *name;
    float (*run)(long, float, float);
    double work; /* operations of one step */
} best = {"base", run_base, work_base};

static pthread_barrier_t start;
static volatile float sink;

struct rates {
    double best, mean;
};

static void *thread(void *arg) {
    struct rates *rates = arg;
    double fastest = 0, seconds = 0;
    for (int r = 0; r < RUNS; r++) {
        pthread_barrier_wait(&start);
        double from = now();
        sink = best.run(STEPS, 0.5f, 0.25f);
        double took = now() - from, got = best.work * STEPS / took;
        if (got > fastest) fastest = got;
        seconds += took;
    }
    rates->best = fastest * 1e-9;
    rates->mean = best.work * STEPS * RUNS / seconds * 1e-9;
    return NULL;
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 2;
    struct rates rates[64], sum = {0, 0};
    pthread_t id[64];
    if (n < 1 || n > 64) {
        fprintf(stderr, "peak [THREADS], 1 to 64\n");
        return 2;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        best.name = "avx2";
        best.run = run_avx2;
        best.work = work_avx2;
    }
    if (__builtin_cpu_supports("avx512f")) {
        best.name = "avx512";
        best.run = run_avx512;
        best.work = work_avx512;
    }
#endif
    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++)
        if (pthread_create(&id[i], NULL, thread, &rates[i])) return 1;
    for (int i = 0; i < n; i++) {
        pthread_join(id[i], NULL);
        sum.best += rates[i].best;
        sum.mean += rates[i].mean;
    }
    printf("%s %.1f %.1f\n", best.name, sum.best, sum.mean);
    return 0;
}
