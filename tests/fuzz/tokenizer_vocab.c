/* tokenizer_vocab.c - fuzzes vocab.txt, and tokenizer_config.json and config.json beside it */
#include "fuzz.h"
#include "use_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[FUZZ_FILES] = {"vocab.txt", "tokenizer_config.json", "config.json"};
    fuzz_files(names, 3, data, n);
    fuzz_read(fuzz_use_tokenizer, fuzz_dir(), data, n);
    return 0;
}
