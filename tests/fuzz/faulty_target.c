/* faulty_target.c - a fuzz target for the test of the driver: what an input begins with says how it ends. */
#include "tests/fuzz/fuzz.h"

#include <signal.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size && data[0] == 'A')
		abort();
	if (size && data[0] == 'H')
		raise(SIGALRM); /* as if ten seconds had passed */
	return 0;
}
