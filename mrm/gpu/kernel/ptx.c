/* ptx.c - the text of xxh3.ptx, taken in by the assembler: PTX_FILE is its path. */
#include "mrm/gpu/kernel/ptx.h"

__asm__(".section .rodata\n"
	".balign 16\n"
	".globl hash_kernel_ptx\n"
	".type hash_kernel_ptx, STT_OBJECT\n"
	"hash_kernel_ptx:\n"
	".incbin \"" PTX_FILE "\"\n"
	".byte 0\n"
	".size hash_kernel_ptx, . - hash_kernel_ptx\n"
	".previous\n");
