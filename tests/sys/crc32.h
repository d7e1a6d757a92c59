/* crc32.h - the sum that Python's zlib.crc32() makes, eight bytes a step: clients of tests sum hundreds of megabytes.
 * Thread: one per program.  The bytes are the caller's own, so no sanitizer need look at each. */
#ifndef TESTS_SYS_CRC32_H
#define TESTS_SYS_CRC32_H

#include <stddef.h>
#include <stdint.h>

#define CRC32_STEP 8

/* table[k][b]: what byte b becomes after k more zero bytes. */
static inline void crc32_fill(uint32_t table[CRC32_STEP][256])
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t crc = b;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
		table[0][b] = crc;
	}
	for (int k = 1; k < CRC32_STEP; k++)
		for (int b = 0; b < 256; b++)
			table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
}

__attribute__((no_sanitize("thread", "address", "undefined"))) static inline uint32_t crc32_of(const uint8_t *p, size_t n)
{
	static uint32_t table[CRC32_STEP][256];
	uint32_t crc = UINT32_MAX;

	if (!table[0][255])
		crc32_fill(table);
	for (; n >= CRC32_STEP; n -= CRC32_STEP, p += CRC32_STEP) {
		uint32_t sum = 0;
		for (int i = 0; i < CRC32_STEP; i++) /* the first byte has the most behind it */
			sum ^= table[CRC32_STEP - 1 - i][p[i] ^ (i < 4 ? crc >> 8 * i & 255 : 0)];
		crc = sum;
	}
	for (; n; n--, p++)
		crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
	return ~crc;
}

#endif
