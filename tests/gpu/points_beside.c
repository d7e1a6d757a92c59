/* points_beside.c - what copies of one thread take while another thread makes calls that take long.  A driver may have a lock that both
 * want; whoever is waited for then makes others wait longer than the link scheduler promises. */
#include "tests/gpu/points.h"

#include "mrm/gpu/kernel/ptx.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>

#define COPY_BYTES (4 * MIB) /* a chunk */
#define QUIET_COPIES 200

struct act {
	const char *name;
	uint64_t bytes, simulated_bytes;
	void (*begin)(struct point_lab *lab, const struct act *act); /* before anybody copies; NULL: nothing */
	void (*call)(struct point_lab *lab, const struct act *act);
	void (*end)(struct point_lab *lab, const struct act *act);
};

/* What acts leave for one another. */
static void *pages;
static cu_ptr memory;
static struct vmm mapped;
static cu_module module;

static uint64_t bytes_of(const struct point_lab *lab, const struct act *act)
{
	return lab->cu->simulated ? act->simulated_bytes : act->bytes;
}

static void make_pages(struct point_lab *lab, const struct act *act)
{
	pages = mmap(NULL, bytes_of(lab, act), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (pages == MAP_FAILED)
		give_up("no memory");
}

static void register_pages(struct point_lab *lab, const struct act *act)
{
	MUST(lab, mem_host_register, pages, bytes_of(lab, act), CU_REGISTER_PORTABLE);
}

static void unregister_pages(struct point_lab *lab, const struct act *act)
{
	MUST(lab, mem_host_unregister, pages);
}

static void drop_pages(struct point_lab *lab, const struct act *act)
{
	munmap(pages, bytes_of(lab, act));
}

static void forget_pages(struct point_lab *lab, const struct act *act)
{
	unregister_pages(lab, act);
	drop_pages(lab, act);
}

static void make_registered(struct point_lab *lab, const struct act *act)
{
	make_pages(lab, act);
	register_pages(lab, act);
}

static void allocate(struct point_lab *lab, const struct act *act)
{
	MUST(lab, mem_alloc, &memory, bytes_of(lab, act));
}

static void release(struct point_lab *lab, const struct act *act)
{
	MUST(lab, mem_free, memory);
}

static void make_mapped(struct point_lab *lab, const struct act *act)
{
	vmm_make(lab, bytes_of(lab, act), &mapped);
}

static void drop_mapped(struct point_lab *lab, const struct act *act)
{
	vmm_drop(lab, &mapped);
}

static void load(struct point_lab *lab, const struct act *act)
{
	MUST(lab, module_load_data, &module, hash_kernel_ptx);
}

static void unload(struct point_lab *lab, const struct act *act)
{
	MUST(lab, module_unload, module);
}

static const struct act acts[] = {
	{"register_64m", 64 * MIB, 4 * MIB, make_pages, register_pages, forget_pages},
	{"register_1g", GIB, 16 * MIB, make_pages, register_pages, forget_pages},
	{"unregister_1g", GIB, 16 * MIB, make_registered, unregister_pages, drop_pages},
	{"mem_alloc_1g", GIB, 16 * MIB, NULL, allocate, release},
	{"mem_free_1g", GIB, 16 * MIB, allocate, release, NULL},
	{"map_1g", GIB, 16 * MIB, NULL, make_mapped, drop_mapped},
	{"unmap_1g", GIB, 16 * MIB, make_mapped, drop_mapped, NULL},
	{"module_load", 0, 0, NULL, load, unload},
};

/* ---- copies ---- */

struct copier {
	struct point_lab *lab;
	cu_stream stream;
	cu_event event;
	void *host;
	cu_ptr device;
	double accept_us, copy_us; /* the longest so far */
};

static void copy(struct copier *c)
{
	struct point_lab *lab = c->lab;
	double began = now_us();
	MUST(lab, memcpy_htod_async, c->device, c->host, COPY_BYTES, c->stream);
	MUST(lab, event_record, c->event, c->stream);
	double accepted = now_us();
	cu_result r;
	while ((r = lab->cu->event_query(c->event)) == CU_E_NOT_READY)
		;
	must(lab, r, "event_query");
	c->accept_us = MAX(c->accept_us, accepted - began);
	c->copy_us = MAX(c->copy_us, now_us() - began);
}

static void report(struct copier *c, const char *name)
{
	char key[64];
	snprintf(key, sizeof key, "%s_accept_max_us", name);
	out_number(key, c->accept_us);
	snprintf(key, sizeof key, "%s_copy_max_us", name);
	out_number(key, c->copy_us);
	c->accept_us = c->copy_us = 0;
}

struct caller {
	struct point_lab *lab;
	const struct act *act;
	_Atomic bool going, done;
	double us;
};

static void *make_call(void *arg)
{
	struct caller *a = arg;
	struct point_lab *lab = a->lab;
	MUST(lab, ctx_set_current, lab->ctx);
	atomic_store(&a->going, true);
	double began = now_us();
	a->act->call(lab, a->act);
	a->us = now_us() - began;
	atomic_store(&a->done, true);
	return NULL;
}

static void copy_beside(struct copier *c, const struct act *act)
{
	struct caller a = {.lab = c->lab, .act = act};
	pthread_t thread;
	char key[64];
	if (act->begin)
		act->begin(c->lab, act);
	copy(c);
	c->accept_us = c->copy_us = 0; /* what the preparation cost is not asked */
	if (pthread_create(&thread, NULL, make_call, &a))
		give_up("no thread");
	while (!atomic_load(&a.going))
		;
	do
		copy(c);
	while (!atomic_load(&a.done));
	pthread_join(thread, NULL);
	snprintf(key, sizeof key, "%s_us", act->name);
	out_number(key, a.us);
	report(c, act->name);
	if (act->end)
		act->end(c->lab, act);
}

void point_copies_beside(struct point_lab *lab)
{
	struct copier c = {.lab = lab, .host = pinned(lab, COPY_BYTES)};
	MUST(lab, mem_alloc, &c.device, COPY_BYTES);
	MUST(lab, stream_create, &c.stream, CU_STREAM_NO_NULL_SYNC);
	MUST(lab, event_create, &c.event, CU_EVENT_NO_TIMING);
	copy(&c);
	c.accept_us = c.copy_us = 0;
	for (int i = 0; i < QUIET_COPIES; i++)
		copy(&c);
	report(&c, "nothing");
	for (size_t i = 0; i < ARRAY_LEN(acts); i++)
		copy_beside(&c, &acts[i]);
}
