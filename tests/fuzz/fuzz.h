/* fuzz.h - what a fuzz target defines; the names are libFuzzer's. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Optional. */
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
/* Returns 0; a fault is an abort, a bad access, or a run that takes more than ten seconds.  Keeps no state from one
 * call to the next, so that one input reproduces one fault. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
