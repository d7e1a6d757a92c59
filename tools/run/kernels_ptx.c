/* kernels_ptx.c - the text of kernels.ptx: PTX_FILE is its path. */
#include "tools/run/kernels.h"

#include "shared/incbin.h"

INCBIN_TEXT(run_kernels_ptx, PTX_FILE);
