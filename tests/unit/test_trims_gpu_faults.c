/* test_trims_gpu_faults.c - the GPU half of libtrims when things go wrong: every driver call that it makes fails once and
 * stalls once, wherever it is made; a daemon that sends nonsense about devices.
 * Whatever happens: every call comes back with a sentence or works, and in the end no device byte, descriptor, thread or
 * context is left that was not there before. */
#include "tests/unit/gpu_fixture.h"

/* Calls of one name in a scenario.  Which threads meet where does not depend on which of them fails. */
#ifdef UNIT_THREAD_SANITIZER
#define FAIL_AT_MOST 2
#else
#define FAIL_AT_MOST 24
#endif

static void setup_vmm(void)
{
	gpu_setup(GPU_HANDLE_VMM_FD);
}

static void setup_ipc(void)
{
	gpu_setup(GPU_HANDLE_CUDA_IPC);
}

static int try_open(const char *name, uint32_t flags, trims_model **out)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU, .flags = flags};
	*out = NULL;
	int r = trims_open(conn, name, &o, out);
	ck_assert((r == 0) == (*out != NULL));
	ck_assert(r == 0 || *trims_last_error()->text);
	return r;
}

/* What waits for a model must be done before that is closed. */
static void finish_stream(void)
{
	while (gpu.cu->ctx_push_current(gpu.ctx))
		;
	while (gpu.cu->stream_synchronize(NULL))
		;
	while (gpu.cu->ctx_pop_current(&(cu_context){0}))
		;
}

/* All that a client does with GPUs; each step may fail. */
static int live(void)
{
	trims_model *a, *b;
	uint8_t back[40];
	void *p;
	int failures = 0;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	failures += try_open("m0", 0, &a) != 0;
	failures += try_open("m1", TRIMS_OPEN_NO_WAIT, &b) != 0;
	if (a) {
		bool good = trims_read(a, 3, 0, back, sizeof back) == 0;
		ck_assert(!good || (back[0] == 3 && back[39] == 3));
		failures += !good + (trims_private(a, 1, &p) != 0);
	}
	atomic_store(&copies[1].p->state, PROGRESS_LOADING);
	atomic_store(&copies[1].p->watermark[0], 0);
	if (b) {
		/* Where the call itself has to wait somebody must land the bytes meanwhile: they are there. */
		fake_gpu_land(&copies[1], 0, 0, 10);
		failures += trims_wait_stream(b, 0, NULL) != 0;
		finish_stream();
	}
	trims_close(&a);
	trims_close(&b);
	trims_disconnect(&conn);
	return failures;
}

static const char *const names[] = {
#define CU(field, name, symbol, version, need, arguments) #name,
#include "shared/cuda.def"
};

/* How often the scenario calls each. */
static void count_calls(uint64_t calls[ARRAY_LEN(names)])
{
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		calls[i] = fake_gpu_calls(names[i]);
	gpu.slot = 0;
	ck_assert_int_eq(live(), 0);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		calls[i] = fake_gpu_calls(names[i]) - calls[i];
}

static void fail_each(const char *what)
{
	uint64_t calls[ARRAY_LEN(names)];
	unsigned failed = 0, tried = 0;
	count_calls(calls); /* without the loader's own questions, which are asked before there is a table */
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		for (unsigned k = 1; k <= MIN(calls[i], (uint64_t)FAIL_AT_MOST); k++) {
			char script[128];
			snprintf(script, sizeof script, "%s:%u=%s", names[i], k, what);
			fake_gpu_script(script);
			gpu.slot = 0;
			failed += live() != 0;
			tried++;
			fake_gpu_script("");
			gpu_check_clean(script);
		}
	}
	ck_assert_uint_gt(tried, 30);
	printf("# %u calls, %u were noticed\n", tried, failed);
	fflush(stdout);
	ck_assert(strstr(what, "stall") ? failed == 0 : failed > 10);
	ck_assert_int_eq(live(), 0);
}

START_TEST(every_call_fails_once)
{
	fail_each("2");
}
END_TEST

START_TEST(every_call_stalls_once)
{
	fail_each("stall:2");
}
END_TEST

/* ---- a daemon that sends nonsense ---- */

static _Atomic int nonsense; /* read by the daemon's thread */
#define KINDS 15

static void spoil_opened(struct msg_opened *o, struct gpu_handle *h)
{
	switch ((int)nonsense) {
	case 0:
		o->export = 3;
		break;
	case 1:
		o->export = GPU_HANDLE_CUDA_IPC;
		break;
	case 2:
		MSG_SET_STR(o->device, "GPU-none");
		break;
	case 3:
		o->slot = FAKE_GPU_SLOTS - 1;
		break;
	case 4:
		o->fds.n = 2;
		break;
	case 5:
		o->fds.n--;
		break;
	case 6:
		o->fds.fd[o->fds.n++] = gpu.copy[0].fd[0];
		break;
	case 7:
		h[0].bytes = 0;
		break;
	case 8:
		h[0].bytes = UINT64_MAX;
		break;
	case 9:
		h[0].bytes = UINT64_MAX / 2;
		h[1].bytes = UINT64_MAX / 2 + 2;
		break;
	case 10:
		h[1].kind = GPU_HANDLE_CUDA_IPC;
		break;
	case 11:
		h[0].bytes = 2 * FAKE_GPU_BYTES; /* more than the memory has */
		break;
	case 12:
		o->fds.fd[3] = gpu.page_fd; /* memory, but no device's */
		break;
	case 13:
		o->fds.fd[2] = gpu.page_fd; /* records of no whole number */
		break;
	default:
		o->slot = UINT32_MAX - 1;
	}
}

static bool talk_nonsense(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	struct gpu_handle h[8];
	if (m->type != MSG_OPEN)
		return fake_gpu_serve(f, fd, m);
	fake_gpu_opened(f, 1, m->request, &r);
	memcpy(h, gpu.copy[1].handle, sizeof h);
	spoil_opened(&r.u.opened, h);
	ck_assert_int_gt(pwrite(gpu.copy[1].records, h, 2 * sizeof h[0], 0), 0);
	f->leases++;
	fake_send(fd, &r);
	return true;
}

START_TEST(an_answer_that_makes_no_sense_is_refused_and_given_back)
{
	trims_model *m;
	fake.handle = talk_nonsense;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	for (nonsense = 0; nonsense < KINDS; nonsense++) {
		int r = try_open("m1", TRIMS_OPEN_NO_WAIT, &m);
		ck_assert_msg(r < 0, "nonsense %d", nonsense);
		if (nonsense < 11)
			ck_assert_msg(r == -TRIMS_E_PROTOCOL, "nonsense %d: %s", nonsense, trims_last_error()->text);
	}
	fake.handle = fake_gpu_serve;
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.leases, 0);
	ck_assert_int_eq(trims_check(conn), 0);
	trims_disconnect(&conn);
	gpu_check_clean("nonsense");
}
END_TEST

static bool talk_strangely(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type != MSG_VERDICT)
		return fake_gpu_serve(f, fd, m);
	msg_init(&r, MSG_ATTACHED, m->request);
	r.u.attached.export = gpu.kind;
	r.u.attached.slots = nonsense == 0 ? 0 : nonsense == 1 ? FAKE_GPU_SLOTS + 513 : nonsense == 2 ? UINT32_MAX : 1;
	r.u.attached.fds = (struct msg_fds){.n = nonsense < 3, .fd = {gpu.page_fd}};
	fake_send(fd, &r);
	return true;
}

START_TEST(a_session_page_that_makes_no_sense_is_refused_and_asked_for_again)
{
	trims_model *m;
	for (nonsense = 0; nonsense < 4; nonsense++) {
		fake.handle = talk_strangely;
		ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
		ck_assert_int_eq(try_open("m0", 0, &m), -TRIMS_E_PROTOCOL);
		fake.handle = fake_gpu_serve;
		ck_assert_int_eq(try_open("m0", 0, &m), 0);
		trims_close(&m);
		trims_disconnect(&conn);
		gpu_check_clean("page");
	}
	ck_assert_int_eq(gpu.attaches, 2 * nonsense);
}
END_TEST

static uint32_t who_waits(void)
{
	struct trims_info info = {.size = sizeof info};
	trims_model *m;
	gpu.slot = 0;
	ck_assert_int_eq(try_open("m1", TRIMS_OPEN_NO_WAIT, &m), 0);
	ck_assert_int_eq(trims_info(m, &info), 0);
	ck_assert(info.stream_wait == TRIMS_STREAM_WAIT_GPU || strstr(info.note, "cuMemHostRegister"));
	trims_close(&m);
	return info.stream_wait;
}

START_TEST(a_page_that_cannot_be_registered_is_tried_again_a_few_times)
{
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	fake_gpu_script("cuMemHostRegister_v2:1=2");
	ck_assert_uint_eq(who_waits(), TRIMS_STREAM_WAIT_CPU);
	ck_assert_uint_eq(who_waits(), TRIMS_STREAM_WAIT_GPU);
	trims_disconnect(&conn);
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	fake_gpu_script("cuMemHostRegister_v2:*=2");
	uint64_t before = fake_gpu_calls("cuMemHostRegister_v2");
	for (int i = 0; i < 10; i++)
		ck_assert_uint_eq(who_waits(), TRIMS_STREAM_WAIT_CPU);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostRegister_v2"), before + 3);
	fake_gpu_script("");
	trims_disconnect(&conn);
	gpu_check_clean("registration");
}
END_TEST

/* A canary of the wrong bytes, size, place or number; the client says what is wrong and goes on without a GPU. */
static bool bad_canary(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type != MSG_ATTACH)
		return fake_gpu_serve(f, fd, m);
	msg_init(&r, MSG_CANARY, m->request);
	r.u.canary.export = gpu.kind;
	r.u.canary.bytes = nonsense == 0 ? 0 : nonsense == 1 ? 12 : nonsense == 2 ? 4 * FAKE_GPU_BYTES : FAKE_GPU_BYTES;
	r.u.canary.seed = FAKE_GPU_SEED + (nonsense == 3);
	MSG_SET_STR(r.u.canary.device, nonsense == 4 ? "GPU-none" : gpu.uuid);
	r.u.canary.fds = (struct msg_fds){.n = nonsense == 5 ? 1 : 2, .fd = {gpu.canary.records, gpu.canary.fd[0]}};
	if (nonsense == 6)
		r.u.canary.fds.fd[1] = gpu.page_fd;
	fake_send(fd, &r);
	return true;
}

START_TEST(a_canary_that_is_not_right_is_told_in_words)
{
	static const char *const says[] = {"makes no sense", "makes no sense", "shorter", "instead of", "GPU-none",
		"make no sense", "CUDA_ERROR"};
	trims_model *m;
	fake.handle = bad_canary;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	for (nonsense = 0; nonsense < (int)ARRAY_LEN(says); nonsense++) {
		ck_assert_int_eq(try_open("m0", 0, &m), -TRIMS_E_UNSUPPORTED);
		ck_assert_msg(strstr(gpu.text, says[nonsense]), "%d: %s", nonsense, gpu.text);
	}
	fake.handle = fake_gpu_serve;
	ck_assert_int_eq(try_open("m0", 0, &m), 0);
	trims_close(&m);
	trims_disconnect(&conn);
	gpu_check_clean("canary");
}
END_TEST

static bool mute_attach(struct fake *f, int fd, struct msg *m)
{
	return m->type == MSG_ATTACH ? true : fake_gpu_serve(f, fd, m);
}

START_TEST(a_daemon_that_does_not_answer_is_not_waited_for)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU, .timeout_ns = NS_PER_MS};
	trims_model *m = NULL;
	fake.handle = mute_attach;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	ck_assert_int_eq(trims_open(conn, "m0", &o, &m), -TRIMS_E_TIMED_OUT);
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.cancels, 1);
	trims_disconnect(&conn);
	gpu_check_clean("silence");
}
END_TEST

static bool open_unasked(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type != MSG_OPEN)
		return fake_gpu_serve(f, fd, m);
	fake_gpu_opened(f, 0, m->request, &r);
	f->leases++;
	fake_send(fd, &r);
	return true;
}

START_TEST(a_model_on_a_gpu_that_nobody_asked_for_is_given_back)
{
	trims_model *m = NULL;
	fake.handle = open_unasked;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	ck_assert_int_eq(trims_open(conn, "m0", NULL, &m), -TRIMS_E_PROTOCOL);
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.leases, 0);
	trims_disconnect(&conn);
}
END_TEST

static void faults(Suite *s)
{
	TCase *c = tcase_create("vmm-fd"), *d = tcase_create("cuda-ipc");
	tcase_add_checked_fixture(c, setup_vmm, gpu_teardown);
	tcase_add_test(c, every_call_fails_once);
	tcase_add_test(c, every_call_stalls_once);
	tcase_add_test(c, an_answer_that_makes_no_sense_is_refused_and_given_back);
	tcase_add_test(c, a_session_page_that_makes_no_sense_is_refused_and_asked_for_again);
	tcase_add_test(c, a_page_that_cannot_be_registered_is_tried_again_a_few_times);
	tcase_add_test(c, a_canary_that_is_not_right_is_told_in_words);
	tcase_add_test(c, a_daemon_that_does_not_answer_is_not_waited_for);
	tcase_add_test(c, a_model_on_a_gpu_that_nobody_asked_for_is_given_back);
	suite_add_tcase(s, c);
	tcase_add_checked_fixture(d, setup_ipc, gpu_teardown);
	tcase_add_test(d, every_call_fails_once);
	suite_add_tcase(s, d);
}

UNIT_MAIN("trims_gpu_faults", faults)
