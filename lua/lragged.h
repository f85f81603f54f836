/* lragged.h - rows of token ids of different lengths as one object: what the tokenizer and generation give, and what a model
** takes, without a Lua table for each row */
#ifndef MOCL_LRAGGED_H
#define MOCL_LRAGGED_H

#include <stdint.h>

#include "moclL.h"

/* The object holds offsets [n + 1] and then tokens [total] behind this head. It does not change once it is filled. */
typedef struct moclL_ragged {
    int64_t n, total;
} moclL_ragged;

static inline int32_t *moclL_ragged_offsets(const moclL_ragged *r) { return (int32_t *)(uintptr_t)(r + 1); }
static inline int32_t *moclL_ragged_tokens(const moclL_ragged *r) { return moclL_ragged_offsets(r) + r->n + 1; }

/* Pushes an object whose arrays are to be filled before Lua sees it; all offsets are 0. */
moclL_ragged *moclL_newragged(lua_State *L, int64_t n, int64_t total);
moclL_ragged *moclL_toragged(lua_State *L, int idx); /* NULL where the value is another one */
void moclL_ragged_totable(lua_State *L, const moclL_ragged *r); /* pushes a list of lists of ids */
void moclL_openragged(lua_State *L);                 /* makes the class; more than once is fine */

#endif
