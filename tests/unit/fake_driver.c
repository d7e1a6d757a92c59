/* fake_driver.c - the least that looks like a CUDA driver to a loader, with what may be wrong about it in the environment:
 *   FAKE_INIT=N      what cuInit says              FAKE_COUNT=N     devices (default 1)
 *   FAKE_MISSING=X   there is no entry X           FAKE_NULL=X      X is found, at no address
 *   FAKE_OLD=X       X needs a newer version       FAKE_PROC=N      what cuGetProcAddress says
 * Every entry leads to a function of one argument that does nothing: only the loader may use it. */
#include "shared/cuda.h"

#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

cu_result cuInit(unsigned flags);
cu_result cuDriverGetVersion(int *version);
cu_result cuGetProcAddress_v2(const char *name, void **found, int version, cu_word flags, cu_query_status *status);

static int number(const char *variable, int otherwise)
{
	const char *value = getenv(variable);

	return value ? atoi(value) : otherwise;
}

static bool is(const char *variable, const char *name)
{
	const char *value = getenv(variable);

	return value && !strcmp(value, name);
}

EXPORT cu_result cuInit(unsigned flags)
{
	return (cu_result)number("FAKE_INIT", 0);
}

EXPORT cu_result cuDriverGetVersion(int *version)
{
	*version = 11080;
	return CU_OK;
}

static cu_result count(int *n)
{
	*n = number("FAKE_COUNT", 1);
	return CU_OK;
}

static cu_result nothing(void)
{
	return CU_OK;
}

EXPORT cu_result cuGetProcAddress_v2(const char *name, void **found, int version, cu_word flags, cu_query_status *status)
{
	*found = NULL;
	*status = CU_QUERY_FOUND;
	if (number("FAKE_PROC", 0))
		return (cu_result)number("FAKE_PROC", 0);
	if (is("FAKE_MISSING", name) || is("FAKE_OLD", name))
		*status = is("FAKE_OLD", name) ? CU_QUERY_TOO_NEW : CU_QUERY_NOT_FOUND;
	else if (version > 11080) /* what a driver says to those who are newer than it is */
		return CU_E_INVALID_VALUE;
	else if (!is("FAKE_NULL", name))
		*found = !strcmp(name, "cuInit") ? (void *)cuInit
			: !strcmp(name, "cuDriverGetVersion") ? (void *)cuDriverGetVersion
			: !strcmp(name, "cuDeviceGetCount") ? (void *)count : (void *)nothing;
	return CU_OK;
}
