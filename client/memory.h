/* memory.h - the sealed memory that answers come in.  Thread: any.  Owns nothing. */
#ifndef CLIENT_MEMORY_H
#define CLIENT_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Maps the first `bytes` of fd read-only; 0 bytes give a pointer to none.  The descriptor stays the caller's. */
int memory_map(int fd, uint64_t bytes, const void **out);
void memory_unmap(const void *data, uint64_t bytes);
/* Copies them to the heap and adds a NUL. */
int memory_read(int fd, uint64_t bytes, char **out);
/* The other way: a close-on-exec memory file with these bytes that nobody can change any more. */
int memory_sealed(const char *name, const void *bytes, size_t n, int *fd);

#endif
