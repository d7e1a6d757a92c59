/* incbin.h - a file as a NUL-terminated constant, taken in by the assembler, behind the compiler's back: `file` is a string
 * literal, its path. */
#ifndef SHARED_INCBIN_H
#define SHARED_INCBIN_H

#define INCBIN_TEXT(symbol, file)                                                                                     \
	__asm__(".section .rodata\n"                                                                                  \
		".balign 16\n"                                                                                        \
		".globl " #symbol "\n"                                                                                \
		".type " #symbol ", STT_OBJECT\n" #symbol ":\n"                                                       \
		".incbin \"" file "\"\n"                                                                              \
		".byte 0\n"                                                                                           \
		".size " #symbol ", . - " #symbol "\n"                                                                \
		".previous\n")

#endif
