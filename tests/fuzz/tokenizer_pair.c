/* tokenizer_pair.c - fuzzes vocab.json with merges.txt and the files of transformers beside them */
#include "fuzz.h"
#include "use_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[FUZZ_FILES] = {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"};
    fuzz_files(names, FUZZ_FILES, data, n);
    fuzz_read(fuzz_use_tokenizer, fuzz_dir(), data, n);
    return 0;
}
