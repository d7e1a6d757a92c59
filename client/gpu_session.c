/* gpu_session.c - a connection's GPU session; see gpu.h.
 *
 * Attaching: ATTACH says what this process sees; for each CANARY the memory is imported, read back and compared, and
 * VERDICT says how that went, until the daemon is content (ATTACHED) or has nothing more to offer (FAULT).  A canary is on one
 * device, the one that is likely to be used; memory of another is tried the same way before it is believed.
 * The session page: written by the daemon, and by the watchdog when the daemon is gone; registered with the driver when a
 * stream first wants to wait.
 *
 * Keeps: a session belongs to one life of its connection and is found under the connection's gpu lock; its page stays
 * registered until the last model that could have a wait pending is closed; slots only ever grow here. */
#include "client/gpu.h"

#include "client/fail.h"
#include "shared/own.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define SLOTS_MAX (1u << 20)
#define CANARY_MAX (16 * MIB)
#define EXPORTS (GPU_EXPORT_BIT(GPU_HANDLE_VMM_FD) | GPU_EXPORT_BIT(GPU_HANDLE_CUDA_IPC))
#define PENDING_NS (200 * NS_PER_US) /* a wait that was not pending for a moment proves nothing */
#define SPIN_NS NS_PER_MS
#define WAKE_NS (2 * NS_PER_S)       /* a wait that was not woken by then never will be */

struct gpu_session {
	_Atomic uint32_t refs;
	struct gpu_driver *driver;
	struct conn_life life;
	uint32_t export, slots;
	_Atomic int64_t *page;
	uint64_t page_bytes;
	_Atomic bool over;
	int socket; /* the watchdog's */
	bool watched;
	pthread_t watchdog;
	bool believed[GPU_DEVICES_MAX]; /* by place in the driver's list; under the connection's gpu lock */

	pthread_mutex_t lock; /* guards what follows */
	cu_context registered_in; /* NULL: the page is not registered */
	bool stuck;               /* for all that is known a stream still waits on the page: it must stay */
	bool refused;             /* a call of the last probe was, so it has told nothing */
	uint8_t refusals[GPU_DEVICES_MAX];
	bool tried[GPU_DEVICES_MAX], works[GPU_DEVICES_MAX]; /* by ordinal */
	char why[TRIMS_MAX_TEXT];
};

/* One canary at a time in a process: a handle can be open in one context only. */
static pthread_mutex_t canary_lock = PTHREAD_MUTEX_INITIALIZER;

struct gpu_driver *gpu_session_driver(struct gpu_session *s)
{
	return s->driver;
}

uint32_t gpu_session_export(const struct gpu_session *s)
{
	return s->export;
}

void gpu_session_life(const struct gpu_session *s, struct conn_life *out)
{
	*out = s->life;
}

bool gpu_session_has_slots(const struct gpu_session *s, uint32_t first, uint32_t n)
{
	return first < s->slots && n <= s->slots - first;
}

bool gpu_session_is_over(const struct gpu_session *s)
{
	return atomic_load_explicit(&s->over, memory_order_acquire);
}

/* ---- the watchdog ---- */

static void let_go(struct gpu_session *s)
{
	atomic_store_explicit(&s->over, true, memory_order_release);
	for (uint32_t i = 0; i < s->slots; i++)
		atomic_store_explicit(&s->page[i], GPU_SLOT_ENDED, memory_order_release);
}

static void *watch(void *arg)
{
	struct gpu_session *s = arg;
	struct pollfd p = {.fd = s->socket, .events = POLLRDHUP};
	while (poll(&p, 1, -1) <= 0)
		; /* all signals are blocked; whatever else it is, the socket decides */
	let_go(s);
	return NULL;
}

static int start_watchdog(struct gpu_session *s)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int e = pthread_create(&s->watchdog, NULL, watch, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (e)
		return fail_errno(TRIMS_E_NO_SYSTEM, e, "no thread for the GPU session");
	pthread_setname_np(s->watchdog, "trims-gpu"); /* for those who wonder */
	s->watched = true;
	return 0;
}

/* ---- life ---- */

static void unregister(struct gpu_session *s)
{
	struct gpu_scope scope = {0};
	if (s->registered_in && gpu_enter_to_undo(s->driver, s->registered_in, &scope))
		GPU_UNDO(s->driver->cu->mem_host_unregister((void *)s->page));
	gpu_leave(&scope);
}

static void session_free(struct gpu_session *s)
{
	if (s->page && !s->stuck) {
		unregister(s);
		munmap((void *)s->page, s->page_bytes);
	}
	own_close_fd(&s->socket);
	gpu_driver_put(&s->driver);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void gpu_session_put(struct gpu_session **p)
{
	struct gpu_session *s = STEAL(*p);
	if (s && atomic_fetch_sub(&s->refs, 1) == 1)
		session_free(s);
}

static struct gpu_session *ref(struct gpu_session *s)
{
	if (s)
		atomic_fetch_add(&s->refs, 1);
	return s;
}

/* The socket is shut down, so the watchdog is done or about to be. */
static void end(struct gpu_session **p)
{
	struct gpu_session *s = *p;
	if (s && s->watched)
		pthread_join(s->watchdog, NULL);
	else if (s)
		let_go(s);
	gpu_session_put(p);
}

/* ---- canaries ---- */

static int compare(const uint64_t *words, uint64_t n, uint64_t seed)
{
	for (uint64_t i = 0; i < n; i++)
		if (words[i] != gpu_canary_word(seed, i))
			return fail(TRIMS_E_MISMATCH, "word %llu read as %#llx instead of %#llx", (unsigned long long)i,
				(unsigned long long)words[i], (unsigned long long)gpu_canary_word(seed, i));
	return 0;
}

/* What can be asked without risk: a store that a driver does not refuse might end the caller's context. */
static int check_read_only(const struct gpu_source *from, cu_ptr at)
{
	struct cu_mem_location where = {CU_AT_DEVICE, from->device->ordinal};
	cu_flags64 flags = 0;
	cu_result r = from->driver->cu->mem_get_access(&flags, &where, at);
	if (r)
		return gpu_failed(from->driver, r, "cuMemGetAccess");
	return flags == CU_PROT_READ ? 0 : fail(TRIMS_E_UNSUPPORTED, "memory mapped for reading can be written");
}

static int read_canary(const struct gpu_source *from, struct gpu_memory *memory, const struct msg_canary *c)
{
	struct gpu_scope scope = {0};
	cu_ptr at;
	if (!gpu_memory_at(memory, 0, 0, c->bytes, &at))
		return fail(TRIMS_E_PROTOCOL, "the canary is shorter than the daemon says");
	OWN_MEM uint64_t *words = malloc(c->bytes);
	if (!words)
		return fail(TRIMS_E_NO_MEMORY, "no memory to read the canary into");
	int r = gpu_enter(from->driver, from->device, &scope);
	if (r == 0)
		r = gpu_copy_to_host(from->driver, words, at, c->bytes);
	gpu_leave(&scope);
	if (r == 0)
		r = compare(words, c->bytes / sizeof *words, c->seed);
	if (r == 0 && from->kind == GPU_HANDLE_VMM_FD)
		r = check_read_only(from, at);
	return r;
}

static int try_canary(struct gpu_driver *d, struct msg_canary *c)
{
	OWN_MEM struct gpu_handle *handles = NULL;
	struct gpu_memory *memory = NULL;
	struct gpu_source from = {.driver = d, .device = gpu_driver_find(d, c->device), .kind = c->export};
	if (!from.device)
		return fail(TRIMS_E_NO_TIER, "this process does not see device %s", c->device);
	if (c->fds.n < 1 || c->bytes > CANARY_MAX || c->bytes % sizeof(uint64_t) || c->bytes == 0)
		return fail(TRIMS_E_PROTOCOL, "the daemon's canary makes no sense");
	int r = gpu_records_read(c->fds.fd[0], c->export, c->fds.n - 1, &handles, &from.n);
	if (r < 0)
		return r;
	if (from.n != 1)
		return fail(TRIMS_E_PROTOCOL, "the daemon's canary has %u extents", from.n);
	from.handles = handles;
	from.fds = c->fds.fd + 1;
	pthread_mutex_lock(&canary_lock);
	r = gpu_memory_map(&from, &memory);
	if (r == 0)
		r = read_canary(&from, memory, c);
	gpu_memory_put(&memory);
	pthread_mutex_unlock(&canary_lock);
	return r;
}

/* ---- attaching ---- */

/* The device that is to be tried comes first; alone where the others are known to the daemon already. */
static void fill_attach(struct msg *m, const struct gpu_driver *d, const struct gpu_device *first, bool alone)
{
	struct msg_attach *a = &m->u.attach;
	msg_init(m, MSG_ATTACH, 0);
	_Static_assert(GPU_DEVICES_MAX * CUDA_UUID_TEXT < sizeof a->devices, "all of them fit");
	size_t len = (size_t)snprintf(a->devices, sizeof a->devices, "%s", first->uuid);
	for (uint32_t i = 0; i < d->n_devices && !alone; i++)
		if (&d->device[i] != first)
			len += (size_t)snprintf(a->devices + len, sizeof a->devices - len, ",%s", d->device[i].uuid);
	a->driver = (uint32_t)d->cu->driver_version;
	a->exports = EXPORTS;
	a->pid = (uint32_t)getpid();
	a->simulated = d->cu->simulated;
}

static void believe(struct gpu_session *s, const struct gpu_device *device)
{
	if (device)
		s->believed[device - s->driver->device] = true;
}

/* Asks, and tries what is offered, until there is an answer: ATTACHED in *reply.  What was tried and good is believed. */
static int negotiate(trims_conn *c, struct gpu_session *s, const struct gpu_device *first, uint64_t deadline, struct msg *reply,
	struct conn_life *life)
{
	struct msg request;
	const struct gpu_device *good = first; /* unless there is a canary, the daemon remembers one */
	fill_attach(&request, s->driver, first, s->page != NULL);
	int r = conn_call(c, &request, MSG_ATTACHED, deadline, reply, life);
	while (r == 0 && reply->type == MSG_CANARY) {
		uint64_t number = request.request;
		int bad = try_canary(s->driver, &reply->u.canary);
		good = bad ? NULL : gpu_driver_find(s->driver, reply->u.canary.device);
		msg_fini(reply);
		msg_init(&request, MSG_VERDICT, number);
		request.u.verdict.good = bad == 0;
		if (bad)
			MSG_SET_TEXT(request.u.verdict.text, trims_last_error()->text);
		r = conn_call(c, &request, MSG_ATTACHED, deadline, reply, life);
	}
	if (r == 0)
		believe(s, good);
	return r;
}

static int map_page(struct gpu_session *s, struct msg_attached *a)
{
	struct stat st;
	OWN_FD int fd = msg_take_fd(&a->fds, 0);
	s->export = a->export;
	s->slots = a->slots;
	if (fd < 0 || a->slots < 1 || a->slots > SLOTS_MAX || fstat(fd, &st) ||
		(uint64_t)st.st_size < a->slots * sizeof(int64_t))
		return fail(TRIMS_E_PROTOCOL, "the daemon's session page makes no sense");
	void *page = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return fail_errno(TRIMS_E_NO_MEMORY, errno, "cannot map the session page");
	s->page = page;
	s->page_bytes = (uint64_t)st.st_size;
	return 0;
}

static int attach(trims_conn *c, const char *device, uint64_t deadline, struct gpu_session **out)
{
	struct msg reply;
	OWN(gpu_session_put) struct gpu_session *s = calloc(1, sizeof *s);
	if (!s)
		return fail(TRIMS_E_NO_MEMORY, "no memory for a GPU session");
	s->refs = 1;
	s->socket = -1;
	pthread_mutex_init(&s->lock, NULL);
	int r = gpu_driver_get(&s->driver);
	if (r == 0)
		r = negotiate(c, s, gpu_driver_likely(s->driver, device), deadline, &reply, &s->life);
	if (r < 0)
		return r;
	r = map_page(s, &reply.u.attached);
	msg_fini(&reply);
	if (r == 0)
		r = conn_dup_socket(c, s->life.epoch, &s->socket);
	if (r == 0)
		r = start_watchdog(s);
	if (r == 0)
		*out = STEAL(s);
	return r;
}

/* Under the connection's gpu lock. */
static int attach_again(trims_conn *c, struct gpu_session *s, const struct gpu_device *device, uint64_t deadline)
{
	struct msg reply;
	struct conn_life life = s->life;
	if (!device || s->believed[device - s->driver->device])
		return 0;
	int r = negotiate(c, s, device, deadline, &reply, &life);
	if (r == 0)
		msg_fini(&reply); /* the page is the one there is */
	return r;
}

int gpu_session_get(trims_conn *c, const char *device, uint64_t deadline, struct gpu_session **out)
{
	pthread_mutex_t *lock;
	struct gpu_session **at = conn_gpu(c, &lock);
	int r = 0;
	if (conn_foreign(c))
		return fail(TRIMS_E_DISCONNECTED, "the connection belongs to the process that this one was forked from");
	pthread_mutex_lock(lock);
	if (*at && !conn_is_alive(c, (*at)->life.epoch))
		end(at);
	if (!*at)
		r = attach(c, device, deadline, at);
	else if (device)
		r = attach_again(c, *at, gpu_driver_find((*at)->driver, device), deadline);
	if (r == 0)
		*out = ref(*at);
	pthread_mutex_unlock(lock);
	return r;
}

int gpu_session_try(trims_conn *c, struct gpu_session *s, const struct gpu_device *device, uint64_t deadline)
{
	pthread_mutex_t *lock;
	conn_gpu(c, &lock);
	pthread_mutex_lock(lock);
	int r = attach_again(c, s, device, deadline);
	pthread_mutex_unlock(lock);
	return r;
}

void gpu_session_peek(trims_conn *c, struct gpu_session **out)
{
	pthread_mutex_t *lock;
	struct gpu_session **at = conn_gpu(c, &lock);
	pthread_mutex_lock(lock);
	*out = ref(*at);
	pthread_mutex_unlock(lock);
}

void gpu_session_end(trims_conn *c)
{
	pthread_mutex_t *lock;
	struct gpu_session **at = conn_gpu(c, &lock);
	pthread_mutex_lock(lock);
	if (*at && !conn_is_alive(c, (*at)->life.epoch))
		end(at);
	pthread_mutex_unlock(lock);
}

/* ---- streams that wait ---- */

static bool refused(struct gpu_session *s, cu_result r, const char *what)
{
	struct fault why;
	cuda_fault(s->driver->cu, r, what, &why);
	snprintf(s->why, sizeof s->why, "%s", why.text);
	s->refused = true;
	return false;
}

/* Asks the stream until it has passed or that much time has; without pause at first. */
static cu_result query_for(const struct cuda *cu, cu_stream stream, uint64_t ns)
{
	const struct timespec pause = {.tv_nsec = 100 * (long)NS_PER_US};
	uint64_t began = conn_now(), now = began;
	cu_result r = cu->stream_query(stream);
	while (r == CU_E_NOT_READY && now - began < ns) {
		if (now - began > SPIN_NS)
			nanosleep(&pause, NULL);
		r = cu->stream_query(stream);
		now = conn_now();
	}
	return r;
}

/* A stream that waits for ever holds up whoever waits for the device, to the end of the process; the device's own writes wake
 * it where the CPU's do not. */
static cu_result let_stream_go(const struct cuda *cu, cu_stream stream, cu_stream other, cu_ptr slot)
{
	cu_result r = GPU_UNDO(cu->stream_write_value_64(other, slot, 1, CU_WRITE_FENCED));
	return r ? r : query_for(cu, stream, WAKE_NS);
}

/* Whether a store by this CPU wakes a wait that is pending; the last slot is nobody's. */
static bool probe_stream(struct gpu_session *s, cu_stream stream, cu_stream other, cu_ptr page)
{
	const struct cuda *cu = s->driver->cu;
	_Atomic int64_t *slot = &s->page[s->slots - 1];
	cu_ptr at = page + (s->slots - 1) * sizeof *slot;
	atomic_store(slot, 0);
	cu_result r = cu->stream_wait_value_64(stream, at, 1, CU_WAIT_GEQ);
	if (r)
		return refused(s, r, "cuStreamWaitValue64");
	bool passed = query_for(cu, stream, PENDING_NS) == CU_OK;
	atomic_store(slot, 1);
	for (int tries = 0; tries == 0 || (r && r != CU_E_NOT_READY && tries < GPU_UNDO_TRIES); tries++)
		r = query_for(cu, stream, WAKE_NS);
	s->stuck |= r != CU_OK && let_stream_go(cu, stream, other, at) != CU_OK;
	if (r == CU_E_NOT_READY)
		snprintf(s->why, sizeof s->why, "a store by the CPU does not wake a stream that waits for it");
	else if (r)
		refused(s, r, "cuStreamQuery");
	else if (passed)
		snprintf(s->why, sizeof s->why, "a stream did not wait for a value in host memory");
	return r == CU_OK && !passed;
}

static bool probe(struct gpu_session *s, const struct gpu_scope *scope)
{
	const struct cuda *cu = s->driver->cu;
	cu_stream stream[2] = {NULL, NULL}; /* made before one of them waits: see tests/gpu, gate_blocks */
	cu_ptr page;
	cu_result r = s->registered_in ? CU_OK : cu->mem_host_register((void *)s->page, s->page_bytes,
		CU_REGISTER_PORTABLE | CU_REGISTER_MAPPED);
	if (r)
		return refused(s, r, "cuMemHostRegister");
	if (!s->registered_in)
		s->registered_in = scope->ctx;
	r = cu->mem_host_get_device_pointer(&page, (void *)s->page, 0);
	if (r)
		return refused(s, r, "cuMemHostGetDevicePointer");
	for (int i = 0; i < 2 && r == CU_OK; i++)
		r = cu->stream_create(&stream[i], CU_STREAM_NO_NULL_SYNC);
	bool works = r ? refused(s, r, "cuStreamCreate") : probe_stream(s, stream[0], stream[1], page);
	for (int i = 0; i < 2 && stream[i]; i++)
		GPU_UNDO(cu->stream_destroy(stream[i])); /* goes on by itself until the stream is done */
	return works;
}

bool gpu_session_can_wait(struct gpu_session *s, const struct gpu_scope *scope, const char **why)
{
	int i = scope->ordinal;
	if (i < 0 || i >= GPU_DEVICES_MAX)
		return false;
	pthread_mutex_lock(&s->lock);
	if (!s->tried[i]) {
		s->refused = false;
		s->works[i] = probe(s, scope);
		/* What a driver refuses once is asked again, by the next model. */
		s->tried[i] = !s->refused || s->stuck || ++s->refusals[i] == GPU_UNDO_TRIES;
	}
	bool works = s->works[i];
	*why = s->why;
	pthread_mutex_unlock(&s->lock);
	return works;
}

int gpu_session_wait(struct gpu_session *s, cu_stream stream, uint32_t slot, uint64_t value)
{
	const struct cuda *cu = s->driver->cu;
	cu_ptr page;
	cu_result r = cu->mem_host_get_device_pointer(&page, (void *)s->page, 0);
	if (r)
		return gpu_failed(s->driver, r, "cuMemHostGetDevicePointer");
	r = cu->stream_wait_value_64(stream, page + slot * sizeof s->page[0], value, CU_WAIT_GEQ);
	return r ? gpu_failed(s->driver, r, "cuStreamWaitValue64") : 0;
}
