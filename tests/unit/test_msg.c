/* test_msg.c - every row of messages.def: random contents there and back, and each way to get a datagram wrong. */
#include "shared/msg.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static uint64_t seed;

static uint32_t some_u32(void)
{
	return (uint32_t)unit_random(&seed);
}

/* A random text of at most max bytes, with characters of one to four bytes. */
static void some_text(char *out, size_t max)
{
	static const char *const characters[] = {"a", "/", "\x7f", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x90\x8b"};
	size_t want = unit_random(&seed) % (max + 1), used = 0;
	for (;;) {
		const char *c = characters[unit_random(&seed) % ARRAY_LEN(characters)];
		if (used + strlen(c) > want)
			break;
		memcpy(out + used, c, strlen(c));
		used += strlen(c);
	}
	out[used] = 0;
}

static int some_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static void some_fds(struct msg_fds *out, uint32_t max)
{
	out->n = some_u32() % (max + 1);
	for (uint32_t i = 0; i < out->n; i++)
		out->fd[i] = some_fd();
}

#define MSG(NAME, name, type, direction, doc) static void fill_##name(struct msg_##name *m) {
#define F_U32(field, doc) m->field = some_u32();
#define F_U64(field, doc) m->field = unit_random(&seed);
#define F_STR(field, max, doc) some_text(m->field, max);
#define F_FDS(field, max, doc) some_fds(&m->field, max);
#define MSG_END }
#include "shared/messages.def"

static void fill(struct msg *m, enum msg_type type)
{
	memset(m, 0xa5, sizeof *m); /* what a stack may hold */
	msg_init(m, type, unit_random(&seed));
	switch (type) {
#define MSG(NAME, name, type, direction, doc) case MSG_##NAME: fill_##name(&m->u.name); break;
#include "shared/messages.def"
	}
}

static const enum msg_type types[] = {
#define MSG(NAME, name, type, direction, doc) MSG_##NAME,
#include "shared/messages.def"
};

static unsigned open_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

struct wire {
	uint8_t bytes[MSG_MAX_BYTES];
	size_t len;
	int fds[MSG_MAX_FDS];
	uint32_t n_fds;
};

static void encode(const struct msg *m, struct wire *w)
{
	ssize_t n = msg_encode(m, w->bytes, sizeof w->bytes, w->fds, &w->n_fds);
	ck_assert_int_ge(n, MSG_HEADER_BYTES);
	w->len = (size_t)n;
}

static void refuses(const struct wire *w)
{
	struct msg out;
	int fds[MSG_MAX_FDS + 1];
	for (uint32_t i = 0; i < w->n_fds; i++)
		fds[i] = some_fd();
	ck_assert_int_eq(msg_decode(w->bytes, w->len, fds, w->n_fds, &out), -EPROTO);
}

START_TEST(every_message_survives_the_trip)
{
	unsigned before = open_fds();
	for (size_t t = 0; t < ARRAY_LEN(types); t++)
		for (int i = 0; i < 50; i++) {
			struct msg m, back;
			struct wire there, again;
			fill(&m, types[t]);
			encode(&m, &there);
			ck_assert_int_eq(msg_decode(there.bytes, there.len, there.fds, there.n_fds, &back), 0);
			ck_assert_uint_eq(back.type, m.type);
			ck_assert_uint_eq(back.request, m.request);
			encode(&back, &again);
			ck_assert_uint_eq(again.len, there.len);
			ck_assert_mem_eq(again.bytes, there.bytes, there.len);
			ck_assert_uint_eq(again.n_fds, there.n_fds);
			ck_assert_mem_eq(again.fds, there.fds, there.n_fds * sizeof(int));
			msg_fini(&back);
			msg_fini(&back);
		}
	ck_assert_uint_eq(open_fds(), before);
}
END_TEST

START_TEST(fields_arrive_in_their_places)
{
	struct msg m, back;
	struct wire w;
	msg_init(&m, MSG_OPEN, 7);
	ck_assert_int_eq(MSG_SET_STR(m.u.open.model, "bert/base@main"), 0);
	m.u.open.tier = 2;
	m.u.open.deadline_ns = UINT64_MAX;
	m.u.open.flags = 1;
	encode(&m, &w);
	ck_assert_int_eq(msg_decode(w.bytes, w.len, w.fds, w.n_fds, &back), 0);
	ck_assert_str_eq(back.u.open.model, "bert/base@main");
	ck_assert_uint_eq(back.u.open.tier, 2);
	ck_assert_str_eq(back.u.open.device, "");
	ck_assert_uint_eq(back.u.open.class, 0);
	ck_assert_uint_eq(back.u.open.deadline_ns, UINT64_MAX);
	ck_assert_uint_eq(back.u.open.flags, 1);
}
END_TEST

START_TEST(the_bytes_are_those_of_the_specification)
{
	static const uint8_t close_9_lease_0102[] = {2, 0, 6, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0};
	struct msg m;
	struct wire w;
	msg_init(&m, MSG_CLOSE, 9);
	m.u.close.lease = 0x0102;
	encode(&m, &w);
	ck_assert_uint_eq(w.len, sizeof close_9_lease_0102);
	ck_assert_mem_eq(w.bytes, close_9_lease_0102, w.len);
}
END_TEST

START_TEST(every_truncation_and_every_surplus_is_refused)
{
	unsigned before = open_fds();
	for (size_t t = 0; t < ARRAY_LEN(types); t++) {
		struct msg m;
		struct wire w, cut;
		fill(&m, types[t]);
		encode(&m, &w);
		for (size_t len = 0; len < w.len; len++) {
			cut = w;
			cut.len = len;
			refuses(&cut);
			/* and with a header that says so, too */
			if (len >= MSG_HEADER_BYTES) {
				uint32_t body = (uint32_t)(len - MSG_HEADER_BYTES);
				memcpy(cut.bytes + 4, &body, sizeof body);
				refuses(&cut);
			}
		}
		if (w.len < sizeof w.bytes) {
			w.bytes[w.len++] = 0;
			uint32_t body = (uint32_t)(w.len - MSG_HEADER_BYTES);
			memcpy(w.bytes + 4, &body, sizeof body);
			refuses(&w);
		}
		msg_fini(&m);
	}
	ck_assert_uint_eq(open_fds(), before);
}
END_TEST

START_TEST(missing_and_surplus_descriptors_are_refused_and_closed)
{
	unsigned before = open_fds();
	for (size_t t = 0; t < ARRAY_LEN(types); t++) {
		struct msg m;
		struct wire w;
		fill(&m, types[t]);
		encode(&m, &w);
		if (w.n_fds < MSG_MAX_FDS) {
			w.n_fds++;
			refuses(&w);
			w.n_fds--;
		}
		if (w.n_fds) {
			w.n_fds--;
			refuses(&w);
		}
		msg_fini(&m);
	}
	ck_assert_uint_eq(open_fds(), before);
}
END_TEST

START_TEST(unknown_types_and_versions_are_refused)
{
	for (unsigned type = 0; type < 70000 && type <= UINT16_MAX; type++) {
		enum msg_direction direction;
		uint8_t bytes[MSG_HEADER_BYTES] = {MSG_VERSION, 0, (uint8_t)type, (uint8_t)(type >> 8)};
		struct msg m;
		if (msg_direction(type, &direction) == 0)
			continue;
		ck_assert_str_eq(msg_type_name(type), "UNKNOWN");
		ck_assert_int_eq(msg_decode(bytes, sizeof bytes, NULL, 0, &m), -EPROTO);
	}
	struct msg m;
	struct wire w;
	msg_init(&m, MSG_CLOSE, 1);
	for (unsigned version = 0; version < 4; version++) {
		encode(&m, &w);
		w.bytes[0] = (uint8_t)version;
		if (version != MSG_VERSION)
			refuses(&w);
	}
	m.version = MSG_VERSION + 1;
	ck_assert_int_eq(msg_encode(&m, w.bytes, sizeof w.bytes, w.fds, &w.n_fds), -EINVAL);
}
END_TEST

/* A QUERY whose model has these bytes. */
static void query_with(struct wire *w, const void *text, uint32_t len)
{
	struct msg m;
	msg_init(&m, MSG_QUERY, 1);
	memset(m.u.query.model, 'x', len);
	m.u.query.model[len] = 0;
	encode(&m, w);
	memcpy(w->bytes + MSG_HEADER_BYTES + 8, text, len);
}

START_TEST(texts_with_nul_or_broken_utf8_are_refused)
{
	static const char *const bad[] = {"\xff", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
		"\xc3", "a\xe2\x82", "\x80"};
	struct wire w;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		query_with(&w, bad[i], (uint32_t)strlen(bad[i]));
		refuses(&w);
	}
	query_with(&w, "a\0b", 3);
	refuses(&w);
	struct msg m;
	msg_init(&m, MSG_QUERY, 1);
	memcpy(m.u.query.model, "\xff", 2);
	ck_assert_int_eq(msg_encode(&m, w.bytes, sizeof w.bytes, w.fds, &w.n_fds), -EINVAL);
}
END_TEST

START_TEST(texts_that_do_not_fit_are_refused_by_the_setters)
{
	struct msg m;
	char long_text[300];
	memset(long_text, 'y', sizeof long_text - 1);
	long_text[sizeof long_text - 1] = 0;
	msg_init(&m, MSG_OPEN, 1);
	ck_assert_int_eq(MSG_SET_STR(m.u.open.model, long_text), -ENAMETOOLONG);
	ck_assert_str_eq(m.u.open.model, "");
	ck_assert_int_eq(MSG_SET_STR(m.u.open.model, "\xff"), -EINVAL);
	MSG_SET_TEXT(m.u.open.model, long_text);
	ck_assert_uint_eq(strlen(m.u.open.model), 255);
	MSG_SET_TEXT(m.u.open.model, "caf\xe9 \xe2\x82\xac");
	ck_assert_str_eq(m.u.open.model, "caf? \xe2\x82\xac");
	memset(long_text, 'y', 254);
	memcpy(long_text + 254, "\xe2\x82\xac", 4);
	MSG_SET_TEXT(m.u.open.model, long_text); /* the character would straddle the end: left out whole */
	ck_assert_uint_eq(strlen(m.u.open.model), 254);
}
END_TEST

START_TEST(a_buffer_too_small_is_refused_at_every_size)
{
	for (size_t t = 0; t < ARRAY_LEN(types); t++) {
		struct msg m;
		struct wire w;
		fill(&m, types[t]);
		encode(&m, &w);
		for (size_t cap = 0; cap < w.len; cap++)
			ck_assert_int_eq(msg_encode(&m, w.bytes, cap, w.fds, &w.n_fds), -ENOBUFS);
		msg_fini(&m);
	}
}
END_TEST

START_TEST(descriptors_are_taken_once)
{
	struct msg m;
	msg_init(&m, MSG_OPENED, 1);
	m.u.opened.fds.n = 3;
	for (int i = 0; i < 3; i++)
		m.u.opened.fds.fd[i] = some_fd();
	int kept = msg_take_fd(&m.u.opened.fds, 1);
	ck_assert_int_ge(kept, 0);
	ck_assert_int_eq(msg_take_fd(&m.u.opened.fds, 1), -1);
	ck_assert_int_eq(msg_take_fd(&m.u.opened.fds, 3), -1);
	int others[2] = {m.u.opened.fds.fd[0], m.u.opened.fds.fd[2]};
	msg_fini(&m);
	ck_assert_int_eq(fcntl(others[0], F_GETFD), -1);
	ck_assert_int_eq(fcntl(others[1], F_GETFD), -1);
	ck_assert_int_ne(fcntl(kept, F_GETFD), -1);
	close(kept);
}
END_TEST

START_TEST(a_line_for_people_names_every_field)
{
	struct msg m;
	char line[256], tiny[8];
	msg_init(&m, MSG_FAULT, 12);
	m.u.fault.code = 3;
	MSG_SET_TEXT(m.u.fault.text, "no \"such\" \x1b[2J thing");
	size_t n = msg_print(&m, line, sizeof line);
	ck_assert_str_eq(line, "FAULT #12 code=3 text=\"no ?such? ?[2J thing\"");
	ck_assert_uint_eq(n, strlen(line));
	ck_assert_uint_eq(msg_print(&m, tiny, sizeof tiny), 7);
	ck_assert_str_eq(tiny, "FAULT #");
}
END_TEST

static void messages(Suite *s)
{
	seed = unit_seed();
	UNIT_CASE(s, "trip", every_message_survives_the_trip, fields_arrive_in_their_places,
		the_bytes_are_those_of_the_specification, a_line_for_people_names_every_field, descriptors_are_taken_once);
	UNIT_CASE(s, "refusals", every_truncation_and_every_surplus_is_refused,
		missing_and_surplus_descriptors_are_refused_and_closed, unknown_types_and_versions_are_refused,
		texts_with_nul_or_broken_utf8_are_refused, texts_that_do_not_fit_are_refused_by_the_setters,
		a_buffer_too_small_is_refused_at_every_size);
}

UNIT_MAIN("msg", messages)
