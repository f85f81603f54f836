/* tensor.c - storage and tensors: creation, references, views of the same storage, host copies */
#define _GNU_SOURCE
#include "tensor.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[MK_DTYPE_COUNT] = {
    [MK_F32] = {"f32", sizeof(mk_real)}, [MK_BF16] = {"bf16", 2}, [MK_F16] = {"f16", 2},
    [MK_I8] = {"i8", 1},                 [MK_U8] = {"u8", 1},     [MK_I32] = {"i32", 4},
    [MK_I64] = {"i64", 8},
};

size_t mocl_dtype_size(mk_dtype dtype) { return dtypes[dtype].size; }
const char *mocl_dtype_name(mk_dtype dtype) { return dtypes[dtype].name; }

bool mocl_dtype_parse(mk_dtype *out, const char *name) {
    for (int i = 0; i < MK_DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *out = (mk_dtype)i;
            return true;
        }
    }
    return false;
}

char *mocl_shape_text(char buf[128], int ndim, const int64_t *shape) {
    int n = snprintf(buf, 128, "(");
    for (int i = 0; i < ndim && n < 110; i++)
        n += snprintf(buf + n, 128 - (size_t)n, i ? ",%lld" : "%lld", (long long)shape[i]);
    snprintf(buf + n, 128 - (size_t)n, ")");
    return buf;
}

void mocl_shape_strides(int ndim, const int64_t *shape, int64_t *stride) {
    int64_t step = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        stride[i] = step;
        step *= shape[i];
    }
}

int64_t mocl_tensor_numel(const mocl_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}

bool mocl_tensor_is_contiguous(const mocl_tensor *t) {
    int64_t step = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != step) return false;
        step *= t->shape[i];
    }
    return true;
}

bool mocl_tensor_same_shape(const mocl_tensor *a, const mocl_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape[0] * (size_t)a->ndim) == 0;
}

void *mocl_tensor_data(const mocl_tensor *t) {
    return (char *)t->storage->data + (size_t)t->offset * dtypes[t->dtype].size;
}

void mocl_mapping_unref(mocl_mapping *m) {
    if (!m || --m->refs > 0) return;
    munmap(m->map, m->bytes);
    mocl_free(m);
}

static void storage_unref(mocl_storage *s) {
    if (!s || --s->refs > 0) return;
    mocl_tensor_unref(s->rounded);
    if (s->mapping) mocl_mapping_unref(s->mapping);
    else mocl_device_free(s->dev, s->data, s->bytes);
    mocl_free(s);
}

void mocl_tensor_forget(const mocl_tensor *t) {
    const mocl_storage *s = t->storage;
    if (!s->mapping || s->version) return; /* a page that was written to would be the file's again */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)s->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)s->data + s->bytes) / page * page;
    if (end > start) madvise((void *)start, end - start, MADV_DONTNEED); /* where it cannot, they stay */
}

mocl_tensor *mocl_tensor_ref(mocl_tensor *t) {
    t->refs++;
    return t;
}

/* A chain of nodes may be thousands long: those whose count reached zero wait in a list and one loop
** frees them, instead of one stack frame each. */
void mocl_node_unref(mocl_node *n) {
    if (!n || --n->refs > 0) return;
    mocl_ctx *ctx = n->ctx;
    n->next = ctx->dying;
    ctx->dying = n;
    if (ctx->reaping) return;
    ctx->reaping = true;
    while (ctx->dying) {
        mocl_node *dead = ctx->dying;
        ctx->dying = dead->next;
        for (int i = 0; i < dead->n_saved; i++) mocl_tensor_unref(dead->saved[i]);
        for (int i = 0; i < MOCL_NODE_OUTPUTS; i++) mocl_tensor_unref(dead->dout[i]);
        for (int i = 0; i < dead->n_in; i++) {
            mocl_node_unref(dead->edge[i].node);
            mocl_tensor_unref(dead->edge[i].leaf);
        }
        mocl_free(dead->extra);
        mocl_free(dead);
    }
    ctx->reaping = false;
}

void mocl_tensor_drop_sum(mocl_tensor *t) {
    if (!t->sum) return;
    mocl_tensor_unref(t->sum->part);
    mocl_tensor_unref(t->sum->total);
    mocl_free(t->sum);
    t->sum = NULL;
}

void mocl_tensor_drop_grad(mocl_tensor *t) {
    mocl_tensor_unref(t->grad);
    t->grad = NULL;
    mocl_tensor_drop_sum(t);
}

void mocl_tensor_unref(mocl_tensor *t) {
    if (!t || --t->refs > 0) return;
    mocl_node_unref(t->node);
    mocl_tensor_drop_grad(t);
    storage_unref(t->storage);
    t->ctx->live_tensors--;
    mocl_free(t);
}

static mocl_tensor *tensor_shell(mocl_ctx *ctx, mk_dtype dtype, int ndim, const int64_t *shape) {
    mocl_tensor *t = mocl_calloc(ctx, 1, sizeof *t);
    if (!t) return NULL;
    t->refs = 1;
    t->ctx = ctx;
    t->dtype = dtype;
    t->ndim = ndim;
    if (ndim > 0) memcpy(t->shape, shape, sizeof *shape * (size_t)ndim);
    ctx->live_tensors++;
    return t;
}

/* a tensor whose storage has no memory yet */
static mocl_status new_without_memory(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim, const int64_t *shape) {
    mocl_ctx *ctx = dev->ctx;
    size_t bytes = mocl_dtype_size(dtype);
    *out = NULL;
    if (ndim < 0 || ndim > MK_MAX_DIMS)
        return mocl_fail(ctx, MOCL_E_SHAPE, "a tensor has at most %d dimensions, not %d", MK_MAX_DIMS, ndim);
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return mocl_fail(ctx, MOCL_E_SHAPE, "size %lld of dimension %d is negative",
                             (long long)shape[i], i + 1);
        /* beside a zero too: the strides are products of the sizes */
        if (shape[i] && (!mocl_mul(bytes, (size_t)shape[i], &bytes) || bytes > (size_t)INT64_MAX))
            return mocl_fail(ctx, MOCL_E_SHAPE, "tensor is too large: its size in bytes overflows");
    }
    for (int i = 0; i < ndim; i++)
        if (shape[i] == 0) bytes = 0;
    mocl_tensor *t = tensor_shell(ctx, dtype, ndim, shape);
    if (!t) return mocl_nomem(ctx, sizeof *t);
    mocl_shape_strides(ndim, shape, t->stride);
    t->storage = mocl_calloc(ctx, 1, sizeof *t->storage);
    if (!t->storage) {
        mocl_tensor_unref(t);
        return mocl_nomem(ctx, sizeof *t->storage);
    }
    t->storage->refs = 1;
    t->storage->dev = dev;
    t->storage->bytes = bytes;
    *out = t;
    return MOCL_OK;
}

mocl_status mocl_tensor_new(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim, const int64_t *shape) {
    MOCL_TRY(new_without_memory(out, dev, dtype, ndim, shape));
    mocl_status st = mocl_device_alloc(&(*out)->storage->data, dev, (*out)->storage->bytes);
    if (st) {
        mocl_tensor_unref(*out);
        *out = NULL;
    }
    return st;
}

mocl_status mocl_tensor_of_map(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim, const int64_t *shape,
                               mocl_mapping *file, void *data) {
    MOCL_TRY(new_without_memory(out, dev, dtype, ndim, shape));
    (*out)->storage->data = data;
    (*out)->storage->mapping = file;
    file->refs++;
    return MOCL_OK;
}

mocl_status mocl_tensor_like(mocl_tensor **out, const mocl_tensor *like) {
    return mocl_tensor_new(out, like->storage->dev, like->dtype, like->ndim, like->shape);
}

mocl_status mocl_tensor_full(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim,
                             const int64_t *shape, double value) {
    MOCL_TRY(mocl_tensor_new(out, dev, dtype, ndim, shape));
    mocl_status st = MOCL_KERNEL(dev, fill, dtype, mocl_tensor_numel(*out), mocl_tensor_data(*out), value);
    if (st) {
        mocl_tensor_unref(*out);
        *out = NULL;
    }
    return st;
}

mocl_status mocl_tensor_from_host(mocl_tensor **out, mocl_device *dev, mk_dtype dtype, int ndim,
                                  const int64_t *shape, const void *data) {
    MOCL_TRY(mocl_tensor_new(out, dev, dtype, ndim, shape));
    mocl_status st = mocl_device_upload(dev, (*out)->storage->data, data, (*out)->storage->bytes);
    if (st) {
        mocl_tensor_unref(*out);
        *out = NULL;
    }
    return st;
}

mocl_status mocl_tensor_i32(mocl_tensor **out, mocl_device *dev, int64_t n, const int32_t *data) {
    return mocl_tensor_from_host(out, dev, MK_I32, 1, &n, data);
}

mocl_status mocl_tensor_to_host(mocl_tensor *t, void *data) {
    mocl_tensor *c = NULL;
    MOCL_TRY(mocl_tensor_contiguous(&c, t));
    size_t bytes = (size_t)mocl_tensor_numel(c) * mocl_dtype_size(c->dtype);
    mocl_status st = mocl_device_download(c->storage->dev, data, mocl_tensor_data(c), bytes);
    mocl_tensor_unref(c);
    return st;
}

mocl_status mocl_tensor_alias(mocl_tensor **out, mocl_tensor *t, int ndim, const int64_t *shape,
                              const int64_t *stride, int64_t offset) {
    mocl_tensor *v = tensor_shell(t->ctx, t->dtype, ndim, shape);
    *out = v;
    if (!v) return mocl_nomem(t->ctx, sizeof *v);
    if (ndim > 0) memcpy(v->stride, stride, sizeof *stride * (size_t)ndim);
    v->offset = offset;
    v->storage = t->storage;
    v->storage->refs++;
    return MOCL_OK;
}

mocl_status mocl_tensor_detach(mocl_tensor **out, mocl_tensor *t) {
    return mocl_tensor_alias(out, t, t->ndim, t->shape, t->stride, t->offset);
}

mocl_status mocl_tensor_contiguous(mocl_tensor **out, mocl_tensor *t) {
    if (mocl_tensor_is_contiguous(t)) {
        *out = mocl_tensor_ref(t);
        return MOCL_OK;
    }
    MOCL_TRY(mocl_tensor_like(out, t));
    mocl_status st = MOCL_KERNEL(t->storage->dev, copy, t->dtype, t->ndim, t->shape, mocl_tensor_data(t),
                                 t->stride, mocl_tensor_data(*out), (*out)->stride);
    if (st) {
        mocl_tensor_unref(*out);
        *out = NULL;
    }
    return st;
}

mocl_status mocl_tensor_as(mocl_tensor **out, mocl_tensor *t, mk_dtype dtype) {
    if (t->dtype == dtype) return mocl_tensor_contiguous(out, t);
    MOCL_TRY(mocl_tensor_new(out, t->storage->dev, dtype, t->ndim, t->shape));
    mocl_status st = mocl_tensor_copy(*out, t);
    if (!st) return MOCL_OK;
    mocl_tensor_unref(*out);
    *out = NULL;
    return st;
}

mocl_status mocl_tensor_rounded(mocl_tensor **out, mocl_tensor *t, mk_dtype dtype) {
    mocl_storage *s = t->storage;
    bool whole = mocl_tensor_is_contiguous(t) && (size_t)mocl_tensor_numel(t) * mocl_dtype_size(t->dtype) == s->bytes;
    if (t->dtype == dtype || !whole) return mocl_tensor_as(out, t, dtype);
    if (!s->rounded || s->rounded_version != s->version || s->rounded->dtype != dtype || !mocl_tensor_same_shape(s->rounded, t)) {
        mocl_tensor_unref(s->rounded);
        s->rounded = NULL;
        MOCL_TRY(mocl_tensor_as(&s->rounded, t, dtype));
        s->rounded_version = s->version;
    }
    *out = mocl_tensor_ref(s->rounded);
    return MOCL_OK;
}

/* contiguous src into contiguous memory of another device, through the host */
static mocl_status cross_device(mocl_tensor **out, mocl_tensor *src, mocl_device *dev) {
    size_t bytes = (size_t)mocl_tensor_numel(src) * mocl_dtype_size(src->dtype);
    void *host = mocl_alloc(src->ctx, bytes);
    if (!host) return mocl_nomem(src->ctx, bytes);
    mocl_status st = mocl_tensor_to_host(src, host);
    if (!st) st = mocl_tensor_from_host(out, dev, src->dtype, src->ndim, src->shape, host);
    mocl_free(host);
    return st;
}

mocl_status mocl_tensor_copy(mocl_tensor *dst, mocl_tensor *src) {
    mocl_ctx *ctx = dst->ctx;
    mocl_device *dev = dst->storage->dev;
    char a[128], b[128];
    if (!mocl_tensor_same_shape(dst, src))
        return mocl_fail(ctx, MOCL_E_SHAPE, "copy: cannot copy %s into %s",
                         mocl_shape_text(a, src->ndim, src->shape), mocl_shape_text(b, dst->ndim, dst->shape));
    for (int i = 0; i < dst->ndim; i++)
        if (dst->stride[i] == 0 && dst->shape[i] > 1)
            return mocl_fail(ctx, MOCL_E_ARG, "copy: dimension %d of the destination is expanded: its entries share "
                                              "one place", i + 1);
    mocl_tensor *here = NULL, *cast = NULL;
    mocl_status st;
    if (src->storage->dev != dev) {
        MOCL_TRY(cross_device(&here, src, dev));
    } else if (src->storage == dst->storage) { /* they may overlap */
        MOCL_TRY(mocl_tensor_like(&here, src));
        st = MOCL_KERNEL(dev, copy, src->dtype, src->ndim, src->shape, mocl_tensor_data(src), src->stride,
                         mocl_tensor_data(here), here->stride);
        if (st) goto done;
    } else {
        here = mocl_tensor_ref(src);
    }
    if (here->dtype != dst->dtype) {
        mocl_tensor *c = NULL;
        bool straight = mocl_tensor_is_contiguous(dst);
        MOCL_GOTO(mocl_tensor_contiguous(&c, here), done);
        st = straight ? MOCL_OK : mocl_tensor_new(&cast, dev, dst->dtype, dst->ndim, dst->shape);
        if (!st)
            st = MOCL_KERNEL(dev, cast, mocl_tensor_numel(c), c->dtype, mocl_tensor_data(c), dst->dtype,
                             mocl_tensor_data(straight ? dst : cast));
        mocl_tensor_unref(c);
        if (st) goto done;
        mocl_tensor_unref(here);
        here = mocl_tensor_ref(straight ? dst : cast);
    }
    if (here != dst)
        st = MOCL_KERNEL(dev, copy, dst->dtype, dst->ndim, dst->shape, mocl_tensor_data(here), here->stride,
                         mocl_tensor_data(dst), dst->stride);
    dst->storage->version++;
    mocl_tensor_forget(src);
done:
    mocl_tensor_unref(here);
    mocl_tensor_unref(cast);
    return st;
}
