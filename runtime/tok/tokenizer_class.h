/* tokenizer_class.h - sets of characters in patterns, and escapes */
#ifndef MOCL_TOKENIZER_CLASS_H
#define MOCL_TOKENIZER_CLASS_H

#include "tok/tokenizer_place.h"

/* p->i is at '[': appends an expression for one character of the set */
mocl_status mocl_tok_pattern_brackets(tok_pattern *p, tok_pattern_options o, tok_bytes *out);
/* p->i is behind the letter of \s, \S, \w, \p{...} and so on, `letter`; *known false if the letter
** is not one of these. Appends an expression for one character of the set. */
mocl_status mocl_tok_pattern_set(tok_pattern *p, tok_pattern_options o, char letter, tok_bytes *out,
                                 bool *known);
/* p->i is behind the letter of an escape that means one character in and outside of brackets; *known
** false if it is not one of these */
mocl_status mocl_tok_pattern_escape(tok_pattern *p, char letter, uint32_t *c, bool *known);

#endif
