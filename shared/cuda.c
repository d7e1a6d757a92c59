/* cuda.c - see cuda.h.  Keeps: a table that is handed out has every REQUIRED entry and a driver that answered cuInit;
 * whatever fails before that is closed again and told as one sentence. */
#include "shared/cuda.h"

#include "shared/base.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Strings stand one behind the other and not in the tables: every pointer would be a relocation in every client, three times the
 * size of what it points to. */
static const struct {
	uint16_t result;
	bool lost;
} results[] = {
#define PLAIN false
#define LOST true
#define CU_RESULT(number, name_, lost_, text_) {number, lost_},
#include "shared/cuda.def"
#undef PLAIN
#undef LOST
};

static const char result_strings[] = /* two for each: its name, and what that means */
#define CU_RESULT(number, name_, lost_, text_) "CUDA_ERROR_" #name_ "\0" text_ "\0"
#include "shared/cuda.def"
	;

/* One for each entry of the table; `at` is where its pointer goes. */
static const struct {
	uint16_t at, version;
	bool required;
} entries[] = {
#define REQUIRED true
#define OPTIONAL false
#define CU(field, name_, symbol, version_, need, arguments) {offsetof(struct cuda, field), version_, need},
#include "shared/cuda.def"
#undef REQUIRED
#undef OPTIONAL
};
_Static_assert(sizeof(struct cuda) <= UINT16_MAX, "see `at`");

static const char entry_names[] =
#define CU(field, name_, symbol, version_, need, arguments) #name_ "\0"
#include "shared/cuda.def"
	;

static const char *string_at(const char *strings, size_t i)
{
	while (i--)
		strings += strlen(strings) + 1;
	return strings;
}

static size_t find_result(cu_result result)
{
	size_t i = 0;

	while (i < ARRAY_LEN(results) && results[i].result != result)
		i++;
	return i;
}

const char *cuda_name(const struct cuda *cu, cu_result result)
{
	const char *name = NULL;
	size_t i = find_result(result);

	if (result == CU_OK)
		return "CUDA_SUCCESS";
	if (i < ARRAY_LEN(results))
		return string_at(result_strings, 2 * i);
	if (cu && cu->get_error_name && cu->get_error_name(result, &name) == CU_OK && name)
		return name;
	return "unknown CUDA error";
}

const char *cuda_text(const struct cuda *cu, cu_result result)
{
	const char *text = NULL;
	size_t i = find_result(result);

	if (result == CU_OK)
		return "no error";
	if (i < ARRAY_LEN(results))
		return string_at(result_strings, 2 * i + 1);
	if (cu && cu->get_error_string && cu->get_error_string(result, &text) == CU_OK && text)
		return text;
	return "the driver gives no explanation";
}

bool cuda_lost(cu_result result)
{
	size_t i = find_result(result);

	return i < ARRAY_LEN(results) && results[i].lost;
}

int cuda_fault(const struct cuda *cu, cu_result result, const char *what, struct fault *why)
{
	enum trims_code code = TRIMS_E_GPU_ERROR;

	if (result == CU_E_OUT_OF_MEMORY)
		code = TRIMS_E_NO_MEMORY;
	else if (result == CU_E_NOT_SUPPORTED)
		code = TRIMS_E_UNSUPPORTED;
	else if (cuda_lost(result))
		code = TRIMS_E_NO_TIER;
	return fault_set(why, code, "%s: %s (%u): %s%s", what, cuda_name(cu, result), (unsigned)result,
		cuda_text(cu, result), cu && cu->simulated ? " [simulated]" : "");
}

void cuda_uuid_text(const struct cu_uuid *uuid, char text[CUDA_UUID_TEXT])
{
	char *at = text + sprintf(text, "GPU-");

	for (size_t i = 0; i < sizeof uuid->bytes; i++)
		at += sprintf(at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
			(unsigned char)uuid->bytes[i]);
}

static int no_gpu(struct fault *why, const char *path, const char *reason)
{
	fault_set(why, TRIMS_E_NO_TIER, "%s: %s", path, reason);
	return -ENODEV;
}

static int no_gpu_result(struct fault *why, const struct cuda *cu, const char *call, cu_result result)
{
	fault_set(why, TRIMS_E_NO_TIER, "%s: %s: %s (%u): %s", cu->path, call, cuda_name(NULL, result),
		(unsigned)result, cuda_text(NULL, result));
	return -ENODEV;
}

/* NULL in *found with CU_OK: there is no such entry in this version, or the driver is older than that. */
static cu_result find(const struct cuda *cu, const char *name, int version, void **found)
{
	cu_query_status status = CU_QUERY_FOUND;
	cu_result r;

	*found = NULL;
	r = cu->get_proc_address_v2 ? cu->get_proc_address_v2(name, found, version, 0, &status)
				    : cu->get_proc_address(name, found, version, 0);
	if (r == CU_E_INVALID_VALUE || r == CU_E_NOT_FOUND || status != CU_QUERY_FOUND) {
		*found = NULL;
		return CU_OK;
	}
	return r;
}

static int find_entries(struct cuda *cu, struct fault *why)
{
	const char *name = entry_names;

	for (size_t i = 0; i < ARRAY_LEN(entries); i++, name += strlen(name) + 1) {
		void *found, **at = (void **)((char *)cu + entries[i].at);
		cu_result r = find(cu, name, entries[i].version, &found);

		if (r)
			return no_gpu_result(why, cu, "cuGetProcAddress", r);
		if (!found && entries[i].required) {
			fault_set(why, TRIMS_E_NO_TIER,
				"%s: the driver (for CUDA %d.%d) lacks %s as of CUDA %d.%d: it is too old", cu->path,
				cu->driver_version / 1000, cu->driver_version % 1000 / 10, name,
				entries[i].version / 1000, entries[i].version % 1000 / 10);
			return -ENODEV;
		}
		*at = found ? found : *at; /* those found by symbol stay */
	}
	return 0;
}

/* By symbol only what has had one ABI for ever, and cuGetProcAddress, whose two symbols are two rows. */
static int wake(struct cuda *cu, struct fault *why)
{
	cu_result r;

	cu->init = (__typeof__(cu->init))dlsym(cu->dl, "cuInit");
	cu->driver_get_version = (__typeof__(cu->driver_get_version))dlsym(cu->dl, "cuDriverGetVersion");
	cu->get_proc_address = (__typeof__(cu->get_proc_address))dlsym(cu->dl, "cuGetProcAddress");
	cu->get_proc_address_v2 = (__typeof__(cu->get_proc_address_v2))dlsym(cu->dl, "cuGetProcAddress_v2");
	if (!cu->init || !cu->driver_get_version)
		return no_gpu(why, cu->path, "not a CUDA driver: it has no cuInit");
	r = cu->init(0);
	if (r)
		return no_gpu_result(why, cu, "cuInit", r);
	r = cu->driver_get_version(&cu->driver_version);
	if (r)
		return no_gpu_result(why, cu, "cuDriverGetVersion", r);
	if (!cu->get_proc_address && !cu->get_proc_address_v2)
		return no_gpu(why, cu->path, "the driver has no cuGetProcAddress: it is too old");
	return 0;
}

static int fill(struct cuda *cu, struct fault *why)
{
	int n = 0, e = wake(cu, why);
	cu_result r;

	e = e ? e : find_entries(cu, why);
	if (e)
		return e;
	r = cu->device_get_count(&n);
	if (r)
		return no_gpu_result(why, cu, "cuDeviceGetCount", r);
	if (n < 1)
		return no_gpu(why, cu->path, "the driver reports no device");
	cu->n_devices = n;
	cu->simulated = dlsym(cu->dl, "simcuda_version") != NULL;
	return 0;
}

static int open_library(struct cuda *cu, const char *path, struct fault *why)
{
	if (strlen(path) >= sizeof cu->path)
		return no_gpu(why, "the CUDA driver", "its path is too long");
	strcpy(cu->path, path);
	cu->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	return cu->dl ? 0 : no_gpu(why, "no CUDA driver", dlerror());
}

int cuda_load(struct cuda **out, const char *path, struct fault *why)
{
	struct cuda *cu = calloc(1, sizeof *cu);
	int e;

	*out = NULL;
	if (!cu)
		return -ENOMEM;
	e = open_library(cu, path ? path : CUDA_LIBRARY, why);
	e = e ? e : fill(cu, why);
	if (e)
		cuda_free(&cu);
	*out = cu;
	return e;
}

void cuda_free(struct cuda **cu)
{
	if (*cu && (*cu)->dl)
		dlclose((*cu)->dl); /* RTLD_NODELETE: only the reference goes */
	free(*cu);
	*cu = NULL;
}
