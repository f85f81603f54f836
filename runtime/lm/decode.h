/* decode.h - generation's steps of one token per row, where the device is the host's processors. generate.c
** chooses it.
*/
#ifndef MOCL_DECODE_H
#define MOCL_DECODE_H

#include "lm/session.h"

/* The rows a step works on: host arrays of generate.c, the active rows first, and the cache. */
typedef struct mocl_decode_rows {
    int64_t most, positions;       /* rows there can be; positions per slot of the cache */
    const int32_t *slot, *pos, *last, *row_id; /* slot, position of the next token, last token, row of the sampling stream */
    int32_t *target;               /* [steps][active] receives the tokens */
    mk_real *logp, *sum;           /* receive their log-probabilities, and the sums of the logits they are drawn from */
    mocl_tensor *const *kcache, *const *vcache; /* [layers] of [most, positions, G, K] */
    mocl_tensor *stem;             /* [most, positions, D], which receives the stream behind options->stem blocks; or NULL */
} mocl_decode_rows;

typedef struct mocl_decode mocl_decode;

/* Borrows everything it is given until it is closed; the weights must not change meanwhile. */
mocl_status mocl_decode_open(mocl_decode **out, mocl_model *m, const mocl_generate_options *o, const mocl_decode_rows *rows);
void mocl_decode_close(mocl_decode *d);
enum { MOCL_DECODE_AHEAD = 32 };
/* how many steps the model takes on end at the most */
int64_t mocl_decode_ahead(const mocl_decode *d);
/* Feeds `last` of the first `active` rows, and samples: target, logp and sum. Then what was drawn is fed, and so on, for `group`
** steps; a row has nothing behind a token of options->eos. Positions are not advanced. */
mocl_status mocl_decode_steps(mocl_decode *d, int64_t active, uint32_t step, int64_t group);

#endif
