/* fake_mrm.h - a daemon for tests of libtrims: a thread that speaks the protocol over a socket of its own and does what
 * the test's handler says, well or badly.  fake_serve() is the well-behaved answer to every message.
 * Thread: fake_start() and fake_stop() in the test's; handlers run in the daemon's thread.  A struct fake_copy is written
 * by the test (as the daemon would: watermarks, then wake, then FUTEX_WAKE) and outlives the daemon. */
#ifndef TESTS_UNIT_FAKE_MRM_H
#define TESTS_UNIT_FAKE_MRM_H

#include "shared/gpu_handle.h"
#include "shared/error.h"
#include "shared/msg.h"
#include "shared/progress.h"
#include "shared/seqpacket.h"
#include "shared/table.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAKE_CONNS 32
#define FAKE_TENSORS_MAX 64
#define FAKE_TENSOR_STRIDE 4096

/* ---- a copy of a model ---- */

#define FAKE_PIECES_MAX 8

/* Tensor i is called "t<i>", is U8[i + 1][10] except the last, which is empty, and holds bytes of value i; of a wide copy all
 * but the last are U8[tensor_bytes]. */
struct fake_copy {
	uint64_t number, version;
	uint64_t stride, tensor_bytes;
	struct fake_copy *host; /* what opens on tier host get; NULL: this one */
	uint32_t n_pieces;      /* on a device; 0: its extents */
	struct fake_piece {
		uint32_t extent;
		uint64_t offset, bytes;
	} piece[FAKE_PIECES_MAX];
	uint32_t n_tensors, n_extents;
	uint64_t image_bytes;
	int table, page, extent[8];
	struct table_header *t; /* writable, for tests that spoil it */
	uint64_t table_bytes;
	struct progress_page *p;
};

static inline int fake_memory(const char *name, uint64_t bytes, void **out)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
	*out = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(*out, MAP_FAILED);
	return fd;
}

static inline int fake_by_name(const void *a, const void *b)
{
	char x[16], y[16];
	snprintf(x, sizeof x, "t%u", *(const uint32_t *)a);
	snprintf(y, sizeof y, "t%u", *(const uint32_t *)b);
	return strcmp(x, y);
}

static inline void fake_fill_table(struct fake_copy *c, uint32_t per_extent)
{
	struct table_header *h = c->t;
	*h = (struct table_header){.magic = TABLE_MAGIC, .version = TABLE_VERSION, .table_bytes = c->table_bytes,
		.image_bytes = c->image_bytes, .n_extents = c->n_extents, .n_tensors = c->n_tensors,
		.extents_off = sizeof *h};
	h->tensors_off = h->extents_off + 8 * sizeof(struct table_extent);
	h->by_name_off = h->tensors_off + FAKE_TENSORS_MAX * sizeof(struct table_tensor);
	h->names_off = h->by_name_off + FAKE_TENSORS_MAX * sizeof(uint32_t);
	h->names_bytes = FAKE_TENSORS_MAX * 8;
	struct table_extent *e = (void *)((char *)h + h->extents_off);
	struct table_tensor *t = (void *)((char *)h + h->tensors_off);
	uint32_t *by_name = (void *)((char *)h + h->by_name_off);
	char *names = (char *)h + h->names_off;
	uint64_t extent_bytes = (uint64_t)per_extent * c->stride;
	for (uint32_t i = 0; i < c->n_extents; i++)
		e[i] = (struct table_extent){.bytes = extent_bytes, .image_off = i * extent_bytes};
	for (uint32_t i = 0; i < c->n_tensors; i++) {
		int len = sprintf(names + i * 8, "t%u", i);
		t[i] = (struct table_tensor){.name_off = i * 8, .name_len = (uint32_t)len, .dtype = 9, .rank = 2,
			.extent = i / per_extent, .offset = (uint64_t)(i % per_extent) * c->stride,
			.bytes = (i + 1) * 10, .shape = {i + 1, 10}};
		if (c->tensor_bytes) {
			t[i].rank = 1;
			t[i].bytes = t[i].shape[0] = c->tensor_bytes;
		}
		by_name[i] = i;
	}
	t[c->n_tensors - 1].bytes = t[c->n_tensors - 1].shape[0] = 0;
	qsort(by_name, c->n_tensors, sizeof *by_name, fake_by_name);
}

/* host: where the same bytes are already, and what opens on tier host get; NULL: nowhere. */
static inline void fake_copy_init_wide(struct fake_copy *c, uint64_t number, uint32_t n_extents, uint32_t per_extent,
	uint64_t stride, uint64_t tensor_bytes, struct fake_copy *host)
{
	void *p;
	*c = (struct fake_copy){.number = number, .version = number, .n_extents = n_extents,
		.n_tensors = n_extents * per_extent, .stride = stride, .tensor_bytes = tensor_bytes, .host = host};
	c->image_bytes = (uint64_t)c->n_tensors * stride;
	c->table_bytes = sizeof(struct table_header) + 8 * sizeof(struct table_extent) +
		FAKE_TENSORS_MAX * (sizeof(struct table_tensor) + sizeof(uint32_t) + 8);
	c->table = fake_memory("fake-table", c->table_bytes, &p);
	c->t = p;
	fake_fill_table(c, per_extent);
	c->page = fake_memory("fake-page", PROGRESS_BYTES, &p);
	c->p = p;
	c->p->magic = PROGRESS_MAGIC;
	c->p->version = PROGRESS_VERSION;
	c->p->copy = number;
	c->p->extents = n_extents;
	c->p->image_bytes = c->image_bytes;
	for (uint32_t e = 0; e < n_extents; e++) {
		if (host) {
			c->extent[e] = dup(host->extent[e]);
			continue;
		}
		c->extent[e] = fake_memory("fake-extent", (uint64_t)per_extent * stride, &p);
		for (uint32_t i = 0; i < per_extent; i++)
			memset((char *)p + i * stride, (int)(e * per_extent + i), stride);
		munmap(p, (uint64_t)per_extent * stride);
	}
}

static inline void fake_copy_init(struct fake_copy *c, uint64_t number, uint32_t n_extents, uint32_t per_extent)
{
	fake_copy_init_wide(c, number, n_extents, per_extent, FAKE_TENSOR_STRIDE, 0, NULL);
}

/* Of a copy on a device that is not to be there whole. */
static inline void fake_piece_add(struct fake_copy *c, uint32_t extent, uint64_t offset, uint64_t bytes)
{
	c->piece[c->n_pieces++] = (struct fake_piece){.extent = extent, .offset = offset, .bytes = bytes};
	c->p->extents = c->n_pieces;
}

static inline void fake_copy_fini(struct fake_copy *c)
{
	munmap(c->t, c->table_bytes);
	munmap(c->p, PROGRESS_BYTES);
	close(c->table);
	close(c->page);
	for (uint32_t e = 0; e < c->n_extents; e++)
		close(c->extent[e]);
}

static inline void fake_wake(struct fake_copy *c)
{
	atomic_fetch_add(&c->p->wake, 1);
	syscall(SYS_futex, &c->p->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* The first `bytes` of an extent have arrived. */
static inline void fake_land(struct fake_copy *c, uint32_t extent, uint64_t bytes)
{
	atomic_store(&c->p->watermark[extent], bytes);
	atomic_store(&c->p->landed, bytes);
	fake_wake(c);
}

static inline void fake_ready(struct fake_copy *c)
{
	for (uint32_t e = 0; e < c->n_extents; e++)
		atomic_store(&c->p->watermark[e], UINT64_MAX);
	c->p->digest_hi = 0xd1;
	c->p->digest_lo = 0xd2;
	atomic_store(&c->p->state, PROGRESS_READY);
	fake_wake(c);
}

static inline void fake_poison(struct fake_copy *c, uint32_t code, const char *text)
{
	snprintf(c->p->error_text, sizeof c->p->error_text, "%s", text);
	atomic_store(&c->p->error, code);
	atomic_store(&c->p->state, PROGRESS_POISONED);
	fake_wake(c);
}

/* ---- the daemon ---- */

struct fake;
/* Called for each message but HELLO; closes nothing of *m.  False ends the connection. */
typedef bool fake_handle_fn(struct fake *f, int fd, struct msg *m);

struct fake {
	char path[64];
	fake_handle_fn *_Atomic handle;
	struct fake_copy *copies; /* "m0", "m1", ... */
	uint32_t n_copies;
	_Atomic bool refuse_welcome;
	_Atomic uint32_t version; /* in WELCOME */
	uint64_t boot;     /* raised by each start */
	uint64_t identity; /* 0: fake_start() makes one that stays for the struct's life */
	_Atomic int opens, closes, cancels, conns, leases;
	_Atomic bool mute; /* reads nothing while set */
	_Atomic uint64_t last_request;
	int listener, kick;
	pthread_t thread;
	_Atomic bool stop;
};

static inline void fake_send(int fd, const struct msg *m)
{
	uint8_t bytes[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n;
	ssize_t len = msg_encode(m, bytes, sizeof bytes, fds, &n);
	ck_assert_int_gt(len, 0);
	seqpacket_send(fd, bytes, (size_t)len, fds, n, 0); /* the client may be gone by now */
}

static inline void fake_fault(int fd, uint64_t request, uint32_t code, const char *text)
{
	struct msg m;
	msg_init(&m, MSG_FAULT, request);
	m.u.fault.code = code;
	MSG_SET_TEXT(m.u.fault.text, text);
	fake_send(fd, &m);
}

static inline void fake_text(int fd, enum msg_type type, uint64_t request, const char *text)
{
	struct msg m;
	void *p;
	int memory = fake_memory("fake-text", 4096, &p);
	strcpy(p, text);
	munmap(p, 4096);
	msg_init(&m, type, request);
	if (type == MSG_FILED) {
		m.u.filed.bytes = strlen(text);
		m.u.filed.fds = (struct msg_fds){.n = 1, .fd = {memory}};
	} else {
		m.u.report.bytes = strlen(text);
		m.u.report.next = 7;
		m.u.report.fds = (struct msg_fds){.n = 1, .fd = {memory}};
	}
	fake_send(fd, &m);
	close(memory);
}

/* OPENED for a copy, not yet sent. */
static inline void fake_opened(struct fake *f, struct fake_copy *c, uint64_t request, struct msg *m)
{
	msg_init(m, MSG_OPENED, request);
	m->u.opened.lease = (uint64_t)++f->opens;
	m->u.opened.copy = c->number;
	m->u.opened.model = c->version;
	m->u.opened.tier = 2;
	m->u.opened.image_bytes = c->image_bytes;
	m->u.opened.slot = GPU_SLOT_NONE;
	m->u.opened.hit = atomic_load(&c->p->state) == PROGRESS_READY;
	m->u.opened.fds.n = 2 + c->n_extents;
	m->u.opened.fds.fd[0] = c->table;
	m->u.opened.fds.fd[1] = c->page;
	for (uint32_t i = 0; i < c->n_extents; i++)
		m->u.opened.fds.fd[2 + i] = c->extent[i];
}

static inline bool fake_open(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	for (uint32_t i = 0; i < f->n_copies; i++) {
		char name[16];
		snprintf(name, sizeof name, "m%u", i);
		if (strcmp(m->u.open.model, name))
			continue;
		struct fake_copy *c = &f->copies[i];
		fake_opened(f, c->host ? c->host : c, m->request, &r);
		f->leases++;
		fake_send(fd, &r);
		return true;
	}
	fake_fault(fd, m->request, 1, "no such model here");
	return true;
}

static inline bool fake_serve(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	switch (m->type) {
	case MSG_OPEN:
		return fake_open(f, fd, m);
	case MSG_CLOSE:
		f->leases--;
		f->closes++;
		return true;
	case MSG_CANCEL:
		f->cancels++;
		return true;
	case MSG_FILE:
		if (strcmp(m->u.file.path, "config.json"))
			fake_fault(fd, m->request, 21, "no such file");
		else
			fake_text(fd, MSG_FILED, m->request, "{\"layers\":6}");
		return true;
	case MSG_CLAIM:
		fake_fault(fd, m->request, TRIMS_E_NO_LEASE, "no such copy here any more");
		return true;
	case MSG_QUERY:
	case MSG_VERIFY:
		fake_text(fd, MSG_REPORT, m->request, "{\"a\":1}");
		return true;
	default:
		msg_init(&r, MSG_DONE, m->request);
		msg_print(m, r.u.done.text, sizeof r.u.done.text);
		fake_send(fd, &r);
		return true;
	}
}

static inline bool fake_hello(struct fake *f, int fd, const struct msg *m)
{
	struct msg r;
	if (f->refuse_welcome) {
		fake_fault(fd, 0, 28, "too many connections");
		return false;
	}
	msg_init(&r, MSG_WELCOME, m->request);
	r.u.welcome.version = f->version;
	r.u.welcome.boot_lo = f->boot;
	r.u.welcome.identity_lo = f->identity;
	fake_send(fd, &r);
	return true;
}

static inline bool fake_read(struct fake *f, int fd)
{
	uint8_t bytes[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n;
	struct msg m;
	ssize_t len = seqpacket_recv(fd, bytes, sizeof bytes, fds, MSG_MAX_FDS, &n, MSG_DONTWAIT);
	if (len == -EAGAIN)
		return true;
	if (len <= 0 || msg_decode(bytes, (size_t)len, fds, n, &m) < 0)
		return false;
	f->last_request = m.request;
	fake_handle_fn *handle = atomic_load(&f->handle);
	bool keep = m.type == MSG_HELLO ? fake_hello(f, fd, &m) : handle(f, fd, &m);
	msg_fini(&m);
	return keep;
}

static inline void *fake_main(void *arg)
{
	struct fake *f = arg;
	struct pollfd p[2 + FAKE_CONNS] = {{.fd = f->kick, .events = POLLIN}, {.fd = f->listener, .events = POLLIN}};
	nfds_t n = 2;
	while (!f->stop) {
		uint64_t drained;
		poll(p, f->mute ? 1 : n, -1);
		if (p[0].revents && read(f->kick, &drained, sizeof drained) < 0)
			break;
		if (f->stop || f->mute)
			continue;
		for (nfds_t i = 2; i < n; i++)
			if (p[i].revents && !fake_read(f, p[i].fd)) {
				close(p[i].fd);
				p[i--] = p[--n];
			}
		if (n < ARRAY_LEN(p) && p[1].revents && seqpacket_accept(f->listener, &p[n].fd) == 0) {
			p[n++].events = POLLIN;
			p[n - 1].revents = 0;
			f->conns++;
		}
	}
	while (n > 2)
		close(p[--n].fd);
	return NULL;
}

static inline void fake_start(struct fake *f, fake_handle_fn *handle, struct fake_copy *copies, uint32_t n_copies)
{
	static _Atomic unsigned count;
	if (!*f->path)
		snprintf(f->path, sizeof f->path, "@trims-fake-%d-%u", (int)getpid(), count++);
	f->handle = handle ? handle : fake_serve;
	f->copies = copies;
	f->n_copies = n_copies;
	f->version = f->version ? f->version : MSG_VERSION;
	f->boot++;
	f->identity = f->identity ? f->identity : (uint64_t)(uintptr_t)f;
	f->stop = false;
	ck_assert_int_eq(seqpacket_listen(f->path, 16, &f->listener), 0);
	f->kick = eventfd(0, EFD_CLOEXEC);
	ck_assert_int_eq(pthread_create(&f->thread, NULL, fake_main, f), 0);
}

static inline void fake_kick(struct fake *f)
{
	uint64_t one = 1;
	ck_assert_int_eq(write(f->kick, &one, sizeof one), sizeof one);
}

/* Ends every connection.  The struct may be started again: another run of the daemon, at the same path. */
static inline void fake_stop(struct fake *f)
{
	f->stop = true;
	fake_kick(f);
	pthread_join(f->thread, NULL);
	close(f->listener);
	close(f->kick);
}

#endif
