/* check.c - see check.h.  Keeps: the hook runs at most once, even when it asserts itself. */
#include "shared/check.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

static _Atomic(void (*)(void)) panic_hook;

void check_set_panic_hook(void (*hook)(void))
{
	atomic_store(&panic_hook, hook);
}

void check_failed(const char *file, int line, const char *func, const char *what)
{
	fprintf(stderr, "panic: %s:%d: %s: %s\n", file, line, func, what);
	void (*hook)(void) = atomic_exchange(&panic_hook, NULL);
	if (hook)
		hook();
	abort();
}
