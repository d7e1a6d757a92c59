/* mathlib.c - see mathlib.h.  Keeps: a table that is handed out is complete. */
#include "tools/run/mathlib.h"

#include "shared/base.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
	const char *symbol;
	size_t at;
};

struct library {
	const char *called, *variable, *names[4]; /* names: newest first */
	const struct entry *entries;
	size_t n;
};

static void *open_first(const struct library *l, char *path, size_t size, struct fault *why)
{
	const char *own = getenv(l->variable);
	const char *const given[] = {own, NULL}, *const *names = own && *own ? given : l->names;
	for (size_t i = 0; names[i]; i++) {
		void *dl = dlopen(names[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
		if (dl) {
			snprintf(path, size, "%s", names[i]);
			return dl;
		}
	}
	const char *error = dlerror(); /* of the last, the oldest */
	fault_set(why, TRIMS_E_UNSUPPORTED, "no %s: %s; $%s can name it", l->called, error ? error : "not found", l->variable);
	return NULL;
}

static int fill(const struct library *l, void *table, char *path, size_t size, bool simulated, struct fault *why)
{
	void *dl = open_first(l, path, size, why);
	if (!dl)
		return -EPROTO;
	if (simulated != (dlsym(dl, MATHLIB_SIMULATED) != NULL))
		return fault_set(why, TRIMS_E_UNSUPPORTED, "%s is %s and the driver is %s: they do not work together", path,
			simulated ? "a real library" : "simulated", simulated ? "simulated" : "real");
	for (size_t i = 0; i < l->n; i++) {
		void *found = dlsym(dl, l->entries[i].symbol);
		if (!found)
			return fault_set(why, TRIMS_E_UNSUPPORTED, "%s has no %s: it is too old or too new", path, l->entries[i].symbol);
		memcpy((char *)table + l->entries[i].at, &found, sizeof found);
	}
	return 0;
}

int mathlib_cublas(struct cublas *out, bool simulated, struct fault *why)
{
	static const struct entry entries[] = {
#define MATH(field, symbol, arguments) {#symbol, offsetof(struct cublas, field)},
#include "tools/run/cublas.def"
	};
	static const struct library l = {"cuBLAS", "TRIMS_CUBLAS", {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", NULL},
		entries, ARRAY_LEN(entries)};
	return fill(&l, out, out->path, sizeof out->path, simulated, why);
}

int mathlib_cudnn(struct cudnn *out, bool simulated, struct fault *why)
{
	static const struct entry entries[] = {
#define MATH(field, symbol, arguments) {#symbol, offsetof(struct cudnn, field)},
#include "tools/run/cudnn.def"
	};
	static const struct library l = {"cuDNN, which convolutions need on a GPU", "TRIMS_CUDNN",
		{"libcudnn.so.9", "libcudnn.so.8", NULL}, entries, ARRAY_LEN(entries)};
	return fill(&l, out, out->path, sizeof out->path, simulated, why);
}

int mathlib_fault(const char *what, math_status status, struct fault *why)
{
	return fault_set(why, TRIMS_E_GPU_ERROR, "%s: status %u", what, status);
}
