/* backend.c - which backends this build has. */
#include "tools/run/backend.h"

#include <string.h>

const struct backend_ops *backend_find(const char *name)
{
	static const struct backend_ops *const all[] = {&backend_cpu, &backend_cuda};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}
