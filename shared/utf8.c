/* utf8.c - see utf8.h.  Keeps: reads no byte at or behind text + bytes. */
#include "shared/utf8.h"

#include <stdint.h>

/* Length of the sequence that a lead byte opens, 0 for a byte that opens none; *lo and *hi bound the byte behind it,
 * which is where overlong forms, surrogates and too large code points are told apart. */
static unsigned lead_length(uint8_t lead, uint8_t *lo, uint8_t *hi)
{
	*lo = 0x80;
	*hi = 0xbf;
	if (lead < 0x80)
		return 1;
	if (lead >= 0xc2 && lead <= 0xdf)
		return 2;
	if (lead >= 0xe0 && lead <= 0xef) {
		*lo = lead == 0xe0 ? 0xa0 : 0x80;
		*hi = lead == 0xed ? 0x9f : 0xbf;
		return 3;
	}
	if (lead >= 0xf0 && lead <= 0xf4) {
		*lo = lead == 0xf0 ? 0x90 : 0x80;
		*hi = lead == 0xf4 ? 0x8f : 0xbf;
		return 4;
	}
	return 0;
}

size_t utf8_sequence(const void *text, size_t bytes)
{
	const uint8_t *p = text;
	uint8_t lo, hi;
	unsigned n = bytes ? lead_length(*p, &lo, &hi) : 0;

	if (!n || n > bytes)
		return 0;
	for (unsigned i = 1; i < n; i++, lo = 0x80, hi = 0xbf)
		if (p[i] < lo || p[i] > hi)
			return 0;
	return n;
}

bool utf8_valid(const void *text, size_t bytes)
{
	const uint8_t *p = text, *end = p + bytes;

	while (p < end) {
		size_t n = utf8_sequence(p, (size_t)(end - p));
		if (!n)
			return false;
		p += n;
	}
	return true;
}
