/* tokenizer_pre.c - how llama.cpp cuts a text into words for byte-level BPE, by the name in tokenizer.ggml.pre.
**
** Each list of patterns is applied in turn: every match of a pattern is a word, and so is what lies between two
** matches; the next pattern cuts these again. The patterns are those of the models; where llama.cpp has one in another
** form, its form. Names that llama.cpp knows and that are not here need steps that mocl does not have, or belong to no
** decoder.
*/
#include <string.h>

#include "tok/tokenizer_impl.h"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define CONTRACTIONS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define REST "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* words with a character in front, numbers of `digits`, signs */
#define WORDS(digits) CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" REST
/* words cut where small letters are followed by capitals, with `end` behind them */
#define HUMPS(end, digits)                                                                 \
    "[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))*((?=[\\p{L}])([^A-Z]))+" end             \
    "|[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))+((?=[\\p{L}])([^A-Z]))*" end "|" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" REST

static const char *const standard[] = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]", NULL};
static const char *const falcon[] = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]", NULL};
static const char *const gpt2[] = {GPT2, NULL};
static const char *const single_numbers[] = {"\\p{N}", GPT2, NULL};
static const char *const llama3[] = {WORDS("\\p{N}{1,3}"), NULL};
static const char *const qwen2[] = {WORDS("\\p{N}"), NULL};
static const char *const tekken[] = {HUMPS("", "\\p{N}"), NULL};
static const char *const gpt4o[] = {HUMPS(CONTRACTIONS "?", "\\p{N}{1,3}"), NULL};
static const char *const deepseek_v3[] = {
    "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" REST,
    NULL};

static const struct {
    const char *names; /* each between two spaces */
    tok_pre pre;
} table[] = {
    {" default ", {standard, false, false}},
    {" gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais trillion "
     "granite-docling exaone4 ",
     {gpt2, false, false}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {single_numbers, false, false}},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", {llama3, true, true}},
    {" dbrx smaug-bpe ", {llama3, false, false}},
    {" qwen2 stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2 ", {qwen2, false, false}},
    {" tekken ", {tekken, true, true}},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ", {gpt4o, false, false}},
    {" falcon ", {falcon, false, false}},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ", {deepseek_v3, false, false}}};

const tok_pre *mocl_tok_pre_named(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || strchr(name, ' ')) return NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (const char *p = table[i].names; (p = strstr(p, name)) != NULL; p++)
            if (p[-1] == ' ' && p[n] == ' ') return &table[i].pre;
    return NULL;
}
