/* resume.c - of the program mocl alone: every lua_resume in the process passes here, so that an interruption reaches a
** coroutine that another library resumes (cqueues, luv) like one that a script does.
**
** A function of an executable goes before that of a shared library. Weak: where liblua is linked statically, its own stands,
** and such a coroutine is not reached.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>

#include "interrupt.h"
#include "signals.h"

typedef int (*resume_function)(lua_State *co, lua_State *from, int n_args, int *n_results);

__attribute__((weak, visibility("default"))) int lua_resume(lua_State *co, lua_State *from, int n_args, int *n_results) {
    static _Atomic resume_function in_lua;
    resume_function resume = atomic_load_explicit(&in_lua, memory_order_relaxed);
    if (!resume) {
        *(void **)&resume = dlsym(RTLD_NEXT, "lua_resume");
        atomic_store_explicit(&in_lua, resume, memory_order_relaxed);
    }
    moclL_host *h = mocl_program_host();
    if (!h || moclL_host_of(co) != h) return resume(co, from, n_args, n_results); /* a state of somebody else's */
    moclL_enter(h, co);
    int status = resume(co, from, n_args, n_results);
    moclL_leave(h);
    return status;
}
