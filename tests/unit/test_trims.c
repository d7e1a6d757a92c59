/* test_trims.c - libtrims against a daemon that behaves: opening, reading, waiting, sharing, files, requests, threads.
 * Every test ends with the descriptors and mappings it began with. */
#include "client/trims.h"

#include "tests/unit/fake_mrm.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/wait.h>

static struct fake fake;
static struct fake_copy copies[3]; /* m0: ready; m1: loading; m2: ready, one extent */
static trims_conn *conn;
static unsigned fds_before, maps_before;

static unsigned open_fds(void)
{
	unsigned n = 0;
	for (int fd = 0; fd < 2048; fd++)
		n += fcntl(fd, F_GETFD) != -1;
	return n;
}

/* Mappings of the fake daemon's memory, its own included. */
static unsigned fake_maps(void)
{
	char line[512];
	unsigned n = 0;
	FILE *f = fopen("/proc/self/maps", "re");
	while (fgets(line, sizeof line, f))
		n += strstr(line, "fake-") != NULL;
	fclose(f);
	return n;
}

static void setup(void)
{
	fake_copy_init(&copies[0], 100, 3, 4);
	fake_copy_init(&copies[1], 101, 2, 2);
	fake_copy_init(&copies[2], 102, 1, 1);
	fake_ready(&copies[0]);
	fake_ready(&copies[2]);
	fake = (struct fake){0};
	fake_start(&fake, NULL, copies, ARRAY_LEN(copies));
	fds_before = open_fds();
	maps_before = fake_maps();
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}

/* Closes are not answered, but they are read in order: an answered request behind them proves them done. */
static void settle(void)
{
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0);
}

static void teardown(void)
{
	settle();
	ck_assert_int_eq(fake.leases, 0);
	trims_disconnect(&conn);
	ck_assert_ptr_null(conn);
	ck_assert_uint_eq(fake_maps(), maps_before);
	fake_stop(&fake);
	ck_assert_uint_eq(open_fds(), fds_before - 2); /* the listener and the event */
	for (size_t i = 0; i < ARRAY_LEN(copies); i++)
		fake_copy_fini(&copies[i]);
}

static trims_model *opened(const char *name, uint32_t flags)
{
	trims_model *m = NULL;
	struct trims_open_options o = {.size = sizeof o, .flags = flags};
	ck_assert_msg(trims_open(conn, name, &o, &m) == 0, "%s", trims_last_error()->text);
	return m;
}

static void check_tensor(const struct trims_tensor *t, uint32_t i, uint32_t n)
{
	char name[16];
	snprintf(name, sizeof name, "t%u", i);
	ck_assert_str_eq(t->name, name);
	ck_assert_uint_eq(t->index, i);
	ck_assert_uint_eq(t->dtype, TRIMS_DTYPE_U8);
	ck_assert_uint_eq(t->rank, 2);
	ck_assert_uint_eq(t->shape[1], 10);
	ck_assert_uint_eq(t->bytes, i == n - 1 ? 0 : (i + 1) * 10);
	for (uint64_t b = 0; b < t->bytes; b++)
		ck_assert_uint_eq(((const uint8_t *)t->data)[b], i);
}

START_TEST(every_tensor_is_found_by_index_and_by_name)
{
	trims_model *m = opened("m0", 0);
	struct trims_tensor t, first;
	uint32_t n;
	ck_assert_int_eq(trims_tensor_count(m, &n), 0);
	ck_assert_uint_eq(n, 12);
	ck_assert_int_eq(trims_tensor(m, 0, &first), 0);
	for (uint32_t i = 0; i < n; i++) {
		char name[16];
		ck_assert_int_eq(trims_tensor(m, i, &t), 0);
		check_tensor(&t, i, n);
		ck_assert_int_eq((const char *)t.data - (const char *)first.data, i * FAKE_TENSOR_STRIDE);
		snprintf(name, sizeof name, "t%u", i);
		ck_assert_int_eq(trims_tensor_by_name(m, name, &t), 0);
		check_tensor(&t, i, n);
	}
	ck_assert_int_eq(trims_tensor(m, n, &t), -TRIMS_E_NO_TENSOR);
	ck_assert_int_eq(trims_tensor_by_name(m, "t", &t), -TRIMS_E_NO_TENSOR);
	ck_assert_int_eq(trims_tensor_by_name(m, "t00", &t), -TRIMS_E_NO_TENSOR);
	ck_assert_int_eq(trims_tensor_by_name(m, "", &t), -TRIMS_E_NO_TENSOR);
	trims_close(&m);
	ck_assert_ptr_null(m);
	trims_close(&m);
}
END_TEST

START_TEST(an_open_and_close_maps_nothing_and_leaks_nothing)
{
	unsigned before = open_fds(), maps = fake_maps();
	for (int i = 0; i < 300; i++) {
		trims_model *m = opened("m0", 0);
		ck_assert_uint_eq(fake_maps(), maps);
		trims_close(&m);
		ck_assert_uint_eq(open_fds(), before);
	}
	settle();
	ck_assert_int_eq(fake.closes, 300);
}
END_TEST

START_TEST(the_same_copy_is_mapped_once)
{
	trims_model *a = opened("m0", 0), *b;
	struct trims_tensor x, y;
	ck_assert_int_eq(trims_tensor(a, 3, &x), 0);
	ck_assert_int_eq(trims_wait(a, 0), 0);
	unsigned maps = fake_maps(), fds = open_fds();
	b = opened("m0", 0);
	ck_assert_uint_eq(open_fds(), fds);
	ck_assert_int_eq(trims_tensor(b, 3, &y), 0);
	ck_assert_ptr_eq(x.data, y.data);
	ck_assert_uint_eq(fake_maps(), maps);
	trims_close(&a);
	check_tensor(&y, 3, 12); /* still there for b */
	trims_close(&b);
	ck_assert_uint_eq(fake_maps(), maps_before);
}
END_TEST

static _Atomic unsigned maps_at_close;

static bool count_at_close(struct fake *f, int fd, struct msg *m)
{
	if (m->type == MSG_CLOSE)
		maps_at_close = fake_maps();
	return fake_serve(f, fd, m);
}

START_TEST(memory_is_unmapped_before_the_lease_goes_back)
{
	struct trims_tensor t;
	const void *data;
	size_t bytes;
	fake.handle = count_at_close;
	trims_model *m = opened("m0", 0);
	ck_assert_int_eq(trims_tensor(m, 0, &t), 0);
	ck_assert_int_eq(trims_file(m, "config.json", &data, &bytes), 0);
	trims_close(&m);
	settle();
	ck_assert_uint_eq(maps_at_close, maps_before);
}
END_TEST

START_TEST(large_extents_lie_where_huge_pages_can)
{
	struct table_extent *e = (void *)((char *)copies[0].t + copies[0].t->extents_off);
	uint64_t bytes = 2 * MIB + 4096;
	for (uint32_t i = 0; i < 3; i++) {
		e[i] = (struct table_extent){.bytes = bytes, .image_off = i * bytes};
		ck_assert_int_eq(ftruncate(copies[0].extent[i], (off_t)bytes), 0);
	}
	copies[0].t->image_bytes = copies[0].image_bytes = 3 * bytes;
	trims_model *m = opened("m0", 0);
	for (uint32_t i = 0; i < 12; i++) {
		struct trims_tensor t;
		ck_assert_int_eq(trims_tensor(m, i, &t), 0);
		check_tensor(&t, i, 12);
		ck_assert_uint_eq((uintptr_t)t.data % (2 * MIB), i % 4 * FAKE_TENSOR_STRIDE);
	}
	trims_close(&m);
}
END_TEST

START_TEST(info_says_where_the_copy_is)
{
	trims_model *m = opened("m0", 0), *loading = opened("m1", TRIMS_OPEN_NO_WAIT);
	struct trims_info info = {.size = sizeof info};
	ck_assert_int_eq(trims_info(m, &info), 0);
	ck_assert_uint_eq(info.tier, TRIMS_TIER_HOST);
	ck_assert_uint_eq(info.hit, 1);
	ck_assert_uint_eq(info.copy, 100);
	ck_assert_uint_eq(info.version, copies[0].version);
	ck_assert_uint_eq(info.image_bytes, copies[0].image_bytes);
	ck_assert_int_eq(trims_info(loading, &info), 0);
	ck_assert_uint_eq(info.hit, 0);
	ck_assert_uint_eq(info.digest_hi | info.digest_lo, 0);
	fake_ready(&copies[1]);
	ck_assert_int_eq(trims_info(loading, &info), 0);
	ck_assert_uint_eq(info.digest_hi, 0xd1);
	ck_assert_uint_eq(info.digest_lo, 0xd2);
	info.size = 0;
	ck_assert_int_eq(trims_info(m, &info), -TRIMS_E_BAD_REQUEST);
	trims_close(&loading);
	trims_close(&m);
}
END_TEST

START_TEST(a_tensor_is_there_when_its_watermark_is)
{
	trims_model *m = opened("m1", TRIMS_OPEN_NO_WAIT);
	struct trims_progress p;
	ck_assert_int_eq(trims_wait_tensor(m, 0, 0), -TRIMS_E_TIMED_OUT);
	fake_land(&copies[1], 0, 9);
	ck_assert_int_eq(trims_wait_tensor(m, 0, 1000), -TRIMS_E_TIMED_OUT);
	fake_land(&copies[1], 0, 10);
	ck_assert_int_eq(trims_wait_tensor(m, 0, 0), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), -TRIMS_E_TIMED_OUT);
	ck_assert_int_eq(trims_wait_tensor(m, 3, 0), 0); /* it is empty */
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), -TRIMS_E_TIMED_OUT);
	atomic_store(&copies[1].p->chunk[0], 1u << 2);
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), -TRIMS_E_TIMED_OUT);
	atomic_store(&copies[1].p->chunk[0], 1u << 1); /* the second extent begins with it, and there is a hole before */
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), -TRIMS_E_TIMED_OUT);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_TIMED_OUT);
	ck_assert_int_eq(trims_progress(m, &p), 0);
	ck_assert_uint_eq(p.state, TRIMS_STATE_LOADING);
	ck_assert_uint_eq(p.landed_bytes, 10);
	fake_ready(&copies[1]);
	ck_assert_int_eq(trims_wait(m, 0), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), 0);
	ck_assert_int_eq(trims_progress(m, &p), 0);
	ck_assert_uint_eq(p.state, TRIMS_STATE_READY);
	ck_assert_uint_eq(p.landed_bytes, copies[1].image_bytes);
	ck_assert_int_eq(trims_wait_tensor(m, 4, 0), -TRIMS_E_NO_TENSOR);
	trims_close(&m);
}
END_TEST

/* Lets the copy of m1 arrive in the moment that somebody's answer has gone out. */
static bool land_after_open(struct fake *f, int fd, struct msg *m)
{
	bool keep = fake_serve(f, fd, m);
	if (m->type == MSG_OPEN) {
		for (uint64_t b = 0; b < 2 * FAKE_TENSOR_STRIDE; b += 512)
			fake_land(&f->copies[1], 0, b);
		fake_ready(&f->copies[1]);
	}
	return keep;
}

START_TEST(open_returns_when_every_byte_is_there)
{
	fake.handle = land_after_open;
	trims_model *m = opened("m1", 0);
	ck_assert_int_eq(atomic_load(&copies[1].p->state), PROGRESS_READY);
	ck_assert_int_eq(trims_wait(m, 0), 0);
	trims_close(&m);
}
END_TEST

static void *wait_for_it(void *arg)
{
	return (void *)(intptr_t)trims_wait(arg, TRIMS_FOREVER);
}

START_TEST(waiters_sleep_until_they_are_woken)
{
	pthread_t thread[4];
	trims_model *m = opened("m1", TRIMS_OPEN_NO_WAIT);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, wait_for_it, m);
	fake_land(&copies[1], 0, 4096);
	fake_ready(&copies[1]);
	for (int i = 0; i < 4; i++) {
		void *r;
		pthread_join(thread[i], &r);
		ck_assert_ptr_null(r);
	}
	trims_close(&m);
}
END_TEST

START_TEST(a_failed_load_says_why_to_everybody_and_keeps_what_had_come)
{
	struct trims_progress p;
	pthread_t thread;
	void *r;
	trims_model *m = opened("m1", TRIMS_OPEN_NO_WAIT);
	fake_land(&copies[1], 0, 10);
	pthread_create(&thread, NULL, wait_for_it, m);
	fake_poison(&copies[1], TRIMS_E_MISMATCH, "chunk 3 of m1 does not match\x1b its digest");
	pthread_join(thread, &r);
	ck_assert_int_eq((int)(intptr_t)r, -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_wait(m, TRIMS_FOREVER), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_last_error()->code, TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_REQUEST);
	ck_assert_str_eq(trims_last_error()->text, "chunk 3 of m1 does not match  its digest");
	ck_assert_int_eq(trims_wait_tensor(m, 0, TRIMS_FOREVER), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 1, TRIMS_FOREVER), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_progress(m, &p), 0);
	ck_assert_uint_eq(p.state, TRIMS_STATE_FAILED);
	ck_assert_uint_eq(p.error, TRIMS_E_MISMATCH);
	trims_close(&m);
	ck_assert_int_eq(trims_open(conn, "m1", NULL, &m), -TRIMS_E_MISMATCH); /* and gives its lease back */
	ck_assert_ptr_null(m);
}
END_TEST

START_TEST(an_open_that_takes_too_long_gives_its_lease_back)
{
	struct trims_open_options o = {.size = sizeof o, .timeout_ns = NS_PER_MS};
	trims_model *m = NULL;
	ck_assert_int_eq(trims_open(conn, "m1", &o, &m), -TRIMS_E_TIMED_OUT);
	ck_assert_ptr_null(m);
	settle();
	ck_assert_int_eq(fake.opens, 1);
	ck_assert_int_eq(fake.leases, 0);
}
END_TEST

START_TEST(refusals_carry_code_scope_and_text)
{
	trims_model *m = NULL;
	ck_assert_int_eq(trims_open(conn, "unknown", NULL, &m), -TRIMS_E_NOT_FOUND);
	ck_assert_ptr_null(m);
	ck_assert_int_eq(trims_last_error()->code, TRIMS_E_NOT_FOUND);
	ck_assert_int_eq(trims_last_error()->scope, TRIMS_SCOPE_REQUEST);
	ck_assert_str_eq(trims_last_error()->text, "no such model here");
	ck_assert_str_eq(trims_code_name(-TRIMS_E_NOT_FOUND), "NOT_FOUND");
	ck_assert_str_eq(trims_code_name(TRIMS_E_NOT_FOUND), "NOT_FOUND");
	ck_assert_str_eq(trims_scope_name(TRIMS_SCOPE_DAEMON), "daemon");
	ck_assert_int_eq(trims_open(conn, "../etc/passwd", NULL, &m), -TRIMS_E_BAD_NAME);
	ck_assert_int_eq(trims_pin(conn, "", 0, NULL, NULL, 0), -TRIMS_E_BAD_NAME);
	ck_assert_int_eq(trims_query(conn, 2, "a//b", 0, NULL, NULL, NULL), -TRIMS_E_BAD_NAME);
}
END_TEST

START_TEST(options_of_another_age_are_understood_or_refused)
{
	struct {
		struct trims_open_options known;
		uint64_t future;
	} o = {.known = {.size = sizeof o}};
	trims_model *m;
	ck_assert_int_eq(trims_open(conn, "m0", &o.known, &m), 0);
	trims_close(&m);
	o.future = 1;
	ck_assert_int_eq(trims_open(conn, "m0", &o.known, &m), -TRIMS_E_UNSUPPORTED);
	o.known.size = offsetof(struct trims_open_options, timeout_ns); /* an older caller */
	o.known.timeout_ns = 1;
	ck_assert_int_eq(trims_open(conn, "m0", &o.known, &m), 0);
	trims_close(&m);
	o.known.size = 0;
	ck_assert_int_eq(trims_open(conn, "m0", &o.known, &m), -TRIMS_E_BAD_REQUEST);
	o.known = (struct trims_open_options){.size = sizeof o.known, .flags = 1u << 31};
	ck_assert_int_eq(trims_open(conn, "m0", &o.known, &m), -TRIMS_E_UNSUPPORTED);
}
END_TEST

static struct msg_open seen;

static bool keep_open(struct fake *f, int fd, struct msg *m)
{
	if (m->type == MSG_OPEN)
		seen = m->u.open;
	return fake_serve(f, fd, m);
}

START_TEST(options_reach_the_daemon)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_HOST,
		.flags = TRIMS_OPEN_NO_LOAD | TRIMS_OPEN_BACKGROUND, .timeout_ns = NS_PER_S * 77, .device = "GPU-1"};
	trims_model *m;
	fake.handle = keep_open;
	ck_assert_int_eq(trims_open(conn, "m0", &o, &m), 0);
	ck_assert_str_eq(seen.model, "m0");
	ck_assert_uint_eq(seen.tier, 2);
	ck_assert_uint_eq(seen.flags, 1);
	ck_assert_uint_eq(seen.class, 1);
	ck_assert_uint_eq(seen.deadline_ns, NS_PER_S * 77);
	ck_assert_str_eq(seen.device, "GPU-1");
	trims_close(&m);
}
END_TEST

START_TEST(files_are_mapped_until_close)
{
	const void *data, *again;
	size_t bytes;
	uint64_t fd_bytes;
	int fd;
	char text[32];
	trims_model *m = opened("m0", 0);
	ck_assert_int_eq(trims_file(m, "config.json", &data, &bytes), 0);
	ck_assert_uint_eq(bytes, 12);
	ck_assert_mem_eq(data, "{\"layers\":6}", 12);
	ck_assert_int_eq(trims_file(m, "config.json", &again, &bytes), 0);
	ck_assert_ptr_eq(data, again);
	ck_assert_int_eq(trims_file(m, "other", &data, &bytes), -TRIMS_E_NO_FILE);
	ck_assert_int_eq(trims_file_fd(m, "config.json", &fd, &fd_bytes), 0);
	ck_assert_uint_eq(fd_bytes, 12);
	ck_assert_int_eq(pread(fd, text, 12, 0), 12);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	trims_close(&m);
}
END_TEST

START_TEST(requests_of_tools_are_answered)
{
	char *json, text[TRIMS_MAX_TEXT], tiny[4];
	size_t bytes;
	uint64_t next;
	ck_assert_int_eq(trims_query(conn, TRIMS_REPORT_LS, NULL, 0, &json, &bytes, &next), 0);
	ck_assert_str_eq(json, "{\"a\":1}");
	ck_assert_uint_eq(bytes, 7);
	ck_assert_uint_eq(next, 7);
	free(json);
	ck_assert_int_eq(trims_verify(conn, "m0", &json, &bytes), 0);
	free(json);
	ck_assert_int_eq(trims_prefetch(conn, "m0", 2, NULL, NULL, text, sizeof text), 0);
	ck_assert(strstr(text, "PREFETCH") && strstr(text, "model=\"m0\" tier=2"));
	ck_assert_int_eq(trims_pin(conn, "m0", 0, NULL, text, sizeof text), 0);
	ck_assert(strstr(text, "PIN") && !strstr(text, "UNPIN"));
	ck_assert_int_eq(trims_unpin(conn, "m0", 0, NULL, text, sizeof text), 0);
	ck_assert_ptr_nonnull(strstr(text, "UNPIN"));
	ck_assert_int_eq(trims_evict(conn, "m0", 1, NULL, tiny, sizeof tiny), 0);
	ck_assert_str_eq(tiny, "EVI");
	ck_assert_int_eq(trims_prefetch(conn, "m0", TRIMS_TIER_GPU, "GPU-1", NULL, text, sizeof text), 0);
	ck_assert(strstr(text, "PREFETCH") && strstr(text, "tier=3 device=\"GPU-1\""));
	ck_assert_int_eq(trims_pin(conn, "m0", TRIMS_TIER_GPU, "GPU-2", text, sizeof text), 0);
	ck_assert(strstr(text, "PIN") && !strstr(text, "UNPIN") && strstr(text, "tier=3 device=\"GPU-2\""));
	ck_assert_int_eq(trims_unpin(conn, "m0", TRIMS_TIER_GPU, "GPU-3", text, sizeof text), 0);
	ck_assert(strstr(text, "UNPIN") && strstr(text, "tier=3 device=\"GPU-3\""));
	ck_assert_int_eq(trims_evict(conn, "m0", TRIMS_TIER_GPU, "GPU-4", text, sizeof text), 0);
	ck_assert(strstr(text, "EVICT") && strstr(text, "tier=3 device=\"GPU-4\""));
	char far[100];
	memset(far, 'x', sizeof far - 1);
	far[sizeof far - 1] = 0;
	ck_assert_int_eq(trims_evict(conn, "m0", TRIMS_TIER_GPU, far, NULL, 0), -TRIMS_E_BAD_REQUEST);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "UUID: xxx"));
}
END_TEST

static void *open_and_close(void *arg)
{
	uint64_t random = (uint64_t)(intptr_t)arg;
	for (int i = 0; i < 200; i++) {
		struct trims_open_options o = {.size = sizeof o, .timeout_ns = i % 3 ? NS_PER_S * 100 : 0};
		struct trims_tensor t;
		trims_model *m;
		if (trims_open(conn, unit_random(&random) % 2 ? "m0" : "m2", &o, &m))
			return (void *)(intptr_t)__LINE__;
		if (i % 2 && (trims_tensor(m, 0, &t) || (t.bytes && *(const uint8_t *)t.data != 0)))
			return (void *)(intptr_t)__LINE__;
		if (i % 16 == 0 && trims_pin(conn, "m0", 0, NULL, NULL, 0))
			return (void *)(intptr_t)__LINE__;
		trims_close(&m);
		if (i % 7 == 0 && trims_open(conn, "none", NULL, &m) != -TRIMS_E_NOT_FOUND)
			return (void *)(intptr_t)__LINE__;
	}
	return NULL;
}

START_TEST(eight_threads_share_a_connection)
{
	pthread_t thread[8];
	void *what;
	for (intptr_t i = 0; i < 8; i++)
		pthread_create(&thread[i], NULL, open_and_close, (void *)(i + 1));
	for (int i = 0; i < 8; i++) {
		pthread_join(thread[i], &what);
		ck_assert_msg(!what, "line %d", (int)(intptr_t)what);
	}
	settle();
	ck_assert_int_eq(fake.opens, 1600);
	ck_assert_int_eq(fake.closes, 1600);
}
END_TEST

START_TEST(a_forked_child_reads_but_says_nothing)
{
	struct trims_tensor t;
	trims_model *m = opened("m0", 0), *other;
	ck_assert_int_eq(trims_tensor(m, 5, &t), 0);
	pid_t child = fork();
	if (child == 0) {
		bool fine = *(const uint8_t *)t.data == 5 && trims_open(conn, "m2", NULL, &other) == -TRIMS_E_DISCONNECTED &&
			trims_check(conn) == -TRIMS_E_DISCONNECTED && trims_wait(m, 0) == 0;
		trims_close(&m);
		trims_disconnect(&conn);
		_exit(fine && !m && !conn ? 0 : 1);
	}
	int status;
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(trims_check(conn), 0);
	settle();
	ck_assert_int_eq(fake.leases, 1);
	trims_close(&m);
}
END_TEST

START_TEST(a_model_outlives_its_connection)
{
	struct trims_tensor t;
	trims_conn *other;
	trims_model *m;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &other), 0);
	ck_assert_int_eq(trims_open(other, "m0", NULL, &m), 0);
	ck_assert_int_eq(trims_tensor(m, 4, &t), 0);
	trims_disconnect(&other);
	check_tensor(&t, 4, 12);
	ck_assert_int_eq(trims_tensor(m, 6, &t), 0);
	check_tensor(&t, 6, 12);
	trims_close(&m);
	fake.leases = 0; /* the fake does not count what ends with a connection */
}
END_TEST

static void library(Suite *s)
{
	TCase *c = tcase_create("library");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, every_tensor_is_found_by_index_and_by_name);
	tcase_add_test(c, an_open_and_close_maps_nothing_and_leaks_nothing);
	tcase_add_test(c, the_same_copy_is_mapped_once);
	tcase_add_test(c, memory_is_unmapped_before_the_lease_goes_back);
	tcase_add_test(c, large_extents_lie_where_huge_pages_can);
	tcase_add_test(c, info_says_where_the_copy_is);
	tcase_add_test(c, a_tensor_is_there_when_its_watermark_is);
	tcase_add_test(c, open_returns_when_every_byte_is_there);
	tcase_add_test(c, waiters_sleep_until_they_are_woken);
	tcase_add_test(c, a_failed_load_says_why_to_everybody_and_keeps_what_had_come);
	tcase_add_test(c, an_open_that_takes_too_long_gives_its_lease_back);
	tcase_add_test(c, refusals_carry_code_scope_and_text);
	tcase_add_test(c, options_of_another_age_are_understood_or_refused);
	tcase_add_test(c, options_reach_the_daemon);
	tcase_add_test(c, files_are_mapped_until_close);
	tcase_add_test(c, requests_of_tools_are_answered);
	tcase_add_test(c, eight_threads_share_a_connection);
	tcase_add_test(c, a_forked_child_reads_but_says_nothing);
	tcase_add_test(c, a_model_outlives_its_connection);
	suite_add_tcase(s, c);
}

UNIT_MAIN("trims", library)
