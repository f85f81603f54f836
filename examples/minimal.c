/* minimal.c - the shortest program with mocl in it: run a script, read a number.
**
**     cc minimal.c $(pkg-config --cflags --libs mocl)
*/
#include <mocl.h>
#include <stdio.h>

int main(void) {
    mocl_ctx *ctx = mocl_open(NULL);
    double w = 0;
    if (!ctx) return 1;
    /* the share of the first of two gradients (3, 0) and (0, 1) in the direction that serves both */
    int result = mocl_dostring(ctx, "w = require('mocl.minnorm').solve{{9, 0}, {0, 1}}[1]", "=script");
    if (result == MOCL_DONE) result = mocl_get_number(ctx, "w", &w);
    if (result == MOCL_DONE) printf("weight %.2f\n", w);
    else fprintf(stderr, "%s\n", mocl_error(ctx));
    mocl_close(ctx);
    return result;
}
