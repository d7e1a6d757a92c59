/* test_cuda_abi.c - shared/cuda.def and cuda.h against the toolkit's own headers, row by row: signatures, symbols,
 * numbers, layouts.  Everything is decided while compiling and told while running, so that a toolkit that changed does
 * not break a build.  Without a toolkit (12.8 or newer) it is skipped. */
#include "shared/cuda.h"

#include "tests/unit/unit.h"

#include <dlfcn.h>
#include <string.h>

#if __has_include(<cudaTypedefs.h>)
#include <cudaTypedefs.h>
#endif

#if !defined(CUDA_VERSION) || CUDA_VERSION < 12080
int main(void)
{
	printf("1..0 # SKIP no CUDA toolkit of version 12.8 or newer was there to compile this against\n");
	return 0;
}
#else

#define STUB "/usr/local/cuda/lib64/stubs/libcuda.so"
#define TEXT(x) #x
#define EXPANDED(x) TEXT(x)

/* What is compared for types: a number each, that differs when size, alignment, sign or kind do. */
#define IS_SIGNED(type) ((type)-1 < (type)1)
#define KIND(type) __builtin_classify_type(*(type *)0)

struct pair {
	const char *what;
	unsigned long long ours, theirs;
};

#define CONSTANT(what, a, b) {what, (unsigned long long)(a), (unsigned long long)(b)},
#define INTEGER(a, b)                                                                                                 \
	CONSTANT("size of " #b, sizeof(a), sizeof(b))                                                                 \
	CONSTANT("alignment of " #b, _Alignof(a), _Alignof(b)) CONSTANT("sign of " #b, IS_SIGNED(a), IS_SIGNED(b))
#define HANDLE(a, b) CONSTANT("size of " #b, sizeof(a), sizeof(b)) CONSTANT("kind of " #b, KIND(a), KIND(b))
#define STRUCT(a, b)                                                                                                  \
	CONSTANT("size of " #b, sizeof(struct a), sizeof(b))                                                          \
	CONSTANT("alignment of " #b, _Alignof(struct a), _Alignof(b))
#define FIELD(a, f, b, g)                                                                                             \
	CONSTANT("offset of " #b "." #g, offsetof(struct a, f), offsetof(b, g))                                       \
	CONSTANT("size of " #b "." #g, sizeof(((struct a *)0)->f), sizeof(((b *)0)->g))

static const struct pair numbers[] = {
	CONSTANT("CUDA_SUCCESS", CU_OK, CUDA_SUCCESS)
#define CU_RESULT(number, name, lost, text) CONSTANT("CUDA_ERROR_" #name, CU_E_##name, CUDA_ERROR_##name)
#include "shared/cuda.def"
#define CU_ATTR(number, name, theirs) CONSTANT(#theirs, CU_ATTR_##name, CU_DEVICE_ATTRIBUTE_##theirs)
#include "shared/cuda.def"
#define CU_CONST(name, value, theirs) CONSTANT(#theirs, name, theirs)
#include "shared/cuda.def"
};

static const struct pair layouts[] = {
	INTEGER(cu_result, CUresult)
	INTEGER(cu_device, CUdevice)
	INTEGER(cu_ptr, CUdeviceptr)
	INTEGER(cu_word, cuuint64_t)
	INTEGER(cu_mem_handle, CUmemGenericAllocationHandle)
	INTEGER(cu_flags64, unsigned long long)
	INTEGER(cu_device_attr, CUdevice_attribute)
	INTEGER(cu_p2p_attr, CUdevice_P2PAttribute)
	INTEGER(cu_pointer_attr, CUpointer_attribute)
	INTEGER(cu_handle_type, CUmemAllocationHandleType)
	INTEGER(cu_granularity, CUmemAllocationGranularity_flags)
	INTEGER(cu_capture_mode, CUstreamCaptureMode)
	INTEGER(cu_capture_status, CUstreamCaptureStatus)
	INTEGER(cu_query_status, CUdriverProcAddressQueryResult)
	HANDLE(cu_context, CUcontext)
	HANDLE(cu_stream, CUstream)
	HANDLE(cu_event, CUevent)
	HANDLE(cu_module, CUmodule)
	HANDLE(cu_function, CUfunction)
	HANDLE(cu_graph, CUgraph)
	HANDLE(cu_graph_exec, CUgraphExec)
	HANDLE(cu_host_fn, CUhostFn)
	STRUCT(cu_uuid, CUuuid)
	FIELD(cu_uuid, bytes, CUuuid, bytes)
	STRUCT(cu_ipc_mem_handle, CUipcMemHandle)
	FIELD(cu_ipc_mem_handle, reserved, CUipcMemHandle, reserved)
	STRUCT(cu_mem_location, CUmemLocation)
	FIELD(cu_mem_location, type, CUmemLocation, type)
	FIELD(cu_mem_location, id, CUmemLocation, id)
	STRUCT(cu_mem_prop, CUmemAllocationProp)
	FIELD(cu_mem_prop, type, CUmemAllocationProp, type)
	FIELD(cu_mem_prop, handle_types, CUmemAllocationProp, requestedHandleTypes)
	FIELD(cu_mem_prop, location, CUmemAllocationProp, location)
	FIELD(cu_mem_prop, windows, CUmemAllocationProp, win32HandleMetaData)
	FIELD(cu_mem_prop, flags, CUmemAllocationProp, allocFlags)
	FIELD(cu_mem_prop, flags.compression, CUmemAllocationProp, allocFlags.compressionType)
	FIELD(cu_mem_prop, flags.rdma, CUmemAllocationProp, allocFlags.gpuDirectRDMACapable)
	FIELD(cu_mem_prop, flags.usage, CUmemAllocationProp, allocFlags.usage)
	FIELD(cu_mem_prop, flags.reserved, CUmemAllocationProp, allocFlags.reserved)
	STRUCT(cu_mem_access, CUmemAccessDesc)
	FIELD(cu_mem_access, location, CUmemAccessDesc, location)
	FIELD(cu_mem_access, flags, CUmemAccessDesc, flags)
	STRUCT(cu_copy_attrs, CUmemcpyAttributes)
	FIELD(cu_copy_attrs, source_order, CUmemcpyAttributes, srcAccessOrder)
	FIELD(cu_copy_attrs, source_hint, CUmemcpyAttributes, srcLocHint)
	FIELD(cu_copy_attrs, destination_hint, CUmemcpyAttributes, dstLocHint)
	FIELD(cu_copy_attrs, flags, CUmemcpyAttributes, flags)
};

/* From here on our names mean the toolkit's types, and each row of the table is declared once more. */
#define cu_result CUresult
#define cu_device CUdevice
#define cu_ptr CUdeviceptr
#define cu_word cuuint64_t
#define cu_mem_handle CUmemGenericAllocationHandle
#define cu_device_attr CUdevice_attribute
#define cu_p2p_attr CUdevice_P2PAttribute
#define cu_pointer_attr CUpointer_attribute
#define cu_handle_type CUmemAllocationHandleType
#define cu_granularity CUmemAllocationGranularity_flags
#define cu_query_status CUdriverProcAddressQueryResult
#define cu_context CUcontext
#define cu_stream CUstream
#define cu_event CUevent
#define cu_module CUmodule
#define cu_function CUfunction
#define cu_graph CUgraph
#define cu_graph_exec CUgraphExec
#define cu_capture_mode CUstreamCaptureMode
#define cu_capture_status CUstreamCaptureStatus
#define cu_host_fn CUhostFn
#define cu_uuid CUuuid_st
#define cu_ipc_mem_handle CUipcMemHandle_st
#define cu_mem_location CUmemLocation_st
#define cu_mem_prop CUmemAllocationProp_st
#define cu_mem_access CUmemAccessDesc_st
#define cu_copy_attrs CUmemcpyAttributes_st
#define CU(field, name, symbol, version, need, arguments) typedef cu_result(*row_##field) arguments;
#include "shared/cuda.def"

static const struct row {
	const char *name, *symbol, *newest; /* the last: what the toolkit's header makes of the name today */
	int version;
	bool same, same_as_newest; /* as the type of exactly that version; as the prototype of the newest */
} rows[] = {
#define CU(field, name_, symbol_, version_, need, arguments)                                                          \
	{                                                                                                             \
		.name = #name_,                                                                                       \
		.symbol = #symbol_,                                                                                   \
		.newest = EXPANDED(name_),                                                                            \
		.version = version_,                                                                                  \
		.same = __builtin_types_compatible_p(row_##field, PFN_##name_##_v##version_),                         \
		.same_as_newest = __builtin_types_compatible_p(row_##field, __typeof__(&(name_))),                    \
	},
#include "shared/cuda.def"
};

/* Rows that ask for an older version than the newest on purpose, so that more drivers have it. */
static const char *const older[] = {"cuGetProcAddress", "cuCtxCreate_v2", "cuEventElapsedTime", "cuMemcpyBatchAsync"};

static bool is_older(const struct row *row)
{
	for (size_t i = 0; i < sizeof older / sizeof *older; i++)
		if (!strcmp(row->symbol, older[i]))
			return true;
	return false;
}

static void compare(const struct pair *pairs, size_t n)
{
	ck_assert_uint_gt(n, 20);
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(pairs[i].ours == pairs[i].theirs, "%s: %llu here, %llu in the toolkit's header", pairs[i].what,
			pairs[i].ours, pairs[i].theirs);
}

START_TEST(every_constant_has_the_toolkits_value)
{
	compare(numbers, sizeof numbers / sizeof *numbers);
}
END_TEST

START_TEST(every_type_has_the_toolkits_layout)
{
	compare(layouts, sizeof layouts / sizeof *layouts);
}
END_TEST

START_TEST(every_entry_has_the_toolkits_signature_of_its_version)
{
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		ck_assert_msg(rows[i].same, "%s is not what the toolkit declares for %d", rows[i].name, rows[i].version);
}
END_TEST

START_TEST(every_symbol_and_prototype_is_the_newest_unless_meant_otherwise)
{
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		ck_assert_msg(!strcmp(rows[i].symbol, rows[i].newest) != is_older(&rows[i]),
			"%s of version %d is said to be %s; the newest is %s", rows[i].name, rows[i].version,
			rows[i].symbol, rows[i].newest);
		ck_assert_msg(rows[i].same_as_newest || is_older(&rows[i]), "%s is not the prototype of %s",
			rows[i].name, rows[i].newest);
	}
}
END_TEST

START_TEST(every_symbol_is_in_the_toolkits_stub)
{
	void *stub = dlopen(STUB, RTLD_NOW | RTLD_LOCAL);

	if (!stub) {
		printf("# no stub library: %s\n", dlerror());
		return;
	}
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		ck_assert_msg(dlsym(stub, rows[i].symbol), "the stub library has no %s", rows[i].symbol);
	dlclose(stub);
}
END_TEST

static void abi(Suite *s)
{
	UNIT_CASE(s, "abi", every_constant_has_the_toolkits_value, every_type_has_the_toolkits_layout,
		every_entry_has_the_toolkits_signature_of_its_version, every_symbol_and_prototype_is_the_newest_unless_meant_otherwise,
		every_symbol_is_in_the_toolkits_stub);
}

UNIT_MAIN("cuda_abi", abi)
#endif
