/* use_tokenizer.h - loads a tokenizer and, where it is accepted, uses it */
#ifndef MOCL_FUZZ_USE_TOKENIZER_H
#define MOCL_FUZZ_USE_TOKENIZER_H

#include "base.h"

mocl_status fuzz_use_tokenizer(mocl_ctx *ctx, const char *path);

#endif
