/* ptx.c - the text of xxh3.ptx: PTX_FILE is its path. */
#include "mrm/gpu/kernel/ptx.h"

#include "shared/incbin.h"

INCBIN_TEXT(hash_kernel_ptx, PTX_FILE);
