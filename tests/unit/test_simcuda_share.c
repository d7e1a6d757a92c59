/* test_simcuda_share.c - the simulated driver between processes: VMM allocations and their descriptors, classic handles,
 * what dies with its owner and what does not, and the bytes that come back. */
#include "tests/unit/simcuda_fixture.h"

#include "tools/simcuda/simcuda.h"

#include <signal.h>
#include <sys/mman.h>

#define BLOCK (4 * MIB)

static const struct cu_mem_prop device_fd = {
	.type = CU_ALLOCATION_PINNED, .handle_types = CU_HANDLE_FD, .location = {CU_AT_DEVICE, 0}};

static void set_access(struct cuda *cu, cu_ptr p, size_t bytes, uint32_t flags)
{
	const struct cu_mem_access access = {{CU_AT_DEVICE, 0}, flags};

	ok(cu->mem_set_access(p, bytes, &access, 1));
}

/* An address for this allocation, with access. */
static cu_ptr map_block(struct cuda *cu, cu_mem_handle h, size_t bytes, uint32_t flags)
{
	cu_ptr p;

	ok(cu->mem_address_reserve(&p, bytes, 2 * MIB, 0, 0));
	ok(cu->mem_map(p, bytes, 0, h, 0));
	set_access(cu, p, bytes, flags);
	return p;
}

static void unmap_block(struct cuda *cu, cu_ptr p, size_t bytes)
{
	ok(cu->mem_unmap(p, bytes));
	ok(cu->mem_address_free(p, bytes));
}

static int export_fd(struct cuda *cu, cu_mem_handle h)
{
	int fd = -1;

	ok(cu->mem_export(&fd, h, CU_HANDLE_FD, 0));
	return fd;
}

static cu_mem_handle import_fd(struct cuda *cu, int fd)
{
	cu_mem_handle h;

	ok(cu->mem_import(&h, (void *)(intptr_t)fd, CU_HANDLE_FD));
	return h;
}

static bool device_is_pattern(struct cuda *cu, cu_ptr p, uint64_t seed)
{
	OWN_MEM char *back = malloc(BLOCK);

	ok(cu->memcpy_dtoh(back, p, BLOCK));
	return sim_is_pattern(back, BLOCK, seed);
}

static void device_pattern(struct cuda *cu, cu_ptr p, uint64_t seed)
{
	OWN_MEM char *words = malloc(BLOCK);

	sim_pattern(words, BLOCK, seed);
	ok(cu->memcpy_htod(p, words, BLOCK));
}

START_TEST(an_allocation_has_rules)
{
	struct cuda *cu = sim_start();
	struct cu_mem_prop bad = device_fd;
	cu_mem_handle h;
	size_t granule;
	int fd;

	ok(cu->mem_get_allocation_granularity(&granule, &device_fd, CU_GRANULARITY_MINIMUM));
	ck_assert_uint_eq(granule, 2 * MIB);
	fails(cu->mem_create(&h, granule / 2, &device_fd, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_create(&h, 0, &device_fd, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_create(&h, granule, &device_fd, 1), CU_E_INVALID_VALUE);
	bad.location.id = 5;
	fails(cu->mem_create(&h, granule, &bad, 0), CU_E_INVALID_DEVICE);
	bad = device_fd;
	bad.handle_types = CU_HANDLE_FABRIC;
	fails(cu->mem_create(&h, granule, &bad, 0), CU_E_NOT_PERMITTED);
	bad.handle_types = 0;
	ok(cu->mem_create(&h, granule, &bad, 0));
	fails(cu->mem_export(&fd, h, CU_HANDLE_FD, 0), CU_E_INVALID_VALUE);
	ok(cu->mem_get_properties(&bad, h));
	ck_assert_int_eq(bad.location.type, CU_AT_DEVICE);
	ok(cu->mem_release(h));
	fails(cu->mem_release(h), CU_E_INVALID_VALUE);
	fails(cu->mem_import(&h, (void *)(intptr_t)0, CU_HANDLE_FD), CU_E_INVALID_VALUE);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_mapping_has_rules)
{
	struct cuda *cu = sim_start();
	struct cu_mem_access host = {{CU_AT_HOST, 0}, CU_PROT_READWRITE};
	cu_mem_handle h;
	cu_ptr p;
	char c = 1;

	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	fails(cu->mem_address_reserve(&p, BLOCK + 1, 0, 0, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_address_reserve(&p, BLOCK, 3, 0, 0), CU_E_INVALID_VALUE);
	ok(cu->mem_address_reserve(&p, BLOCK, 0, 0, 0)); /* the default alignment promises nothing */
	fails(cu->mem_map(p, BLOCK, 0, h, 0), CU_E_INVALID_VALUE);
	ok(cu->mem_address_free(p, BLOCK));
	ok(cu->mem_address_reserve(&p, 3 * BLOCK, 16 * MIB, 0, 0));
	ck_assert_uint_eq(p % (16 * MIB), 0);
	fails(cu->mem_map(p, BLOCK, 2 * MIB, h, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_map(p, BLOCK / 2, 0, h, 0), CU_E_NOT_SUPPORTED);
	fails(cu->mem_map(p + 3 * BLOCK, BLOCK, 0, h, 0), CU_E_INVALID_VALUE);
	fails(cu->mem_map(p + 4096, BLOCK, 0, h, 0), CU_E_INVALID_VALUE);
	ok(cu->mem_map(p, BLOCK, 0, h, 0));
	fails(cu->mem_map(p, BLOCK, 0, h, 0), CU_E_INVALID_VALUE);
	ok(cu->mem_map(p + BLOCK, BLOCK, 0, h, 0)); /* twice is fine */
	fails(cu->memcpy_htod(p, &c, 1), CU_E_INVALID_VALUE); /* no access yet */
	fails(cu->mem_set_access(p, BLOCK / 2, &host, 1), CU_E_INVALID_VALUE);
	fails(cu->mem_set_access(p, BLOCK, &host, 1), CU_E_INVALID_VALUE); /* no CPU access to device memory */
	set_access(cu, p, 2 * BLOCK, CU_PROT_READWRITE);
	ok(cu->memset_d8(p + BLOCK - 8, 3, 16)); /* across mappings */
	ok(cu->memcpy_dtoh(&c, p, 1));
	ck_assert_int_eq(c, 3); /* the other mapping of the same memory */
	fails(cu->mem_free(p), CU_E_INVALID_VALUE);
	fails(cu->mem_address_free(p, 3 * BLOCK), CU_E_INVALID_VALUE);
	fails(cu->mem_unmap(p, BLOCK / 2), CU_E_INVALID_VALUE);
	fails(cu->mem_unmap(p, BLOCK + BLOCK / 2), CU_E_INVALID_VALUE);
	ok(cu->mem_unmap(p, 2 * BLOCK));
	fails(cu->mem_unmap(p, BLOCK), CU_E_INVALID_VALUE);
	fails(cu->mem_address_free(p, BLOCK), CU_E_INVALID_VALUE);
	ok(cu->mem_address_free(p, 3 * BLOCK));
	cuda_free(&cu);
}
END_TEST

START_TEST(memory_lives_while_handle_mapping_or_descriptor_does)
{
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	cu_ptr p;
	int fd;

	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	p = map_block(cu, h, BLOCK, CU_PROT_READWRITE);
	fd = export_fd(cu, h);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	ok(cu->mem_release(h));
	device_pattern(cu, p, 1);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	unmap_block(cu, p, BLOCK);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	h = import_fd(cu, fd);
	close(fd);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	p = map_block(cu, h, BLOCK, CU_PROT_READ);
	ck_assert(device_is_pattern(cu, p, 1));
	ok(cu->mem_release(h));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	unmap_block(cu, p, BLOCK);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

START_TEST(read_only_mappings_refuse_copies_and_fills)
{
	struct cuda *cu = sim_start();
	struct cu_mem_location here = {CU_AT_DEVICE, 0};
	cu_mem_handle h;
	cu_flags64 flags;
	cu_stream s;
	cu_ptr p;
	char c;

	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	p = map_block(cu, h, BLOCK, CU_PROT_READ);
	ok(cu->stream_create(&s, 0));
	ok(cu->mem_get_access(&flags, &here, p));
	ck_assert_uint_eq(flags, CU_PROT_READ);
	fails(cu->memcpy_htod(p, &c, 1), CU_E_INVALID_VALUE);
	fails(cu->memset_d8(p, 0, 1), CU_E_INVALID_VALUE);
	fails(cu->stream_write_value_64(s, p, 1, 0), CU_E_INVALID_VALUE);
	ok(cu->memcpy_dtoh(&c, p, 1)); /* and nothing of it sticks */
	set_access(cu, p, BLOCK, CU_PROT_READWRITE);
	ok(cu->memset_d8(p, 5, 1));
	set_access(cu, p, BLOCK, CU_PROT_NONE);
	fails(cu->memcpy_dtoh(&c, p, 1), CU_E_INVALID_VALUE);
	cuda_free(&cu);
}
END_TEST

static void write_read_only(int socket)
{
	struct cuda *cu = sim_start();
	cu_mem_handle h;

	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	*(volatile char *)(uintptr_t)map_block(cu, h, BLOCK, CU_PROT_READ) = 1;
}

START_TEST(a_forbidden_write_of_the_cpu_faults)
{
	struct sim_child c;
	int status;

	signal(SIGSEGV, SIG_DFL);
	c = sim_fork(write_read_only);
	status = sim_reap(&c);
	ck_assert_msg(status == -SIGSEGV || status == -SIGABRT /* a sanitizer's word for it */, "%d", status);
}
END_TEST

/* Owner: makes memory, sends its descriptor, waits to be killed. */
static void own_vmm(int socket)
{
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	int fd;

	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	device_pattern(cu, map_block(cu, h, BLOCK, CU_PROT_READWRITE), 42);
	fd = export_fd(cu, h);
	sim_send(socket, "fd", 2, fd);
	pause();
}

START_TEST(descriptors_outlive_a_killed_owner)
{
	struct sim_child owner = sim_fork(own_vmm);
	struct cuda *cu;
	cu_mem_handle h;
	char text[2];
	cu_ptr p;
	int fd = sim_receive(owner.socket, text, sizeof text);

	kill(owner.pid, SIGKILL);
	ck_assert_int_eq(sim_reap(&owner), -SIGKILL);
	cu = sim_start();
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK); /* only this descriptor holds it */
	h = import_fd(cu, fd);
	p = map_block(cu, h, BLOCK, CU_PROT_READ);
	ck_assert(device_is_pattern(cu, p, 42));
	close(fd);
	ok(cu->mem_release(h));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	unmap_block(cu, p, BLOCK);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

static void hold_much(int socket)
{
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	cu_ptr p;

	ok(cu->mem_alloc(&p, 300 * MIB));
	ok(cu->mem_create(&h, 400 * MIB, &device_fd, 0));
	sim_say_ready(socket);
	pause();
}

START_TEST(bytes_of_the_dead_come_back)
{
	struct sim_child c = sim_fork(hold_much);
	struct cuda *cu;
	cu_ptr p;

	sim_await_ready(c.socket);
	cu = sim_start();
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - 700 * MIB);
	fails(cu->mem_alloc(&p, 400 * MIB), CU_E_OUT_OF_MEMORY);
	kill(c.pid, SIGKILL);
	ck_assert_int_eq(sim_reap(&c), -SIGKILL);
	ok(cu->mem_alloc(&p, GIB));
	ck_assert_uint_eq(sim_free_bytes(cu), 0);
	cuda_free(&cu);
}
END_TEST

/* A descriptor that lies in a socket nobody has read yet keeps its memory, too. */
START_TEST(a_descriptor_in_flight_counts)
{
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	char text[2];
	int pair[2], fd;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	fd = export_fd(cu, h);
	sim_send(pair[0], "fd", 2, fd);
	close(fd);
	ok(cu->mem_release(h));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	fd = sim_receive(pair[1], text, sizeof text);
	h = import_fd(cu, fd);
	close(fd);
	ok(cu->mem_release(h));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB);
	cuda_free(&cu);
}
END_TEST

START_TEST(host_memory_is_shared_by_numa_node_alone)
{
	struct cuda *cu = sim_start();
	struct cu_mem_prop prop = device_fd;
	struct cu_mem_access access[2] = {{{CU_AT_HOST, 0}, CU_PROT_READWRITE}, {{CU_AT_DEVICE, 0}, CU_PROT_READWRITE}};
	cu_mem_handle h, again;
	uint32_t kind;
	cu_ptr p;
	int fd;

	prop.location.type = CU_AT_HOST;
	fails(cu->mem_create(&h, BLOCK, &prop, 0), CU_E_INVALID_VALUE);
	prop.location.type = CU_AT_HOST_NUMA;
	ok(cu->mem_create(&h, BLOCK, &prop, 0));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB); /* not the device's */
	ok(cu->mem_address_reserve(&p, BLOCK, BLOCK, 0, 0));
	ok(cu->mem_map(p, BLOCK, 0, h, 0));
	ok(cu->mem_set_access(p, BLOCK, access, 2));
	ok(cu->pointer_get_attribute(&kind, CU_POINTER_MEMORY, p));
	ck_assert_uint_eq(kind, CU_MEMORY_HOST);
	sim_pattern((void *)(uintptr_t)p, BLOCK, 9);
	fd = export_fd(cu, h);
	again = import_fd(cu, fd);
	ck_assert(device_is_pattern(cu, map_block(cu, again, BLOCK, CU_PROT_READ), 9));
	close(fd);
	cuda_free(&cu);
}
END_TEST

/* --- classic handles --- */

struct offer {
	struct cu_ipc_mem_handle handle;
};

static void send_handle(struct cuda *cu, int socket, cu_ptr p)
{
	struct offer o;

	ok(cu->ipc_get_mem_handle(&o.handle, p));
	sim_send(socket, &o, sizeof o, -1);
}

static struct cu_ipc_mem_handle receive_handle(int socket)
{
	struct offer o;

	sim_receive(socket, &o, sizeof o);
	return o.handle;
}

/* Offers a pattern; then, when told, frees it and offers fresh memory at the same address. */
static void own_classic(int socket)
{
	struct cuda *cu = sim_start();
	cu_ptr p, again;

	ok(cu->mem_alloc(&p, BLOCK));
	device_pattern(cu, p, 1);
	send_handle(cu, socket, p);
	sim_await_ready(socket);
	ok(cu->mem_free(p));
	ok(cu->mem_alloc(&again, BLOCK));
	ck_assert_uint_eq(p, again);
	device_pattern(cu, p, 2);
	send_handle(cu, socket, p);
	pause();
}

START_TEST(a_handle_crosses_processes_and_may_come_back_for_other_memory)
{
	struct sim_child owner = sim_fork(own_classic);
	struct cuda *cu = sim_start();
	struct cu_ipc_mem_handle first = receive_handle(owner.socket), second;
	cu_ptr p, same;

	ck_assert_uint_eq(sim_free_bytes(cu), GIB - BLOCK);
	fails(cu->ipc_open_mem_handle(&p, first, 0), CU_E_INVALID_VALUE);
	ok(cu->ipc_open_mem_handle(&p, first, CU_IPC_LAZY_PEER));
	ck_assert(device_is_pattern(cu, p, 1));
	ok(cu->ipc_open_mem_handle(&same, first, CU_IPC_LAZY_PEER));
	ck_assert_uint_eq(p, same); /* counted */
	sim_say_ready(owner.socket);
	second = receive_handle(owner.socket);
	ck_assert_int_eq(memcmp(&first, &second, sizeof first), 0);
	ok(cu->ipc_open_mem_handle(&same, second, CU_IPC_LAZY_PEER));
	ck_assert_uint_eq(p, same); /* the trap: the old, freed memory */
	ck_assert(!device_is_pattern(cu, p, 1));
	for (int i = 0; i < 3; i++)
		ok(cu->ipc_close_mem_handle(p));
	fails(cu->ipc_close_mem_handle(p), CU_E_INVALID_VALUE);
	ok(cu->ipc_open_mem_handle(&p, second, CU_IPC_LAZY_PEER));
	ck_assert(device_is_pattern(cu, p, 2));
	fails(cu->mem_free(p), CU_E_INVALID_VALUE);
	kill(owner.pid, SIGKILL);
	sim_reap(&owner);
	cuda_free(&cu);
}
END_TEST

START_TEST(a_handle_dies_with_its_owner)
{
	struct sim_child owner = sim_fork(own_classic);
	struct cuda *cu = sim_start();
	struct cu_ipc_mem_handle handle = receive_handle(owner.socket);
	cu_context second;
	cu_ptr p, q;
	char c;

	ok(cu->ipc_open_mem_handle(&p, handle, CU_IPC_LAZY_PEER));
	kill(owner.pid, SIGKILL);
	sim_reap(&owner);
	fails(cu->memcpy_dtoh(&c, p, 1), CU_E_ILLEGAL_ADDRESS); /* the memory is gone, and so is the context */
	fails(cu->ipc_close_mem_handle(p), CU_E_ILLEGAL_ADDRESS);
	ok(cu->ctx_create(&second, 0, 0));
	ck_assert_uint_eq(sim_free_bytes(cu), GIB); /* although it is mapped here */
	ok(cu->primary_ctx_release(0));
	fails(cu->ipc_open_mem_handle(&q, handle, CU_IPC_LAZY_PEER), CU_E_INVALID_HANDLE);
	cuda_free(&cu);
}
END_TEST

START_TEST(handles_have_rules)
{
	struct sim_child owner = sim_fork(own_classic);
	struct cuda *cu = sim_start();
	struct cu_ipc_mem_handle handle = receive_handle(owner.socket), own;
	cu_mem_handle h;
	cu_context other;
	cu_ptr p, q;

	ok(cu->mem_alloc(&p, BLOCK));
	ok(cu->ipc_get_mem_handle(&own, p));
	fails(cu->ipc_open_mem_handle(&q, own, CU_IPC_LAZY_PEER), CU_E_INVALID_CONTEXT); /* the same process */
	fails(cu->ipc_get_mem_handle(&own, p + 4096), CU_E_INVALID_VALUE);
	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	p = map_block(cu, h, BLOCK, CU_PROT_READWRITE);
	fails(cu->ipc_get_mem_handle(&own, p), CU_E_INVALID_VALUE); /* VMM memory */
	memset(&own, 7, sizeof own);
	fails(cu->ipc_open_mem_handle(&q, own, CU_IPC_LAZY_PEER), CU_E_INVALID_HANDLE);
	ok(cu->ipc_open_mem_handle(&q, handle, CU_IPC_LAZY_PEER));
	ok(cu->ctx_create(&other, 0, 0));
	fails(cu->ipc_open_mem_handle(&q, handle, CU_IPC_LAZY_PEER), CU_E_INVALID_CONTEXT); /* one context of a process */
	ok(cu->ctx_destroy(other));
	kill(owner.pid, SIGKILL);
	sim_reap(&owner);
	cuda_free(&cu);
}
END_TEST

/* --- a word that processes share --- */

static void write_words(int socket)
{
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	cu_stream s;
	cu_ptr p;
	char c;
	int fd = sim_receive(socket, &c, 1);

	h = import_fd(cu, fd);
	p = map_block(cu, h, BLOCK, CU_PROT_READWRITE);
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	*(volatile uint64_t *)(uintptr_t)p = 5; /* a plain store, of another process */
	sim_say_ready(socket);
	sim_receive(socket, &c, 1);
	ok(cu->stream_write_value_64(s, p, 5, 0));
	ok(cu->stream_synchronize(s));
}

START_TEST(a_stream_write_of_another_process_wakes_and_its_store_does_not)
{
	struct sim_child c = sim_fork(write_words);
	struct cuda *cu = sim_start();
	cu_mem_handle h;
	cu_stream s, probe;
	cu_ptr p, scratch;
	int fd;

	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	p = map_block(cu, h, BLOCK, CU_PROT_READWRITE);
	ok(cu->memset_d8(p, 0, 8));
	ok(cu->mem_alloc(&scratch, 4096));
	ok(cu->stream_create(&s, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_create(&probe, CU_STREAM_NO_NULL_SYNC));
	ok(cu->stream_wait_value_64(s, p, 5, CU_WAIT_GEQ));
	sim_await_waiting(cu, 1);
	fd = export_fd(cu, h);
	sim_send(c.socket, "p", 1, fd);
	sim_await_ready(c.socket); /* it has stored */
	for (int i = 0; i < 50; i++) {
		ok(cu->memcpy_dtod_async(scratch, p, 8, probe));
		ok(cu->stream_synchronize(probe));
	}
	fails(cu->stream_query(s), CU_E_NOT_READY);
	sim_send(c.socket, "w", 1, -1);
	ok(cu->stream_synchronize(s));
	ck_assert_int_eq(sim_reap(&c), 0);
	cuda_free(&cu);
}
END_TEST

/* --- another user --- */

/* Tries what the first user's process offers: a descriptor, a handle, and memory of its own. */
static void be_another_user(int socket)
{
	struct cu_ipc_mem_handle handle;
	struct cuda *cu;
	cu_ptr p, q;
	char text[2];
	int fd;

	/* Opened while it can be: the build may lie where other users do not get in. */
	if (!dlopen(SIMCUDA_LIBRARY, RTLD_NOW) || setgid(65534) || setuid(65534))
		_exit(77);
	cu = sim_start();
	fd = sim_receive(socket, text, sizeof text);
	handle = receive_handle(socket);
	ck_assert(device_is_pattern(cu, map_block(cu, import_fd(cu, fd), BLOCK, CU_PROT_READ), 8));
	fails(cu->ipc_open_mem_handle(&p, handle, CU_IPC_LAZY_PEER), CU_E_NOT_PERMITTED);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - 2 * BLOCK); /* counts what is not its own */
	ok(cu->mem_alloc(&q, BLOCK));
	sim_say_ready(socket);
	pause();
}

START_TEST(another_user_gets_descriptors_and_no_handles)
{
	struct sim_child c;
	struct cuda *cu;
	cu_mem_handle h;
	cu_ptr p;
	int fd;

	if (geteuid()) {
		printf("# only root can be two users\n");
		return;
	}
	c = sim_fork(be_another_user);
	cu = sim_start();
	ok(cu->mem_create(&h, BLOCK, &device_fd, 0));
	device_pattern(cu, map_block(cu, h, BLOCK, CU_PROT_READWRITE), 8);
	fd = export_fd(cu, h);
	sim_send(c.socket, "fd", 2, fd);
	ok(cu->mem_alloc(&p, BLOCK));
	send_handle(cu, c.socket, p);
	sim_await_ready(c.socket);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - 3 * BLOCK);
	kill(c.pid, SIGKILL);
	ck_assert_int_eq(sim_reap(&c), -SIGKILL);
	ck_assert_uint_eq(sim_free_bytes(cu), GIB - 2 * BLOCK);
	cuda_free(&cu);
}
END_TEST

/* --- a storm --- */

#define STORM_SLOTS 8

struct storm {
	struct cuda *cu;
	uint64_t seed;
	cu_ptr classic[STORM_SLOTS], mapped[STORM_SLOTS];
	cu_mem_handle blocks[STORM_SLOTS];
	int fds[STORM_SLOTS];
};

/* An operation that is possible with slot i as it is; results that a full device gives are as good as others. */
static void storm_step(struct storm *t)
{
	struct cuda *cu = t->cu;
	unsigned i = (unsigned)(unit_random(&t->seed) % STORM_SLOTS);
	size_t bytes = (1 + unit_random(&t->seed) % 32) * 2 * MIB;

	switch (unit_random(&t->seed) % 5) {
	case 0:
		if (t->classic[i])
			ok(cu->mem_free(t->classic[i]));
		if (cu->mem_alloc(&t->classic[i], bytes))
			t->classic[i] = 0;
		break;
	case 1:
		if (t->blocks[i])
			ok(cu->mem_release(t->blocks[i]));
		t->blocks[i] = 0;
		if (cu->mem_create(&t->blocks[i], BLOCK, &device_fd, 0))
			t->blocks[i] = 0;
		break;
	case 2:
		if (t->mapped[i])
			unmap_block(cu, t->mapped[i], BLOCK);
		t->mapped[i] = t->blocks[i] ? map_block(cu, t->blocks[i], BLOCK, CU_PROT_READWRITE) : 0;
		break;
	case 3:
		if (t->mapped[i])
			ok(cu->memset_d8(t->mapped[i], 1, BLOCK));
		break;
	default:
		if (t->fds[i] > 0)
			close(t->fds[i]);
		t->fds[i] = t->blocks[i] ? export_fd(cu, t->blocks[i]) : -1;
	}
	ck_assert_uint_le(sim_free_bytes(cu), 64 * MIB);
}

static void storm(int socket)
{
	struct storm t = {.seed = unit_seed() + (uint64_t)getpid()};
	char rule[64];

	snprintf(rule, sizeof rule, "*:%u=kill", 400 + (unsigned)(unit_random(&t.seed) % 400));
	setenv("SIMCUDA_FAULTS", rule, 1);
	t.cu = sim_start();
	for (;;)
		storm_step(&t);
}

START_TEST(after_a_storm_of_deaths_every_byte_is_there)
{
	struct sim_child c[4];
	struct cuda *cu;

	sim_topology("device bytes=64M\n");
	for (int i = 0; i < 4; i++)
		c[i] = sim_fork(storm);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(sim_reap(&c[i]), -SIGKILL);
	cu = sim_start();
	ck_assert_uint_eq(sim_free_bytes(cu), 64 * MIB);
	cuda_free(&cu);
}
END_TEST

static void vmm(Suite *s)
{
	UNIT_CASE(s, "vmm", an_allocation_has_rules, a_mapping_has_rules, memory_lives_while_handle_mapping_or_descriptor_does,
		read_only_mappings_refuse_copies_and_fills, a_forbidden_write_of_the_cpu_faults,
		host_memory_is_shared_by_numa_node_alone);
}

static void processes(Suite *s)
{
	UNIT_CASE(s, "processes", descriptors_outlive_a_killed_owner, bytes_of_the_dead_come_back,
		a_descriptor_in_flight_counts, after_a_storm_of_deaths_every_byte_is_there, a_stream_write_of_another_process_wakes_and_its_store_does_not);
}

static void ipc(Suite *s)
{
	UNIT_CASE(s, "ipc", a_handle_crosses_processes_and_may_come_back_for_other_memory, a_handle_dies_with_its_owner,
		handles_have_rules, another_user_gets_descriptors_and_no_handles);
}

SIM_MAIN("simcuda_share", vmm, processes, ipc)
