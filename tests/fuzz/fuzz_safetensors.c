/* fuzz_safetensors.c - a whole .safetensors file; see header_target.h. */
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/header_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_header(FORMAT_SAFETENSORS, "f.safetensors", data, size);
	return 0;
}
