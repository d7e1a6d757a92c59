/* utf8.h - is this valid UTF-8?  Thread: any.  Owns nothing. */
#ifndef SHARED_UTF8_H
#define SHARED_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* As RFC 3629 has it: no overlong form, no surrogate, nothing above U+10FFFF.  NUL is a character like any other.
 * utf8_sequence() is the length of the first character, 0 when the text does not begin with a valid one. */
size_t utf8_sequence(const void *text, size_t bytes);
bool utf8_valid(const void *text, size_t bytes);

#endif
