/* gguf.c - refuses, until the parser lands. */
#include "shared/header.h"
#include <errno.h>
int gguf_parse(const struct header *h)
{
	return header_fault(h, "GGUF files are not supported yet");
}
