/* check.h - assertions that stay on in production.
 * A broken invariant in the daemon ends it: ASSERT prints where and what, runs the panic hook (state dump) once,
 * aborts.  libtrims never uses these on anything its caller or the daemon controls.  Thread: any. */
#ifndef SHARED_CHECK_H
#define SHARED_CHECK_H

#define ASSERT(cond)                                                                                                  \
	do {                                                                                                          \
		if (__builtin_expect(!(cond), 0))                                                                     \
			check_failed(__FILE__, __LINE__, __func__, #cond);                                            \
	} while (0)
/* A place that no correct program reaches. */
#define NEVER() check_failed(__FILE__, __LINE__, __func__, "NEVER")

/* Magic numbers: the first member of every heap object, `uint32_t magic`. */
#define CHECK_OBJ(ptr, value) ASSERT((ptr) && (ptr)->magic == (value))

_Noreturn void check_failed(const char *file, int line, const char *func, const char *what);
/* Called once, on the failing thread, before abort(); NULL removes it. */
void check_set_panic_hook(void (*hook)(void));

#endif
