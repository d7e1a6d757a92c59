/* msg.c - see msg.h.  One function per message and purpose, expanded from messages.def.
 * Keeps: no byte is read before its length is checked; whatever msg_decode() refuses, its descriptors are closed;
 * what it accepts encodes to the same bytes. */
#include "shared/msg.h"

#include "shared/utf8.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define F_FDS(field, max, doc) _Static_assert((max) <= MSG_MAX_FDS, "raise MSG_MAX_FDS");
#include "shared/messages.def"

/* ---- starting ---- */

#define MSG(NAME, name, type, direction, doc) static void init_##name(struct msg_##name *m) {
#define F_U32(field, doc) m->field = 0;
#define F_U64(field, doc) m->field = 0;
#define F_STR(field, max, doc) m->field[0] = 0;
#define F_FDS(field, max, doc) m->field.n = 0;
#define MSG_END }
#include "shared/messages.def"

void msg_init(struct msg *m, enum msg_type type, uint64_t request)
{
	m->version = MSG_VERSION;
	m->type = (uint16_t)type;
	m->request = request;
	switch (type) {
#define MSG(NAME, name, type, direction, doc) case MSG_##NAME: init_##name(&m->u.name); break;
#include "shared/messages.def"
	}
}

int msg_set_str(char *field, size_t size, const char *text)
{
	size_t len = strnlen(text, size);
	if (len == size)
		return -ENAMETOOLONG;
	if (!utf8_valid(text, len))
		return -EINVAL;
	memcpy(field, text, len + 1);
	return 0;
}

void msg_set_text(char *field, size_t size, const char *text)
{
	size_t used = 0;
	while (*text) {
		size_t n = utf8_sequence(text, strnlen(text, 4));
		if (used + MAX(n, 1) >= size)
			break;
		memcpy(field + used, n ? text : "?", MAX(n, 1));
		used += MAX(n, 1);
		text += MAX(n, 1);
	}
	field[used] = 0;
}

/* ---- encoding ---- */

struct writer {
	uint8_t *p, *end;
	int *fds;
	uint32_t n_fds;
	int error; /* the first one; nothing is written behind it */
};

static void put_bytes(struct writer *w, const void *bytes, size_t n)
{
	if ((size_t)(w->end - w->p) < n) {
		w->error = w->error ? w->error : -ENOBUFS;
		w->end = w->p;
		return;
	}
	memcpy(w->p, bytes, n);
	w->p += n;
}

static void put_u32(struct writer *w, uint32_t v)
{
	v = htole32(v);
	put_bytes(w, &v, sizeof v);
}

static void put_u64(struct writer *w, uint64_t v)
{
	v = htole64(v);
	put_bytes(w, &v, sizeof v);
}

static void put_header(struct writer *w, const struct msg *m, uint32_t body)
{
	uint16_t head[2] = {htole16(m->version), htole16(m->type)};
	put_bytes(w, head, sizeof head);
	put_u32(w, body);
	put_u64(w, m->request);
}

static void put_str(struct writer *w, const char *text, size_t max)
{
	size_t len = strnlen(text, max + 1);
	if (len > max || !utf8_valid(text, len)) {
		w->error = -EINVAL;
		return;
	}
	put_u32(w, (uint32_t)len);
	put_bytes(w, text, len);
}

static void put_fds(struct writer *w, const struct msg_fds *fds, uint32_t max)
{
	if (fds->n > max) {
		w->error = -EINVAL;
		return;
	}
	put_u32(w, fds->n);
	for (uint32_t i = 0; i < fds->n; i++)
		w->fds[i] = fds->fd[i];
	w->n_fds = fds->n;
}

#define MSG(NAME, name, type, direction, doc) static void put_##name(struct writer *w, const struct msg_##name *m) {
#define F_U32(field, doc) put_u32(w, m->field);
#define F_U64(field, doc) put_u64(w, m->field);
#define F_STR(field, max, doc) put_str(w, m->field, max);
#define F_FDS(field, max, doc) put_fds(w, &m->field, max);
#define MSG_END }
#include "shared/messages.def"

ssize_t msg_encode(const struct msg *m, uint8_t *buf, size_t cap, int *fds, uint32_t *n_fds)
{
	if (cap < MSG_HEADER_BYTES)
		return -ENOBUFS;
	if (m->version != MSG_VERSION)
		return -EINVAL;
	struct writer w = {.p = buf + MSG_HEADER_BYTES, .end = buf + cap, .fds = fds};
	switch (m->type) {
#define MSG(NAME, name, type, direction, doc) case MSG_##NAME: put_##name(&w, &m->u.name); break;
#include "shared/messages.def"
	default:
		return -EINVAL;
	}
	if (w.error)
		return w.error;
	struct writer head = {.p = buf, .end = buf + MSG_HEADER_BYTES};
	put_header(&head, m, (uint32_t)(w.p - head.end));
	*n_fds = w.n_fds;
	return w.p - buf;
}

/* ---- decoding ---- */

struct reader {
	const uint8_t *p, *end;
	const int *fds;
	uint32_t n_fds; /* not yet placed in a field */
	bool bad;
};

/* NULL, and the reader bad for good, when fewer than n bytes are left. */
static const void *get_bytes(struct reader *r, size_t n)
{
	if (r->bad || (size_t)(r->end - r->p) < n) {
		r->bad = true;
		return NULL;
	}
	const void *at = r->p;
	r->p += n;
	return at;
}

static uint16_t get_u16(struct reader *r)
{
	uint16_t v = 0;
	const void *at = get_bytes(r, sizeof v);
	if (at)
		memcpy(&v, at, sizeof v);
	return le16toh(v);
}

static uint32_t get_u32(struct reader *r)
{
	uint32_t v = 0;
	const void *at = get_bytes(r, sizeof v);
	if (at)
		memcpy(&v, at, sizeof v);
	return le32toh(v);
}

static uint64_t get_u64(struct reader *r)
{
	uint64_t v = 0;
	const void *at = get_bytes(r, sizeof v);
	if (at)
		memcpy(&v, at, sizeof v);
	return le64toh(v);
}

static void get_str(struct reader *r, char *out, size_t max)
{
	uint32_t len = get_u32(r);
	const void *at = len <= max ? get_bytes(r, len) : NULL;
	if (!at || memchr(at, 0, len) || !utf8_valid(at, len)) {
		r->bad = true;
		return;
	}
	memcpy(out, at, len);
	out[len] = 0;
}

static void get_fds(struct reader *r, struct msg_fds *out, uint32_t max)
{
	uint32_t n = get_u32(r);
	if (r->bad || n > max || n != r->n_fds) {
		r->bad = true;
		return;
	}
	out->n = n;
	for (uint32_t i = 0; i < n; i++)
		out->fd[i] = r->fds[i];
	r->n_fds = 0;
}

#define MSG(NAME, name, type, direction, doc) static void get_##name(struct reader *r, struct msg_##name *m) {
#define F_U32(field, doc) m->field = get_u32(r);
#define F_U64(field, doc) m->field = get_u64(r);
#define F_STR(field, max, doc) get_str(r, m->field, max);
#define F_FDS(field, max, doc) get_fds(r, &m->field, max);
#define MSG_END }
#include "shared/messages.def"

static bool get_msg(struct reader *r, struct msg *out)
{
	out->version = get_u16(r);
	out->type = get_u16(r);
	uint32_t body = get_u32(r);
	out->request = get_u64(r);
	if (r->bad || out->version != MSG_VERSION || body != (size_t)(r->end - r->p))
		return false;
	switch (out->type) {
#define MSG(NAME, name, type, direction, doc) case MSG_##NAME: get_##name(r, &out->u.name); break;
#include "shared/messages.def"
	default:
		return false;
	}
	return !r->bad && r->p == r->end && r->n_fds == 0;
}

int msg_decode(const uint8_t *buf, size_t len, const int *fds, uint32_t n_fds, struct msg *out)
{
	struct reader r = {.p = buf, .end = buf + len, .fds = fds, .n_fds = n_fds};
	if (get_msg(&r, out))
		return 0;
	msg_close_fds(fds, n_fds);
	return -EPROTO;
}

/* ---- descriptors ---- */

int msg_take_fd(struct msg_fds *fds, uint32_t i)
{
	if (i >= fds->n)
		return -1;
	int fd = fds->fd[i];
	fds->fd[i] = -1;
	return fd;
}

#define MSG(NAME, name, type, direction, doc) static struct msg_fds *fds_##name(struct msg_##name *m) {
#define F_FDS(field, max, doc) return &m->field;
#define MSG_END return NULL; }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "shared/messages.def"
#pragma GCC diagnostic pop

struct msg_fds *msg_fds(struct msg *m)
{
	switch (m->type) {
#define MSG(NAME, name, type, direction, doc) case MSG_##NAME: return fds_##name(&m->u.name);
#include "shared/messages.def"
	}
	return NULL;
}

void msg_fini(struct msg *m)
{
	struct msg_fds *fds = msg_fds(m);
	if (!fds)
		return;
	msg_close_fds(fds->fd, fds->n);
	fds->n = 0;
}

/* recvmsg() hands out the lowest free numbers in order, so the usual list is one range. */
static bool consecutive(const int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (fds[i] < 0 || fds[i] != fds[0] + (int)i)
			return false;
	return n > 1;
}

void msg_close_fds(const int *fds, uint32_t n)
{
	int saved = errno;
	if (!consecutive(fds, n) || close_range((unsigned)fds[0], (unsigned)fds[n - 1], 0)) {
		for (uint32_t i = 0; i < n; i++)
			if (fds[i] >= 0)
				close(fds[i]);
	}
	errno = saved;
}

/* ---- for people ---- */

struct printer {
	char *buf;
	size_t size, used; /* used counts what did not fit as well */
};

static void print(struct printer *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void print(struct printer *p, const char *fmt, ...)
{
	size_t at = MIN(p->used, p->size);
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(p->buf + at, p->size - at, fmt, ap);
	va_end(ap);
	p->used += n > 0 ? (size_t)n : 0;
}

/* Texts come from the peer: whatever could end the line or move a terminal's cursor is replaced. */
static void print_str(struct printer *p, const char *field, const char *text)
{
	print(p, " %s=\"", field);
	for (; *text; text++)
		print(p, "%c", (unsigned char)*text < 0x20 || *text == 0x7f || *text == '"' ? '?' : *text);
	print(p, "\"");
}

#define MSG(NAME, name, type, direction, doc) static void print_##name(struct printer *p, const struct msg_##name *m) {
#define F_U32(field, doc) print(p, " %s=%" PRIu32, #field, m->field);
#define F_U64(field, doc) print(p, " %s=%" PRIu64, #field, m->field);
#define F_STR(field, max, doc) print_str(p, #field, m->field);
#define F_FDS(field, max, doc) print(p, " %s=%" PRIu32, #field, m->field.n);
#define MSG_END }
#include "shared/messages.def"

size_t msg_print(const struct msg *m, char *buf, size_t size)
{
	struct printer p = {.buf = buf, .size = size};
	print(&p, "%s #%" PRIu64, msg_type_name(m->type), m->request);
	switch (m->type) {
#define MSG(NAME, name, type, direction, doc) case MSG_##NAME: print_##name(&p, &m->u.name); break;
#include "shared/messages.def"
	}
	return size ? MIN(p.used, size - 1) : 0;
}

static const struct {
	const char *name;
	enum msg_direction direction;
} rows[] = {
#define MSG(NAME, name, type, direction, doc) [type] = {#NAME, MSG_##direction},
#include "shared/messages.def"
};

const char *msg_type_name(uint32_t type)
{
	return type < ARRAY_LEN(rows) && rows[type].name ? rows[type].name : "UNKNOWN";
}

int msg_direction(uint32_t type, enum msg_direction *out)
{
	if (type >= ARRAY_LEN(rows) || !rows[type].name)
		return -EINVAL;
	*out = rows[type].direction;
	return 0;
}
