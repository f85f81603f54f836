/* lfs.c - module mocl.fs: files and directories. All fail as nil, "path: reason", "IO". */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "io/dir.h"
#include "io/file.h"
#include "io/file_hash.h"
#include "modules.h"

#define BYTES "mocl.fs.bytes" /* owns what the core allocated while it becomes a Lua value */
#define MALLOCED "mocl.fs.malloced"
#define LOCK "mocl.fs.lock"

/* A path may hold any byte but NUL: "a\0b" would silently be "a". */
static const char *check_path(lua_State *L, int idx) {
    size_t n;
    const char *path = luaL_checklstring(L, idx, &n);
    luaL_argcheck(L, strlen(path) == n, idx, "the path contains a zero byte");
    return path;
}

/* true, or nil, "path: reason", "IO" */
static int done(lua_State *L, mocl_status st) {
    lua_pushboolean(L, true);
    return moclL_result(L, st, 1);
}

/* the same for a system call that sets errno */
static int called(lua_State *L, int failed, const char *path) {
    return done(L, failed ? mocl_file_fail(moclL_ctx(L), path) : MOCL_OK);
}

static int fail_errno(lua_State *L, const char *path) {
    return moclL_result(L, mocl_file_fail(moclL_ctx(L), path), 0);
}

/* ---- asking ---- */

static int fs_exists(lua_State *L) {
    struct stat info;
    const char *path = check_path(L, 1);
    if (stat(path, &info)) {
        if (errno != ENOENT && errno != ENOTDIR) return fail_errno(L, path);
        lua_pushnil(L);
    } else {
        lua_pushstring(L, S_ISDIR(info.st_mode) ? "directory" : "file");
    }
    return 1;
}

static int fs_size(lua_State *L) {
    struct stat info;
    const char *path = check_path(L, 1);
    if (stat(path, &info)) return fail_errno(L, path);
    lua_pushinteger(L, info.st_size);
    return 1;
}

static int fs_list(lua_State *L) {
    const char *path = check_path(L, 1);
    void **box = moclL_pushowner(L, BYTES);
    char *names;
    size_t n;
    mocl_status st = mocl_dir_list(moclL_ctx(L), path, &names, &n);
    *box = names;
    if (st) return moclL_result(L, st, 0);
    lua_newtable(L);
    lua_Integer i = 0;
    for (const char *p = names; p < names + n; p += strlen(p) + 1) {
        lua_pushstring(L, p);
        lua_rawseti(L, -2, ++i);
    }
    *box = NULL;
    mocl_free(names);
    return 1;
}

static int fs_free_bytes(lua_State *L) {
    struct statvfs info;
    const char *path = check_path(L, 1);
    if (statvfs(path, &info)) return fail_errno(L, path);
    lua_pushinteger(L, (lua_Integer)(info.f_bavail * info.f_frsize));
    return 1;
}

/* pushes a string from malloc, which it frees */
static int push_owned(lua_State *L, void **box, char *text) {
    *box = text;
    lua_pushstring(L, text);
    *box = NULL;
    free(text);
    return 1;
}

static int fs_realpath(lua_State *L) {
    const char *path = check_path(L, 1);
    void **box = moclL_pushowner(L, MALLOCED);
    char *real = realpath(path, NULL);
    return real ? push_owned(L, box, real) : fail_errno(L, path);
}

static int fs_cwd(lua_State *L) {
    void **box = moclL_pushowner(L, MALLOCED);
    char *cwd = getcwd(NULL, 0);
    return cwd ? push_owned(L, box, cwd) : fail_errno(L, ".");
}

static int fs_readlink(lua_State *L) {
    char target[4096];
    const char *path = check_path(L, 1);
    ssize_t n = readlink(path, target, sizeof target);
    if (n < 0) return fail_errno(L, path);
    lua_pushlstring(L, target, (size_t)n);
    return 1;
}

/* ---- changing ---- */

static int fs_mkdir(lua_State *L) {
    return done(L, mocl_dir_make(moclL_ctx(L), check_path(L, 1)));
}

static int fs_remove(lua_State *L) {
    const char *path = check_path(L, 1);
    return called(L, remove(path), path);
}

static int fs_remove_tree(lua_State *L) {
    return done(L, mocl_dir_remove_tree(moclL_ctx(L), check_path(L, 1)));
}

static int fs_rename(lua_State *L) {
    const char *from = check_path(L, 1), *to = check_path(L, 2);
    if (rename(from, to) == 0) return done(L, mocl_file_sync_parent(moclL_ctx(L), to));
    int reason = errno;
    const char *both = lua_pushfstring(L, "%s -> %s", mocl_path_tail(from), mocl_path_tail(to));
    errno = reason;
    return fail_errno(L, both);
}

static int fs_symlink_replace(lua_State *L) {
    const char *target = check_path(L, 1), *link = check_path(L, 2);
    return done(L, mocl_link_replace(moclL_ctx(L), target, link));
}

static int fs_truncate(lua_State *L) {
    const char *path = check_path(L, 1);
    lua_Integer n = luaL_checkinteger(L, 2);
    luaL_argcheck(L, n >= 0, 2, "a size is not negative");
    return called(L, truncate(path, n), path);
}

static int fs_sync(lua_State *L) { return done(L, mocl_file_sync(moclL_ctx(L), check_path(L, 1))); }

/* ---- a file that is there as long as an object ---- */

typedef struct lock_file {
    pid_t pid; /* of the process that made it: one forked from it leaves the file alone */
    char path[];
} lock_file;

/* Takes no memory, so that it works where there is none. What no write could have put there stays. */
static void remove_lock(void *arg) {
    lock_file *lock = arg;
    struct stat info;
    bool ours = lock->pid == getpid() && !lstat(lock->path, &info);
    if (ours && (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode))) unlink(lock->path);
    mocl_free(lock);
}

/* lock(path, text) -> an object: the file is there until the object is released, closed or collected. The object exists
** first, and a write that fails takes the file away, which one that fails at its very end leaves. */
static int fs_lock(lua_State *L) {
    size_t n;
    const char *path = check_path(L, 1), *text = luaL_checklstring(L, 2, &n);
    void **box = moclL_pushowner(L, LOCK);
    lock_file *lock = mocl_alloc(moclL_ctx(L), sizeof *lock + strlen(path) + 1);
    if (!lock) return moclL_raise(L, MOCL_E_NOMEM);
    lock->pid = getpid();
    strcpy(lock->path, path);
    *box = lock;
    mocl_status st = mocl_file_write_atomic(moclL_ctx(L), path, text, n);
    if (!st) return 1;
    *box = NULL;
    remove_lock(lock);
    return moclL_result(L, st, 0);
}

/* ---- contents ---- */

static int fs_read(lua_State *L) {
    const char *path = check_path(L, 1);
    void **box = moclL_pushowner(L, BYTES);
    char *data;
    size_t n;
    mocl_status st = mocl_file_read(moclL_ctx(L), path, &data, &n);
    *box = data;
    if (st) return moclL_result(L, st, 0);
    lua_pushlstring(L, data, n);
    *box = NULL;
    mocl_free(data);
    return 1;
}

static int fs_write(lua_State *L) {
    size_t n;
    const char *path = check_path(L, 1), *data = luaL_checklstring(L, 2, &n);
    return done(L, mocl_file_write_atomic(moclL_ctx(L), path, data, n));
}

static int fs_copy(lua_State *L) {
    const char *from = check_path(L, 1), *to = check_path(L, 2);
    return done(L, mocl_file_copy(moclL_ctx(L), from, to));
}

static int fs_sha256(lua_State *L) {
    char hex[MOCL_SHA256_HEX];
    mocl_status st = mocl_file_hash(moclL_ctx(L), check_path(L, 1), hex);
    if (st) return moclL_result(L, st, 0);
    lua_pushstring(L, hex);
    return 1;
}

static int fs_sha256_text(lua_State *L) {
    char hex[MOCL_SHA256_HEX];
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    mocl_sha256 h;
    mocl_sha256_begin(&h);
    mocl_sha256_add(&h, text, n);
    mocl_sha256_end(&h, hex);
    lua_pushstring(L, hex);
    return 1;
}

static int fs_hash_in_passing(lua_State *L) {
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    mocl_file_hash_passing(moclL_ctx(L), lua_toboolean(L, 1));
    return 0;
}

/* ---- names: no file is touched ---- */

/* length of path without the slashes at its end; "/" keeps one */
static size_t plain_length(const char *path, size_t n) {
    while (n > 1 && path[n - 1] == '/') n--;
    return n;
}

static int fs_basename(lua_State *L) {
    const char *path = check_path(L, 1);
    size_t n = plain_length(path, strlen(path)), start = n;
    while (start > 0 && path[start - 1] != '/') start--;
    if (start == n && n > 0) start = n - 1; /* "/" */
    lua_pushlstring(L, path + start, n - start);
    return 1;
}

static int fs_dirname(lua_State *L) {
    const char *path = check_path(L, 1);
    size_t n = plain_length(path, strlen(path));
    while (n > 0 && path[n - 1] != '/') n--;
    if (n == 0) {
        lua_pushliteral(L, ".");
    } else {
        lua_pushlstring(L, path, plain_length(path, n));
    }
    return 1;
}

/* an absolute part starts anew; empty parts count nothing */
static int fs_join(lua_State *L) {
    int n = lua_gettop(L), first = 1;
    for (int i = 1; i <= n; i++) {
        if (check_path(L, i)[0] == '/') first = i;
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    char last = '/';
    for (int i = first; i <= n; i++) {
        size_t size;
        const char *part = lua_tolstring(L, i, &size);
        if (size == 0) continue;
        if (last != '/') luaL_addchar(&b, '/');
        luaL_addlstring(&b, part, size);
        last = part[size - 1];
    }
    luaL_pushresult(&b);
    return 1;
}

static const luaL_Reg functions[] = {{"basename", fs_basename},
                                     {"copy", fs_copy},
                                     {"cwd", fs_cwd},
                                     {"dirname", fs_dirname},
                                     {"exists", fs_exists},
                                     {"free_bytes", fs_free_bytes},
                                     {"hash_in_passing", fs_hash_in_passing},
                                     {"join", fs_join},
                                     {"list", fs_list},
                                     {"lock", fs_lock},
                                     {"mkdir", fs_mkdir},
                                     {"read", fs_read},
                                     {"readlink", fs_readlink},
                                     {"realpath", fs_realpath},
                                     {"remove", fs_remove},
                                     {"remove_tree", fs_remove_tree},
                                     {"rename", fs_rename},
                                     {"sha256", fs_sha256},
                                     {"sha256_text", fs_sha256_text},
                                     {"size", fs_size},
                                     {"symlink_replace", fs_symlink_replace},
                                     {"sync", fs_sync},
                                     {"truncate", fs_truncate},
                                     {"write", fs_write},
                                     {NULL, NULL}};

int moclL_open_fs(lua_State *L) {
    static const luaL_Reg none[] = {{NULL, NULL}};
    moclL_newclass(L, BYTES, none, mocl_free);
    moclL_newclass(L, MALLOCED, none, free);
    moclL_newclass(L, LOCK, none, remove_lock);
    moclL_newlib(L, functions);
    return 1;
}
