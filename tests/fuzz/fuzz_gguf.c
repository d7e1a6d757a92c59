/* fuzz_gguf.c - a whole .gguf file, as one that stands alone and as a part; see header_target.h. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/header_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_header(FORMAT_GGUF, "f.gguf", data, size);
	fuzz_header(FORMAT_GGUF, "f-00002-of-00003.gguf", data, size);
	return 0;
}
