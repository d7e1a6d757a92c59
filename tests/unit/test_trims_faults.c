/* test_trims_faults.c - libtrims against a daemon that dies, stalls, lies or talks nonsense: every call comes back, with the
 * right error; nothing leaks; mappings stay; a reconnect helps. */
#include "client/trims.h"

#include "tests/unit/fake_mrm.h"
#include "tests/unit/unit.h"

#include <fcntl.h>

static struct fake fake;
static struct fake_copy copies[2]; /* m0: ready; m1: loading */
static trims_conn *conn;
static unsigned fds_before;
static uint64_t seed;

static unsigned open_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 2048; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

static void setup(void)
{
	fds_before = open_fds();
	fake_copy_init(&copies[0], 200, 2, 4);
	fake_copy_init(&copies[1], 201, 2, 2);
	fake_ready(&copies[0]);
	fake = (struct fake){0};
	fake_start(&fake, NULL, copies, ARRAY_LEN(copies));
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}

static void teardown(void)
{
	trims_disconnect(&conn);
	fake_stop(&fake);
	for (size_t i = 0; i < ARRAY_LEN(copies); i++)
		fake_copy_fini(&copies[i]);
	ck_assert_uint_eq(open_fds(), fds_before);
}

static trims_model *opened(const char *name)
{
	trims_model *m = NULL;
	struct trims_open_options o = {.size = sizeof o, .flags = TRIMS_OPEN_NO_WAIT};
	ck_assert_msg(trims_open(conn, name, &o, &m) == 0, "%s", trims_last_error()->text);
	return m;
}

static int try_open(const char *name)
{
	trims_model *m = NULL;
	int r = trims_open(conn, name, NULL, &m);
	if (r == 0)
		trims_close(&m);
	return r;
}

/* ---- no daemon, or none that answers ---- */

START_TEST(without_a_daemon_connecting_says_so)
{
	trims_conn *c = NULL;
	ck_assert_int_eq(trims_connect("/tmp/trims-there-is-no-such-socket", NULL, &c), -TRIMS_E_DISCONNECTED);
	ck_assert_ptr_null(c);
	ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_CONN);
	ck_assert_str_eq(trims_last_error()->text,
		"cannot connect to /tmp/trims-there-is-no-such-socket: No such file or directory");
	setenv("TRIMS_SOCKET", "/tmp/trims-nor-this-one", 1);
	ck_assert_int_eq(trims_connect(NULL, NULL, &c), -TRIMS_E_DISCONNECTED);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "/tmp/trims-nor-this-one"));
	char path[300];
	memset(path, 'p', sizeof path - 1);
	path[sizeof path - 1] = 0;
	ck_assert_int_eq(trims_connect(path, NULL, &c), -TRIMS_E_BAD_REQUEST);
}
END_TEST

START_TEST(a_daemon_that_does_not_welcome_is_not_waited_for)
{
	struct trims_connect_options o = {.size = sizeof o, .timeout_ns = 5 * NS_PER_MS};
	trims_conn *c = NULL;
	fake.mute = true;
	fake_kick(&fake);
	ck_assert_int_eq(trims_connect(fake.path, &o, &c), -TRIMS_E_TIMED_OUT);
	fake.mute = false;
	fake_kick(&fake);
}
END_TEST

START_TEST(a_refused_welcome_says_why)
{
	trims_conn *c = NULL;
	fake.refuse_welcome = true;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &c), -TRIMS_E_TOO_MANY_CONNS);
	ck_assert_str_eq(trims_last_error()->text, "too many connections");
	fake.refuse_welcome = false;
	fake.version = MSG_VERSION + 1;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &c), -TRIMS_E_VERSION);
	fake.version = MSG_VERSION;
}
END_TEST

/* ---- death ---- */

START_TEST(when_the_daemon_dies_calls_fail_and_mappings_stay)
{
	struct trims_tensor t;
	const void *data;
	size_t bytes;
	trims_model *m = opened("m0"), *untouched = opened("m0");
	ck_assert_int_eq(trims_tensor(m, 2, &t), 0);
	ck_assert_int_eq(trims_check(conn), 0);
	fake_stop(&fake);
	ck_assert_int_eq(trims_check(conn), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(try_open("m0"), -TRIMS_E_DISCONNECTED);
	ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_CONN);
	ck_assert_int_eq(trims_file(m, "config.json", &data, &bytes), -TRIMS_E_DISCONNECTED);
	ck_assert_uint_eq(*(const uint8_t *)t.data, 2);
	ck_assert_int_eq(trims_tensor(untouched, 3, &t), 0);
	ck_assert_uint_eq(*(const uint8_t *)t.data, 3);
	ck_assert_int_eq(trims_wait(m, TRIMS_FOREVER), 0);
	ck_assert_int_eq(trims_reconnect(conn), -TRIMS_E_DISCONNECTED);
	fake_start(&fake, NULL, copies, ARRAY_LEN(copies));
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(trims_file(m, "config.json", &data, &bytes), -TRIMS_E_DISCONNECTED); /* an old lease */
	trims_close(&untouched);
	trims_close(&m);
	ck_assert_int_eq(try_open("m0"), 0);
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.closes, 1); /* that of the new life alone */
}
END_TEST

static void *wait_all(void *m)
{
	int r = trims_wait(m, TRIMS_FOREVER);
	return (void *)(intptr_t)r;
}

START_TEST(a_death_while_waiting_for_bytes_ends_the_wait)
{
	pthread_t thread[3];
	trims_model *m = opened("m1");
	fake_land(&copies[1], 0, 10);
	for (int i = 0; i < 3; i++)
		pthread_create(&thread[i], NULL, wait_all, m);
	fake_stop(&fake);
	for (int i = 0; i < 3; i++) {
		void *r;
		pthread_join(thread[i], &r);
		ck_assert_int_eq((int)(intptr_t)r, -TRIMS_E_DISCONNECTED);
	}
	ck_assert_int_eq(trims_wait_tensor(m, 0, TRIMS_FOREVER), 0); /* these bytes had come */
	ck_assert_int_eq(trims_wait_tensor(m, 1, TRIMS_FOREVER), -TRIMS_E_DISCONNECTED);
	trims_close(&m);
	fake_start(&fake, NULL, copies, ARRAY_LEN(copies));
}
END_TEST

static bool die_on_open(struct fake *f, int fd, struct msg *m)
{
	return m->type != MSG_OPEN && fake_serve(f, fd, m);
}

static bool farewell_on_open(struct fake *f, int fd, struct msg *m)
{
	if (m->type != MSG_OPEN)
		return fake_serve(f, fd, m);
	fake_fault(fd, 0, TRIMS_E_STOPPING, "the daemon is stopping for an upgrade");
	return false;
}

static void *open_m0(void *unused)
{
	return (void *)(intptr_t)try_open("m0");
}

START_TEST(a_death_ends_every_request_in_flight)
{
	pthread_t thread[8];
	fake.handle = die_on_open;
	for (int i = 0; i < 8; i++)
		pthread_create(&thread[i], NULL, open_m0, NULL);
	for (int i = 0; i < 8; i++) {
		void *r;
		pthread_join(thread[i], &r);
		ck_assert_int_eq((int)(intptr_t)r, -TRIMS_E_DISCONNECTED);
	}
}
END_TEST

START_TEST(a_farewell_gives_its_reason_to_every_later_call)
{
	fake.handle = farewell_on_open;
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(try_open("m0"), -TRIMS_E_STOPPING);
		ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_DAEMON);
		ck_assert_str_eq(trims_last_error()->text, "the daemon is stopping for an upgrade");
	}
	fake.handle = fake_serve;
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(try_open("m0"), 0);
}
END_TEST

START_TEST(threads_that_reconnect_at_once_agree)
{
	pthread_t thread[8];
	fake_stop(&fake);
	fake_start(&fake, NULL, copies, ARRAY_LEN(copies));
	ck_assert_int_eq(try_open("m0"), -TRIMS_E_DISCONNECTED);
	for (int i = 0; i < 8; i++)
		pthread_create(&thread[i], NULL, (void *(*)(void *))(void (*)(void))trims_reconnect, conn);
	for (int i = 0; i < 8; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(try_open("m0"), 0);
	ck_assert_int_eq(fake.conns, 2); /* the one of setup, and one more */
}
END_TEST

/* ---- stalls ---- */

static _Atomic uint64_t stalled;

/* Answers an OPEN only when the next other message comes: late. */
static bool late(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type == MSG_OPEN) {
		stalled = m->request;
		return true;
	}
	if (m->type == MSG_PIN && stalled) {
		fake_opened(f, &f->copies[0], stalled, &r);
		f->leases++;
		fake_send(fd, &r);
		stalled = 0;
	}
	return fake_serve(f, fd, m);
}

START_TEST(a_late_lease_is_given_back)
{
	struct trims_open_options o = {.size = sizeof o, .timeout_ns = NS_PER_MS};
	trims_model *m = NULL;
	fake.handle = late;
	unsigned fds = open_fds();
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(trims_open(conn, "m0", &o, &m), -TRIMS_E_TIMED_OUT);
		ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_REQUEST);
		ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0); /* the late answer comes before this one's */
		ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0);
		ck_assert_int_eq(fake.cancels, i + 1);
		ck_assert_int_eq(fake.leases, 0);
	}
	ck_assert_uint_eq(open_fds(), fds);
}
END_TEST

static void *open_with_timeout(void *unused)
{
	struct trims_open_options o = {.size = sizeof o, .timeout_ns = 5 * NS_PER_MS};
	trims_model *m = NULL;
	return (void *)(intptr_t)trims_open(conn, "m0", &o, &m);
}

/* Answers PIN only when all of four OPENs have been given up. */
static bool pin_after_four_cancels(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type == MSG_PIN) {
		stalled = m->request;
		return true;
	}
	if (m->type == MSG_OPEN)
		return true;
	if (m->type != MSG_CANCEL)
		return fake_serve(f, fd, m);
	if (++f->cancels == 4) {
		msg_init(&r, MSG_DONE, stalled);
		fake_send(fd, &r);
	}
	return true;
}

START_TEST(a_leader_that_gives_up_hands_over_to_one_that_does_not)
{
	pthread_t thread[4];
	void *r;
	fake.handle = pin_after_four_cancels;
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, open_with_timeout, NULL);
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], &r);
		ck_assert_int_eq((int)(intptr_t)r, -TRIMS_E_TIMED_OUT);
	}
}
END_TEST

START_TEST(requests_of_tools_time_out_when_asked_to)
{
	struct trims_connect_options o = {.size = sizeof o, .request_timeout_ns = NS_PER_MS};
	trims_conn *c;
	ck_assert_int_eq(trims_connect(fake.path, &o, &c), 0);
	fake.mute = true;
	fake_kick(&fake);
	ck_assert_int_eq(trims_pin(c, "m0", 0, NULL, NULL, 0), -TRIMS_E_TIMED_OUT);
	trims_disconnect(&c);
	fake.mute = false;
	fake_kick(&fake);
}
END_TEST

START_TEST(leases_given_back_to_a_daemon_that_does_not_read_are_not_lost)
{
	enum { N = 1000 }; /* more CLOSEs than a socket buffer holds */
	static trims_model *m[N];
	for (int i = 0; i < N; i++)
		m[i] = opened("m0");
	ck_assert_uint_lt(open_fds(), fds_before + 32); /* one copy, whatever the number of leases */
	fake.mute = true;
	fake_kick(&fake);
	for (int i = 0; i < N / 4; i++)
		trims_close(&m[i]);
	struct trims_open_options o = {.size = sizeof o, .timeout_ns = NS_PER_MS};
	trims_model *none = NULL;
	for (int i = 0; i < 40; i++) /* fills what room is left */
		ck_assert_int_eq(trims_open(conn, "m0", &o, &none), -TRIMS_E_TIMED_OUT);
	trims_close(&m[N / 4]);
	fake.mute = false;
	fake_kick(&fake);
	for (int i = N / 4 + 1; i < N; i++)
		trims_close(&m[i]);
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.leases, 0);
}
END_TEST

/* ---- nonsense ---- */

enum nonsense {
	NOISE, SHORT, EMPTY, LONG, WRONG_TYPE, WRONG_DIRECTION, WRONG_REQUEST, TWICE, SURPLUS_FDS, FAULT_WITHOUT_CODE,
	NONSENSE_N
};
static _Atomic int nonsense;

static void send_raw(int fd, const void *bytes, size_t len, uint32_t n_fds)
{
	int fds[3] = {fd, fd, fd};
	seqpacket_send(fd, bytes, len, fds, n_fds, 0);
}

static bool talk_nonsense(struct fake *f, int fd, struct msg *m)
{
	static const uint8_t noise[2 * MSG_MAX_BYTES] = {1, 0, 5, 0, 0xff, 0xff, 0xff, 0xff};
	struct msg r;
	if (m->type != MSG_OPEN)
		return fake_serve(f, fd, m);
	msg_init(&r, MSG_DONE, m->request);
	switch ((enum nonsense)nonsense) {
	case NOISE:
		send_raw(fd, noise, 200, 0);
		return true;
	case SHORT:
		send_raw(fd, noise, 3, 2);
		return true;
	case EMPTY:
		send_raw(fd, noise, 0, 0);
		return true;
	case LONG:
		send_raw(fd, noise, sizeof noise, 3);
		return true;
	case WRONG_TYPE:
		fake_send(fd, &r);
		return true;
	case WRONG_DIRECTION:
		msg_init(&r, MSG_PIN, m->request);
		fake_send(fd, &r);
		return true;
	case WRONG_REQUEST:
		r.request += 1000;
		fake_send(fd, &r);
		return true;
	case TWICE:
		fake_serve(f, fd, m);
		return fake_serve(f, fd, m);
	case SURPLUS_FDS: {
		uint8_t bytes[MSG_MAX_BYTES];
		int none[1];
		uint32_t n;
		ssize_t len = msg_encode(&r, bytes, sizeof bytes, none, &n);
		send_raw(fd, bytes, (size_t)len, 3);
		return true;
	}
	case FAULT_WITHOUT_CODE:
		fake_fault(fd, m->request, 0, "nothing is wrong");
		return true;
	case NONSENSE_N:
		break;
	}
	return false;
}

START_TEST(nonsense_ends_the_connection_and_nothing_else)
{
	fake.handle = talk_nonsense;
	unsigned fds = open_fds();
	for (int i = 0; i < NONSENSE_N; i++) {
		nonsense = i;
		int r = try_open("m0");
		if (i == TWICE) /* the second answer is noticed by whoever reads next */
			ck_assert_int_eq(r, 0);
		else
			ck_assert_msg(r == -TRIMS_E_PROTOCOL || (i == EMPTY && r == -TRIMS_E_DISCONNECTED), "%d: %d %s", i, r,
				trims_last_error()->text);
		fake.handle = fake_serve;
		if (i == TWICE)
			ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), -TRIMS_E_PROTOCOL);
		ck_assert_int_ne(trims_check(conn), 0);
		ck_assert_int_eq(trims_reconnect(conn), 0);
		ck_assert_int_eq(try_open("m0"), 0);
		fake.handle = talk_nonsense;
	}
	fake.handle = fake_serve;
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0); /* the daemon has seen every old connection end */
	ck_assert_uint_eq(open_fds(), fds);
}
END_TEST

static bool few_handles(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type != MSG_OPEN)
		return fake_serve(f, fd, m);
	fake_opened(f, &f->copies[0], m->request, &r);
	r.u.opened.tier = nonsense == 0 ? 4 : r.u.opened.tier;
	r.u.opened.fds.n = nonsense == 0 ? 2 : (uint32_t)nonsense;
	f->leases++;
	fake_send(fd, &r);
	return true;
}

START_TEST(a_copy_this_library_cannot_use_is_given_back)
{
	struct trims_tensor t;
	fake.handle = few_handles;
	for (int n = 0; n < 2; n++) {
		nonsense = n;
		ck_assert_int_eq(try_open("m0"), -TRIMS_E_UNSUPPORTED);
	}
	nonsense = 3; /* one extent of two */
	trims_model *m = opened("m0");
	ck_assert_int_eq(trims_tensor(m, 0, &t), -TRIMS_E_PROTOCOL);
	trims_close(&m);
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.leases, 0);
}
END_TEST

START_TEST(a_file_shorter_than_it_says_is_refused)
{
	struct trims_tensor t;
	trims_model *m = opened("m0");
	ck_assert_int_eq(ftruncate(copies[0].extent[1], 4096), 0);
	ck_assert_int_eq(trims_tensor(m, 0, &t), -TRIMS_E_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "extent 1"));
	trims_close(&m);
	m = opened("m1");
	ck_assert_int_eq(ftruncate(copies[1].table, 16), 0);
	ck_assert_int_eq(ftruncate(copies[1].page, 16), 0);
	ck_assert_int_eq(trims_tensor(m, 0, &t), -TRIMS_E_PROTOCOL);
	ck_assert_int_eq(trims_wait(m, TRIMS_FOREVER), -TRIMS_E_PROTOCOL);
	trims_close(&m);
}
END_TEST

/* Touches everything that a table leads to. */
static void use(trims_model *m)
{
	uint32_t n = 0;
	volatile uint8_t sum = 0;
	if (trims_tensor_count(m, &n))
		return;
	for (uint32_t i = 0; i < MIN(n, FAKE_TENSORS_MAX * 2); i++) {
		struct trims_tensor t;
		char name[16];
		snprintf(name, sizeof name, "t%u", i);
		trims_tensor_by_name(m, name, &t);
		if (trims_tensor(m, i, &t))
			continue;
		ck_assert_uint_le(t.rank, TRIMS_MAX_RANK);
		ck_assert_uint_eq((uintptr_t)t.data % 256, 0);
		sum += (uint8_t)strlen(t.name);
		for (uint64_t b = 0; b < t.bytes; b++)
			sum += ((const uint8_t *)t.data)[b];
		trims_wait_tensor(m, i, 0);
	}
	(void)sum;
}

START_TEST(no_table_however_spoiled_leads_outside_the_image)
{
	static uint8_t pristine[8192];
	ck_assert_uint_le(copies[0].table_bytes, sizeof pristine);
	memcpy(pristine, copies[0].t, copies[0].table_bytes);
	for (int i = 0; i < 3000; i++) {
		/* most of the time a field of the header or of a record near the front */
		for (uint64_t hits = 1 + unit_random(&seed) % 3; hits; hits--) {
			uint64_t span = unit_random(&seed) % 4 ? sizeof(struct table_header) + 200 : copies[0].table_bytes;
			uint8_t *at = (uint8_t *)copies[0].t + unit_random(&seed) % span;
			*at = unit_random(&seed) % 2 ? (uint8_t)unit_random(&seed) : (uint8_t)(*at ^ 1u << unit_random(&seed) % 8);
		}
		trims_model *m = opened("m0");
		use(m);
		trims_close(&m);
		memcpy(copies[0].t, pristine, copies[0].table_bytes);
	}
	trims_model *m = opened("m0");
	struct trims_tensor t;
	ck_assert_int_eq(trims_tensor_by_name(m, "t5", &t), 0);
	trims_close(&m);
}
END_TEST

static void faults(Suite *s)
{
	seed = unit_seed();
	TCase *c = tcase_create("faults");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, without_a_daemon_connecting_says_so);
	tcase_add_test(c, a_daemon_that_does_not_welcome_is_not_waited_for);
	tcase_add_test(c, a_refused_welcome_says_why);
	tcase_add_test(c, when_the_daemon_dies_calls_fail_and_mappings_stay);
	tcase_add_test(c, a_death_while_waiting_for_bytes_ends_the_wait);
	tcase_add_test(c, a_death_ends_every_request_in_flight);
	tcase_add_test(c, a_farewell_gives_its_reason_to_every_later_call);
	tcase_add_test(c, threads_that_reconnect_at_once_agree);
	tcase_add_test(c, a_late_lease_is_given_back);
	tcase_add_test(c, a_leader_that_gives_up_hands_over_to_one_that_does_not);
	tcase_add_test(c, requests_of_tools_time_out_when_asked_to);
	tcase_add_test(c, leases_given_back_to_a_daemon_that_does_not_read_are_not_lost);
	tcase_add_test(c, nonsense_ends_the_connection_and_nothing_else);
	tcase_add_test(c, a_copy_this_library_cannot_use_is_given_back);
	tcase_add_test(c, a_file_shorter_than_it_says_is_refused);
	tcase_add_test(c, no_table_however_spoiled_leads_outside_the_image);
	suite_add_tcase(s, c);
}

UNIT_MAIN("trims_faults", faults)
