# mocl: make builds ./mocl, libmocl.so, libmocl.a and mocl.so; make help lists the rest.

CC      ?= cc
CFLAGS  ?= -O2 -g
PREFIX  ?= /usr/local
PKGS    := lua5.4 libutf8proc libpcre2-8 jansson zlib
JOBS    := $(shell nproc 2>/dev/null || echo 2)

# make VARIANT=asan|tsan|f64 builds into build/VARIANT and leaves the plain build alone
VARIANT ?=
FLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
FLAGS_f64  := -DMK_REAL_DOUBLE
B       := build$(if $(VARIANT),/$(VARIANT))
O       := $(if $(VARIANT),$(B)/)

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CPPFLAGS_ALL = -Iruntime -Ikernels -Ilua $(shell pkg-config --cflags $(PKGS)) $(CPPFLAGS)
CFLAGS_ALL   = -std=c11 -fPIC -fvisibility=hidden -pthread -ffp-contract=off $(WARN) $(CFLAGS) $(FLAGS_$(VARIANT))
LIBS_CORE    = $(shell pkg-config --libs $(filter-out lua5.4,$(PKGS))) -lm -ldl -pthread
LIBS_LUA     = $(shell pkg-config --libs lua5.4)

EXE_C     := lua/main.c lua/repl.c
LIB_C     := $(sort $(wildcard runtime/*.c kernels/cpu/*.c) $(filter-out $(EXE_C),$(wildcard lua/*.c)))
PROGRAM_C := $(wildcard tests/c/*.c examples/*.c)
STDLIB    := $(shell find stdlib -name '*.lua' | LC_ALL=C sort)

EXE_O     := $(EXE_C:%.c=$(B)/%.o)
LIB_O     := $(LIB_C:%.c=$(B)/%.o) $(B)/embed.o
PROGRAM_O := $(PROGRAM_C:%.c=$(B)/%.o)
PROGRAMS  := $(PROGRAM_C:%.c=$(B)/%)
VERSION   := $(shell sed -n 's/^.define MOCL_VERSION "\(.*\)"/\1/p' runtime/mocl.h)

all: $(O)mocl $(O)libmocl.so $(O)libmocl.a $(O)mocl.so   ## build the program, the library and the Lua module

$(O)mocl: $(EXE_O) $(O)libmocl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $^ $(LIBS_LUA) $(LIBS_CORE)

$(O)libmocl.a: $(LIB_O) $(B)/sources
	rm -f $@ && $(AR) rcs $@ $(LIB_O)

$(O)libmocl.so: $(LIB_O) $(B)/sources
	$(CC) -shared $(CFLAGS_ALL) $(LDFLAGS) -Wl,-soname,libmocl.so.0 -o $@ $(LIB_O) $(LIBS_LUA) $(LIBS_CORE)

# the Lua module does not link liblua, the host interpreter brings it; it exports its opener alone
$(O)mocl.so: $(LIB_O) $(B)/sources lua/module.map
	$(CC) -shared $(CFLAGS_ALL) $(LDFLAGS) -Wl,--version-script=lua/module.map -o $@ $(LIB_O) $(LIBS_CORE)

# tests/c and examples
$(PROGRAMS): $(B)/%: $(B)/%.o $(O)libmocl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $^ $(LIBS_LUA) $(LIBS_CORE)

# a sanitizer brings its own malloc: there test_failures takes the calls from mocl alone
ifneq ($(filter asan tsan,$(VARIANT)),)
$(B)/tests/c/test_failures: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc
endif

programs: $(PROGRAMS)

$(B)/%.o: %.c $(B)/flags | $(B)/deps
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(B)/embed.o: $(B)/embed.c $(STDLIB) $(B)/flags | $(B)/deps
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(B)/embed.c: $(B)/sources lua/embed.sh
	sh lua/embed.sh $(STDLIB) > $@.tmp && mv $@.tmp $@

# files that change only when their text does: what depends on them is rebuilt then
$(B)/flags: FORCE
	@$(call replace,$(CC) $(CFLAGS_ALL) $(CPPFLAGS))
$(B)/sources: FORCE
	@$(call replace,$(LIB_C) $(STDLIB))
replace = mkdir -p $(@D); echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@

$(B)/deps: .ci/deps.sh
	@mkdir -p $(@D)
	@sh .ci/deps.sh check
	@touch $@

TSAN := $(addprefix build/tsan/,mocl tests/c/test_threads tests/c/test_embed)

deps:   ## install the packages that are missing
	@sh .ci/deps.sh install

demo: deps   ## train on the small built-in task, and resume if interrupted
	@$(MAKE) -s -j$(JOBS) all
	./mocl recipes/moc_hh.lua resume=auto

test: deps   ## build and run all tests; the last line counts them
	@$(MAKE) -s -j$(JOBS) all programs build/tests/bench/peak
	@$(MAKE) -s -j$(JOBS) VARIANT=f64 build/f64/mocl
	@sh tests/all.sh

asan: deps   ## the tests under the address and undefined behaviour sanitizers
	@$(MAKE) -s -j$(JOBS) VARIANT=asan all programs
	@sh tests/all.sh asan

tsan: deps   ## the threads of the kernels, and interruptions, under the thread sanitizer
	@$(MAKE) -s -j$(JOBS) VARIANT=tsan $(TSAN)
	@sh tests/tsan.sh

slow: deps   ## the long tests: runs that are killed, out of memory or out of disk; collections all the time; broken files
	@$(MAKE) -s -j$(JOBS) mocl build/tests/c/test_failures
	@$(MAKE) -s -j$(JOBS) VARIANT=asan build/asan/mocl
	@sh tests/slow.sh

# BENCH="rounds=9 only=decode" passes arguments to tests/bench/run.lua
BENCH ?=
bench: deps   ## mocl beside PyTorch eager on the CPU; renews the table of docs/benchmarks/cpu.md
	@$(MAKE) -s -j$(JOBS) mocl build/tests/bench/peak
	./mocl tests/bench/run.lua json=docs/benchmarks/cpu.json page=docs/benchmarks/cpu.md $(BENCH)

build/tests/bench/peak: tests/bench/peak.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -O2 -pthread $(WARN) -o $@ $<

check: test asan tsan slow   ## everything a change needs

BIN     := $(DESTDIR)$(PREFIX)/bin
LIB     := $(DESTDIR)$(PREFIX)/lib
INC     := $(DESTDIR)$(PREFIX)/include
CMOD    := $(LIB)/lua/5.4
RECIPES := $(DESTDIR)$(PREFIX)/share/mocl/recipes

install: all   ## install below PREFIX (/usr/local), staged in DESTDIR
	install -d $(BIN) $(LIB)/pkgconfig $(CMOD) $(INC) $(RECIPES)
	install mocl $(BIN)/mocl
	install -m 644 libmocl.a $(LIB)/libmocl.a
	install -m 644 libmocl.so $(LIB)/libmocl.so.0
	ln -sf libmocl.so.0 $(LIB)/libmocl.so
	install -m 644 mocl.so $(CMOD)/mocl.so
	install -m 644 runtime/mocl.h $(INC)/mocl.h
	install -m 644 $(wildcard recipes/*.lua) $(RECIPES)
	printf 'Name: mocl\nDescription: multi-objective control of language models\nVersion: %s\nLibs: -L%s -lmocl\nCflags: -I%s\n' \
	    $(VERSION) $(PREFIX)/lib $(PREFIX)/include > $(LIB)/pkgconfig/mocl.pc

uninstall:   ## remove what install put there
	rm -f $(BIN)/mocl $(LIB)/libmocl.a $(LIB)/libmocl.so.0 $(LIB)/libmocl.so $(CMOD)/mocl.so $(INC)/mocl.h
	rm -f $(LIB)/pkgconfig/mocl.pc $(patsubst recipes/%,$(RECIPES)/%,$(wildcard recipes/*.lua))
	-rmdir $(RECIPES) $(DESTDIR)$(PREFIX)/share/mocl

clean:   ## remove everything that was built
	rm -rf build mocl libmocl.so libmocl.a mocl.so

help:   ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16
	@echo 'variables: CC CFLAGS CPPFLAGS LDFLAGS PREFIX DESTDIR VARIANT=asan|tsan|f64 (into build/VARIANT)'

FORCE:
.PHONY: all programs deps demo test asan tsan slow bench check install uninstall clean help FORCE
.SECONDARY: $(PROGRAM_O)
-include $(EXE_O:.o=.d) $(LIB_O:.o=.d) $(PROGRAM_O:.o=.d)
