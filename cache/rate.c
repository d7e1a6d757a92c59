/* rate.c - see rate.h.  Everything is fixed point: log2 values in 1/65536, mantissas in 2^-31 or 2^-32. */
#include "cache/rate.h"

#include "shared/check.h"

/* 2^-(2^-k) * 2^32 for k = 1..16 */
static const uint32_t roots_of_half[16] = {3037000500u, 3611622603u, 3938502376u, 4112874773u, 4202935003u,
	4248701965u, 4271771996u, 4283353945u, 4289156690u, 4292061010u, 4293513907u, 4294240540u, 4294603903u,
	4294785595u, 4294876445u, 4294921870u};

int64_t rate_log2(uint64_t x)
{
	ASSERT(x > 0);
	int whole = 63 - __builtin_clzll(x);
	uint64_t mantissa = whole >= 31 ? x >> (whole - 31) : x << (31 - whole); /* [1, 2) */
	int64_t bits = 0;
	for (int i = 0; i < 16; i++) {
		mantissa = mantissa * mantissa >> 31;
		bits <<= 1;
		if (mantissa >> 32) {
			mantissa >>= 1;
			bits |= 1;
		}
	}
	return (int64_t)whole * RATE_ONE + bits;
}

int64_t rate_time(int64_t t_ns, uint64_t half_life_ns)
{
	ASSERT(half_life_ns > 0);
	__int128 scaled = (__int128)t_ns * RATE_ONE / (__int128)half_life_ns;
	return (int64_t)MAX(MIN(scaled, (__int128)INT64_MAX / 4), (__int128)RATE_NEVER / 2);
}

/* 2^32 * 2^(-d / 65536), for d below 32 halvings. */
static uint64_t rate_exp2_minus(uint64_t d)
{
	uint64_t v = (uint64_t)1 << 32;
	for (int k = 0; k < 16; k++)
		if (d & ((uint64_t)RATE_ONE >> (k + 1)))
			v = v * roots_of_half[k] >> 32;
	return v >> (d / RATE_ONE);
}

int64_t rate_use(int64_t key, int64_t t)
{
	int64_t high = MAX(key, t);
	uint64_t apart = (uint64_t)(high - MIN(key, t));
	if (apart >= 32 * (uint64_t)RATE_ONE)
		return high;
	return high + rate_log2(((uint64_t)1 << 32) + rate_exp2_minus(apart)) - (int64_t)32 * RATE_ONE;
}
