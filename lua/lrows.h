/* lrows.h - rows of token ids of different lengths as one object: what the tokenizer and generation give, and what a model
** takes, without a Lua table for each row */
#ifndef MOCL_LROWS_H
#define MOCL_LROWS_H

#include <stdint.h>

#include "moclL.h"

/* The object holds offsets [n + 1] and then tokens [total] behind this head. It does not change once it is filled. */
typedef struct moclL_rows {
    int64_t n, total;
} moclL_rows;

static inline int32_t *moclL_rows_offsets(const moclL_rows *r) { return (int32_t *)(uintptr_t)(r + 1); }
static inline int32_t *moclL_rows_tokens(const moclL_rows *r) { return moclL_rows_offsets(r) + r->n + 1; }

/* Pushes an object whose arrays are to be filled before Lua sees it; all offsets are 0. */
moclL_rows *moclL_newrows(lua_State *L, int64_t n, int64_t total);
moclL_rows *moclL_torows(lua_State *L, int idx); /* NULL where the value is another one */
void moclL_rows_totable(lua_State *L, const moclL_rows *r); /* pushes a list of lists of ids */

/* Token ids of a list of lists, or of an object of rows, as host arrays, in userdata left on the stack. With `more`
** (another one, or 0) row i is the first one's row followed by the second's, which begins at middle[i]. */
typedef struct moclL_ragged {
    int64_t n, total, room;
    int32_t *offsets, *middle, *tokens; /* n + 1, n, total */
} moclL_ragged;
moclL_ragged moclL_readragged(lua_State *L, int idx, int more);

void moclL_openrows(lua_State *L); /* makes the class; more than once is fine */

#endif
