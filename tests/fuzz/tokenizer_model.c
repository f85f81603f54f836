/* tokenizer_model.c - fuzzes tokenizer.model and the files of transformers beside it */
#include "fuzz.h"
#include "use_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const names[FUZZ_FILES] = {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                                                  "added_tokens.json"};
    fuzz_files(names, FUZZ_FILES, data, n);
    fuzz_read(fuzz_use_tokenizer, fuzz_dir(), data, n);
    return 0;
}
