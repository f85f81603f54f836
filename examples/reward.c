/* reward.c - rewards that a C program computes, in a run of mocl that trades them off: a small model is trained on answers
** that are to be short and to have few capitals.
**
**     cc reward.c $(pkg-config --cflags --libs mocl)
**     ./a.out /tmp/run /usr/local/share/mocl/recipes/moc_hh.lua
*/
#include <ctype.h>
#include <mocl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What both rewards need: room for the scores, which must live until mocl has copied them. */
typedef struct scores {
    double *values;
    size_t room, calls, answers;
    double (*score)(const char *answer);
} scores;

static double brief(const char *answer) { return -(double)strlen(answer) / 100; }

static double calm(const char *answer) {
    double n = 0;
    for (; *answer; answer++) n += isupper((unsigned char)*answer) != 0;
    return -n / 10;
}

/* A reward gets a list of prompts and a list of answers, and returns one number for each answer. */
static int reward(void *data, const mocl_value *args, int n_args, mocl_value *result) {
    scores *s = data;
    if (n_args < 2 || args[1].type != MOCL_STRINGS) {
        result->string = "a reward gets prompts and answers";
        return MOCL_FAILED;
    }
    if (s->room < args[1].n) {
        double *more = realloc(s->values, args[1].n * sizeof *more);
        if (!more) {
            result->string = "no memory for the scores";
            return MOCL_FAILED;
        }
        s->values = more;
        s->room = args[1].n;
    }
    for (size_t i = 0; i < args[1].n; i++) s->values[i] = s->score(args[1].strings[i]);
    s->calls++;
    s->answers += args[1].n;
    *result = (mocl_value){.type = MOCL_NUMBERS, .numbers = s->values, .n = args[1].n};
    return MOCL_DONE;
}

/* the option rewards= names a file of Lua that returns the rewards; here it returns the host's */
static const char prepare[] =
    "local fs = require 'mocl.fs'\n"
    "assert(fs.mkdir(out))\n"
    "assert(fs.write(out .. '/rewards.lua', 'return host'))\n"
    "arg = {[0] = recipe, 'rewards=' .. out .. '/rewards.lua', 'objectives=brief,calm', 'preset=smoke', 'quiet=true',\n"
    "  'documents=40', 'moc.iterations=1', 'eval.unseen_answers=0', 'out=' .. out .. '/run'}\n";

int main(int argc, char **argv) {
    const char *out = argc > 1 ? argv[1] : "runs/reward", *recipe = argc > 2 ? argv[2] : "recipes/moc_hh.lua";
    scores of_brief = {.score = brief}, of_calm = {.score = calm};
    mocl_ctx *ctx = mocl_open(NULL);
    if (!ctx) return 1;
    int result = mocl_dostring(ctx, "host = {}", "=prepare");
    if (!result) result = mocl_set_function(ctx, "host.brief", reward, &of_brief);
    if (!result) result = mocl_set_function(ctx, "host.calm", reward, &of_calm);
    if (!result) result = mocl_set_string(ctx, "out", out);
    if (!result) result = mocl_set_string(ctx, "recipe", recipe);
    if (!result) result = mocl_dostring(ctx, prepare, "=prepare");
    if (!result) result = mocl_dofile(ctx, recipe);
    if (result) fprintf(stderr, "%s\n", mocl_error(ctx));
    printf("\nbrief scored %zu answers in %zu calls, calm %zu in %zu\n", of_brief.answers, of_brief.calls, of_calm.answers, of_calm.calls);
    mocl_close(ctx);
    free(of_brief.values);
    free(of_calm.values);
    return result;
}
