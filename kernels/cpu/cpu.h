/* cpu.h - what the CPU kernels share: cutting work into pieces, and small number helpers.
**
** Internal to kernels/cpu. What a result depends on, such as the blocks of a sum, is cut by shape alone; how many
** threads there are, and which takes what, never changes a result.
*/
#ifndef MK_CPU_H
#define MK_CPU_H

#include <math.h>
#include <string.h>

#include "kernels.h"

#ifdef MK_REAL_DOUBLE
#define MK_R(name) name
#else
#define MK_R(name) name##f /* MK_R(exp) is expf in the float build */
#endif

static inline int64_t mk_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t mk_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t mk_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* One piece of work should last at least this many nanoseconds, or waking a worker does not pay. */
#define MK_GRAIN_NS 16000.0

/* Runs fn(arg, first, last) over [0, n) in blocks of equal size that last about MK_GRAIN_NS each when
** one item costs `ns` nanoseconds; everything in one call when it is less than two such blocks. */
typedef void (*mk_range)(void *arg, int64_t first, int64_t last);
void mk_for(mk_exec *e, int64_t n, double ns, mk_range fn, void *arg);

/* How many items one block of mk_for holds. */
int64_t mk_block(int64_t n, double ns);

/* What each of these blocks works in: `size` elements of scratch, and `other` behind the last; NULL without memory. The room of the
** block that begins with item `first` is the one at first / block. */
mk_real *mk_rooms(mk_exec *e, int64_t n, double ns, int64_t size, int64_t other, int64_t *block);

size_t mk_dtype_bytes(mk_dtype dtype);

/* Numbers of bf16 become mk_real, and are rounded back, this many at a time: on the stack, and in the cache. */
#define MK_BF16_CHUNK 1024

/* Sums of long vectors: blocks of this many elements, added in order. */
#define MK_SUM_BLOCK 4096

#endif
