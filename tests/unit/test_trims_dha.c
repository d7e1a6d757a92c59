/* test_trims_dha.c - plans, and tensors that a copy on a GPU does not have: the library reads them where the host tier has them.
 * Every test ends with the device bytes, descriptors, leases and registrations it began with.
 *
 * The model has eight tensors of 3 MiB (t7 is empty) in two extents.  Its copy on the device is made of pieces, not in the
 * order of places: of extent 0 [4, 6), [0, 4) and [10, 12) MiB, of extent 1 [4, 12): t0 and t1 (which lies in two pieces), t6
 * and t7 are there, t2 to t5 are not, and two of those have bytes in a piece all the same. */
#include "client/trims.h"

#include "shared/plan_wire.h"
#include "tests/unit/fake_gpu.h"
#include "tests/unit/unit.h"

#define TENSORS 8
#define STRIDE (3 * MIB)
#define BYTES (STRIDE - 1000)
#define REGISTERS "attr:READ_ONLY_REGISTER=1"

static struct fake fake;
static struct fake_copy copy, host; /* m0, on the device and on the host */
static trims_conn *conn;
static unsigned fds_before;
static uint64_t free_before;
static cu_ptr scratch;
static unsigned refused; /* registrations, as the test expects */

static bool is_missing(uint32_t tensor)
{
	return tensor >= 2 && tensor <= 5;
}

static void setup_of(uint32_t kind)
{
	fake_gpu_driver_setup();
	fake_copy_init_wide(&host, 401, 2, 4, STRIDE, BYTES, NULL);
	fake_copy_init_wide(&copy, 400, 2, 4, STRIDE, BYTES, &host);
	fake_piece_add(&copy, 0, 4 * MIB, 2 * MIB);
	fake_piece_add(&copy, 0, 0, 4 * MIB);
	fake_piece_add(&copy, 1, 4 * MIB, 8 * MIB);
	fake_piece_add(&copy, 0, 10 * MIB, 2 * MIB);
	copy.version = host.version = 900;
	fake_gpu_init(kind, &copy, 1);
	refused = 0;
	fake = (struct fake){0};
	fake_start(&fake, fake_gpu_serve, &copy, 1);
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->mem_alloc(&scratch, STRIDE));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	free_before = fake_gpu_free_bytes();
	fds_before = open_fds();
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}

static void setup_vmm(void)
{
	setup_of(GPU_HANDLE_VMM_FD);
}

static void setup_ipc(void)
{
	setup_of(GPU_HANDLE_CUDA_IPC);
}

/* All that models had is given back; connections are not looked at. */
static void check_clean(const char *after)
{
	cu_context ctx = NULL;
	FAKE_CU(gpu.cu->ctx_get_current(&ctx));
	ck_assert_msg(!ctx, "%s: a context is current", after);
	ck_assert_msg(fake_gpu_free_bytes() == free_before, "%s: %" PRIu64 " device bytes are left", after,
		free_before - fake_gpu_free_bytes());
}

static void teardown(void)
{
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0); /* CLOSE has been read */
	ck_assert_int_eq(fake.leases, 0);
	trims_disconnect(&conn);
	check_clean("the test");
	/* Registrations: the session page's is gone with the connection. */
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostUnregister") + refused,
		fake_gpu_calls("cuMemHostRegister"));
	fake_stop(&fake);
	ck_assert_uint_eq(open_fds(), fds_before - 2); /* the listener and the event */
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->mem_free(scratch));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	fake_gpu_fini(1);
	fake_copy_fini(&copy);
	fake_copy_fini(&host);
	fake_gpu_driver_teardown();
}

static int try_open(const struct trims_plan *plan, uint32_t flags, trims_model **out)
{
	struct trims_open_options o = {.size = sizeof o, .tier = TRIMS_TIER_GPU, .flags = flags, .plan = plan};
	*out = NULL;
	return trims_open(conn, "m0", &o, out);
}

static trims_model *opened(uint32_t flags)
{
	trims_model *m;
	ck_assert_msg(try_open(NULL, flags, &m) == 0, "%s", trims_last_error()->text);
	return m;
}

static void all_ready(void)
{
	fake_ready(&copy);
	fake_ready(&host);
}

static struct trims_info info_of(trims_model *m)
{
	struct trims_info info = {.size = sizeof info};
	ck_assert_int_eq(trims_info(m, &info), 0);
	return info;
}

static uint32_t place_of(trims_model *m, uint32_t i)
{
	struct trims_tensor t;
	ck_assert_msg(trims_tensor(m, i, &t) == 0, "%s", trims_last_error()->text);
	return t.place;
}

static void check_all(const uint8_t *bytes, uint64_t n, uint32_t tensor, const char *where)
{
	uint64_t i = 0;
	if (n && (bytes[0] != tensor || memcmp(bytes, bytes + 1, n - 1)))
		while (bytes[i] == tensor)
			i++;
	ck_assert_msg(i == 0 && (!n || bytes[0] == tensor), "t%u: byte %" PRIu64 " is %u %s", tensor, i, bytes[i], where);
}

/* What the device reads at the tensor's address, and what the CPU is given. */
static void check_tensor(trims_model *m, uint32_t i)
{
	struct trims_tensor t;
	uint8_t *back = malloc(STRIDE);
	ck_assert_int_eq(trims_tensor(m, i, &t), 0);
	ck_assert_uint_eq((uintptr_t)t.data % 256, 0);
	ck_assert_uint_eq(t.bytes, i == TENSORS - 1 ? 0 : BYTES);
	memset(back, 0xee, STRIDE);
	if (t.bytes) {
		FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
		FAKE_CU(gpu.cu->memset_d8(scratch, 0xdd, STRIDE));
		FAKE_CU(gpu.cu->memcpy_dtod(scratch, (uintptr_t)t.data, t.bytes));
		FAKE_CU(gpu.cu->memcpy_dtoh(back, scratch, t.bytes));
		FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	}
	check_all(back, t.bytes, i, "on the device");
	ck_assert_int_eq(trims_read(m, i, 0, back, t.bytes), 0);
	check_all(back, t.bytes, i, "when read");
	free(back);
}

static void check_bytes(trims_model *m)
{
	for (uint32_t i = 0; i < TENSORS; i++)
		check_tensor(m, i);
}

struct stream {
	cu_stream s;
	uint8_t *got; /* pinned: a copy to other memory would wait by itself */
};

/* A stream that copies a tensor's last byte behind what it is made to wait for. */
static void stream_begin(struct stream *s, trims_model *m, uint32_t index)
{
	struct trims_tensor t;
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->mem_host_alloc((void **)&s->got, 1, 0));
	*s->got = 0xee;
	FAKE_CU(gpu.cu->stream_create(&s->s, CU_STREAM_NO_NULL_SYNC));
	ck_assert_int_eq(trims_tensor(m, index, &t), 0);
	ck_assert_msg(trims_wait_stream(m, index, s->s) == 0, "%s", trims_last_error()->text);
	FAKE_CU(gpu.cu->memcpy_dtoh_async(s->got, (uintptr_t)t.data + t.bytes - 1, 1, s->s));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
}

static cu_result stream_look(struct stream *s)
{
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	cu_result r = gpu.cu->stream_query(s->s);
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	return r;
}

static uint8_t stream_end(struct stream *s)
{
	FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
	FAKE_CU(gpu.cu->stream_synchronize(s->s));
	FAKE_CU(gpu.cu->stream_destroy(s->s));
	uint8_t got = *s->got;
	FAKE_CU(gpu.cu->mem_free_host(s->got));
	FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
	return got;
}

/* ---- where tensors are ---- */

START_TEST(what_the_device_has_not_is_read_where_the_host_has_it)
{
	all_ready();
	fake_gpu_script(REGISTERS);
	trims_model *m = opened(0);
	ck_assert_int_eq(fake.opens, 2);
	for (uint32_t i = 0; i < TENSORS; i++)
		ck_assert_uint_eq(place_of(m, i), is_missing(i) ? TRIMS_PLACE_HOST_DIRECT : TRIMS_PLACE_LOCAL);
	check_bytes(m);
	struct trims_info info = info_of(m);
	ck_assert_uint_eq(info.hit, 1);
	ck_assert_uint_eq(info.leased, 1);
	ck_assert_uint_eq(info.copy, 400);
	ck_assert_uint_eq(info.image_bytes, 24 * MIB);
	ck_assert_uint_eq(info.device_bytes, 16 * MIB);
	ck_assert_uint_eq(info.direct_tensors, 4);
	ck_assert_uint_eq(info.direct_bytes, 4 * BYTES);
	ck_assert_uint_eq(info.staged_tensors, 0);
	ck_assert_uint_eq(info.stream_wait, TRIMS_STREAM_WAIT_NONE);
	ck_assert_str_eq(info.place_note, "");
	ck_assert_int_eq(trims_wait_stream(m, TRIMS_ALL_TENSORS, NULL), 0);
	trims_close(&m);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostRegister"), 2); /* a run in each extent */
}
END_TEST

START_TEST(where_devices_see_host_memory_elsewhere_their_address_is_given)
{
	struct trims_tensor t;
	all_ready();
	fake_gpu_script(REGISTERS ",attr:SAME_HOST_POINTER=0");
	trims_model *m = opened(0);
	check_bytes(m);
	ck_assert_int_eq(trims_tensor(m, 3, &t), 0);
	ck_assert_uint_eq(t.place, TRIMS_PLACE_HOST_DIRECT);
	ck_assert_uint_ne((uintptr_t)t.data >> 47, 0); /* no address of this process */
	trims_close(&m);
}
END_TEST

START_TEST(what_cannot_be_registered_is_staged_and_says_why)
{
	all_ready();
	trims_model *m = opened(0);
	for (uint32_t i = 0; i < TENSORS; i++)
		ck_assert_uint_eq(place_of(m, i), is_missing(i) ? TRIMS_PLACE_STAGED : TRIMS_PLACE_LOCAL);
	check_bytes(m);
	struct trims_info info = info_of(m);
	ck_assert_uint_eq(info.hit, 1);
	ck_assert_uint_eq(info.staged_tensors, 4);
	ck_assert_uint_eq(info.staged_bytes, 4 * BYTES);
	ck_assert_uint_eq(info.direct_tensors, 0);
	ck_assert_ptr_eq(strstr(info.place_note, "dha-staged: "), info.place_note);
	ck_assert_ptr_nonnull(strstr(info.place_note, "113"));
	ck_assert_uint_eq(fake_gpu_free_bytes(), free_before - 12 * MIB);
	trims_close(&m);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostRegister"), 0); /* it was not even tried */
}
END_TEST

START_TEST(a_run_that_is_refused_is_staged_beside_one_that_is_not)
{
	all_ready();
	fake_gpu_script(REGISTERS ",cuMemHostRegister:1=712");
	trims_model *m = opened(0);
	ck_assert_uint_eq(place_of(m, 2), TRIMS_PLACE_STAGED);
	ck_assert_uint_eq(place_of(m, 3), TRIMS_PLACE_STAGED);
	ck_assert_uint_eq(place_of(m, 4), TRIMS_PLACE_HOST_DIRECT);
	check_bytes(m);
	ck_assert_ptr_nonnull(strstr(info_of(m).place_note, "HOST_MEMORY_ALREADY_REGISTERED"));
	ck_assert_uint_eq(info_of(m).staged_tensors, 2);
	ck_assert_uint_eq(info_of(m).direct_tensors, 2);
	trims_close(&m);
	refused = 1;
}
END_TEST

START_TEST(models_share_what_is_registered)
{
	all_ready();
	fake_gpu_script(REGISTERS);
	trims_model *a = opened(0), *b = opened(0);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostRegister"), 2);
	trims_close(&a);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostUnregister"), 0);
	check_bytes(b);
	trims_close(&b);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostUnregister"), 2);
}
END_TEST

/* A plan may leave all of it on the host: the device has no piece, and the records are empty. */
static bool open_without_pieces(struct fake *f, int fd, struct msg *m)
{
	struct msg r;
	if (m->type != MSG_OPEN || m->u.open.tier != 3)
		return fake_gpu_serve(f, fd, m);
	int empty = memfd_create("fake-records", MFD_CLOEXEC);
	fake_gpu_opened(f, 0, m->request, &r);
	r.u.opened.fds.n = 3;
	r.u.opened.fds.fd[2] = empty;
	f->leases++;
	fake_send(fd, &r);
	close(empty);
	return true;
}

START_TEST(a_copy_may_have_nothing_on_the_device)
{
	struct stream s;
	copy.p->extents = 0;
	fake_ready(&host);
	fake.handle = open_without_pieces;
	fake_gpu_script(REGISTERS);
	trims_model *m = opened(TRIMS_OPEN_NO_WAIT);
	for (uint32_t i = 0; i < TENSORS - 1; i++)
		ck_assert_uint_eq(place_of(m, i), TRIMS_PLACE_HOST_DIRECT);
	ck_assert_uint_eq(info_of(m).device_bytes, 0);
	ck_assert_uint_eq(fake_gpu_calls("cuMemHostRegister"), 1 + 2); /* the session page, and a run in each extent */
	stream_begin(&s, m, 6);
	ck_assert_uint_eq(stream_end(&s), 6);
	ck_assert_int_eq(trims_wait(m, 0), 0);
	check_bytes(m);
	trims_close(&m);
}
END_TEST

/* Handles have addresses of their own: a tensor that lies in two of them has none. */
START_TEST(across_two_ipc_handles_a_tensor_is_not_there)
{
	all_ready();
	fake_gpu_script(REGISTERS);
	trims_model *m = opened(0);
	ck_assert_uint_eq(place_of(m, 0), TRIMS_PLACE_LOCAL);
	ck_assert_uint_eq(place_of(m, 1), TRIMS_PLACE_HOST_DIRECT);
	ck_assert_uint_eq(place_of(m, 6), TRIMS_PLACE_LOCAL);
	check_bytes(m);
	trims_close(&m);
}
END_TEST

START_TEST(a_private_copy_comes_from_wherever_the_tensor_is)
{
	void *p;
	uint8_t byte = 0;
	all_ready();
	for (int registers = 0; registers < 2; registers++) {
		fake_gpu_script(registers ? REGISTERS : "");
		trims_model *m = opened(0);
		for (uint32_t i = 0; i < TENSORS - 1; i++) {
			ck_assert_int_eq(trims_private(m, i, &p), 0);
			FAKE_CU(gpu.cu->ctx_push_current(gpu.ctx));
			FAKE_CU(gpu.cu->memcpy_dtoh(&byte, (uintptr_t)p + BYTES - 1, 1));
			ck_assert_uint_eq(byte, i);
			FAKE_CU(gpu.cu->memset_d8((uintptr_t)p, 0x77, 1));
			FAKE_CU(gpu.cu->ctx_pop_current(&(cu_context){0}));
		}
		check_bytes(m);
		trims_close(&m);
	}
}
END_TEST

/* ---- while bytes arrive ---- */

START_TEST(a_tensor_in_two_pieces_waits_for_both)
{
	struct stream s;
	fake_gpu_script(REGISTERS);
	fake_ready(&host);
	trims_model *m = opened(TRIMS_OPEN_NO_WAIT);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), -TRIMS_E_TIMED_OUT);
	stream_begin(&s, m, 1);                       /* [3, 6) MiB: pieces 1 and 0 */
	fake_gpu_land(&copy, 0, 0, 2 * MIB);
	ck_assert_int_eq(stream_look(&s), CU_E_NOT_READY);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), -TRIMS_E_TIMED_OUT);
	fake_gpu_land(&copy, 0, 1, 3 * MIB);
	ck_assert_int_eq(trims_wait_tensor(m, 0, 0), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), -TRIMS_E_TIMED_OUT);
	fake_gpu_land(&copy, 0, 1, 4 * MIB);
	ck_assert_uint_eq(stream_end(&s), 1);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), 0);
	check_tensor(m, 1);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_TIMED_OUT);
	fake_gpu_land(&copy, 0, 2, 8 * MIB);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_TIMED_OUT);
	fake_gpu_land(&copy, 0, 3, 2 * MIB);
	ck_assert_int_eq(trims_wait(m, 0), 0);
	check_bytes(m);
	trims_close(&m);
}
END_TEST

static void *land_on_host(void *arg)
{
	fake_land(&host, 0, 12 * MIB);
	fake_land(&host, 1, 12 * MIB);
	return NULL;
}

/* Registered, and staged: there a wait also brings it to the device. */
START_TEST(what_is_on_the_host_is_waited_for_there)
{
	struct trims_progress p;
	pthread_t thread;
	struct stream s;
	fake_gpu_script(_i ? REGISTERS : "");
	fake_ready(&copy);
	trims_model *m = opened(TRIMS_OPEN_NO_WAIT);
	ck_assert_uint_eq(info_of(m).hit, 0);
	ck_assert_uint_eq(info_of(m).stream_wait, TRIMS_STREAM_WAIT_CPU);
	ck_assert_ptr_nonnull(strstr(info_of(m).note, "wait-on-cpu"));
	check_tensor(m, 1);
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), 0);
	ck_assert_int_eq(trims_wait_stream(m, 0, NULL), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), -TRIMS_E_TIMED_OUT);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_TIMED_OUT);
	fake_land(&host, 0, 9 * MIB);
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), 0);
	check_tensor(m, 2);
	ck_assert_int_eq(trims_wait_tensor(m, 3, 0), -TRIMS_E_TIMED_OUT);
	ck_assert_int_eq(trims_progress(m, &p), 0);
	ck_assert_uint_eq(p.state, TRIMS_STATE_LOADING);
	pthread_create(&thread, NULL, land_on_host, NULL);
	stream_begin(&s, m, 3);
	ck_assert_uint_eq(stream_end(&s), 3);
	pthread_join(thread, NULL);
	ck_assert_int_eq(trims_wait_stream(m, TRIMS_ALL_TENSORS, NULL), 0);
	check_bytes(m);
	ck_assert_int_eq(trims_progress(m, &p), 0);
	ck_assert_uint_eq(p.state, TRIMS_STATE_READY);
	trims_close(&m);
}
END_TEST

START_TEST(a_load_that_fails_on_the_host_fails_what_is_there_alone)
{
	struct trims_progress p;
	trims_model *m;
	fake_ready(&copy);
	m = opened(TRIMS_OPEN_NO_WAIT);
	fake_poison(&host, TRIMS_E_MISMATCH, "chunk 1 does not match");
	ck_assert_int_eq(trims_wait_tensor(m, 1, 0), 0);
	ck_assert_int_eq(trims_wait_tensor(m, 2, 0), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_wait_stream(m, 2, NULL), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_wait_stream(m, TRIMS_ALL_TENSORS, NULL), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_wait(m, 0), -TRIMS_E_MISMATCH);
	ck_assert_int_eq(trims_progress(m, &p), 0);
	ck_assert_uint_eq(p.state, TRIMS_STATE_FAILED);
	ck_assert_uint_eq(p.error, TRIMS_E_MISMATCH);
	trims_close(&m);
	ck_assert_int_eq(try_open(NULL, 0, &m), -TRIMS_E_MISMATCH);
}
END_TEST

/* ---- two tiers, one version ---- */

static _Atomic int versions_ahead; /* so many opens of the host tier find another version */

static bool change_versions(struct fake *f, int fd, struct msg *m)
{
	if (m->type == MSG_OPEN && m->u.open.tier == 2) {
		host.version = versions_ahead > 0 ? 901 : 900;
		versions_ahead--;
	}
	return fake_gpu_serve(f, fd, m);
}

START_TEST(a_version_that_changes_between_the_tiers_is_opened_again)
{
	trims_model *m;
	all_ready();
	fake.handle = change_versions;
	versions_ahead = 2;
	m = opened(0);
	ck_assert_int_eq(fake.opens, 6);
	ck_assert_int_eq(fake.leases, 2);
	check_bytes(m);
	trims_close(&m);
	versions_ahead = 99;
	ck_assert_int_eq(try_open(NULL, TRIMS_OPEN_NO_WAIT, &m), -TRIMS_E_CHANGED);
	ck_assert_int_eq(fake.opens, 12);
	check_clean("a changing version");
}
END_TEST

static bool refuse_host(struct fake *f, int fd, struct msg *m)
{
	if (m->type != MSG_OPEN || m->u.open.tier != 2)
		return fake_gpu_serve(f, fd, m);
	fake_fault(fd, m->request, TRIMS_E_NO_ROOM, "the tier is full");
	return true;
}

START_TEST(without_the_host_there_is_no_model)
{
	trims_model *m;
	all_ready();
	fake.handle = refuse_host;
	ck_assert_int_eq(try_open(NULL, 0, &m), -TRIMS_E_NO_ROOM);
	ck_assert_int_eq(trims_pin(conn, "x", 0, NULL, NULL, 0), 0);
	ck_assert_int_eq(fake.leases, 0);
	check_clean("a refused host");
}
END_TEST

START_TEST(a_host_copy_of_another_shape_is_refused)
{
	trims_model *m;
	all_ready();
	host.t->n_extents = 1;
	host.t->image_bytes = host.image_bytes = host.p->image_bytes = 12 * MIB;
	host.n_extents = 1;
	ck_assert_int_eq(try_open(NULL, 0, &m), -TRIMS_E_PROTOCOL);
	host.n_extents = 2;
}
END_TEST

START_TEST(both_leases_are_claimed_from_a_daemon_come_back)
{
	all_ready();
	trims_model *m = opened(0);
	fake_stop(&fake);
	fake.leases = 0;
	gpu.keeps = true;
	fake_start(&fake, fake_gpu_serve, &copy, 1);
	ck_assert_uint_eq(info_of(m).leased, 0);
	ck_assert_int_eq(trims_reconnect(conn), 0);
	ck_assert_int_eq(gpu.claims, 2);
	ck_assert_uint_eq(info_of(m).leased, 1);
	check_bytes(m);
	trims_close(&m);
}
END_TEST

/* ---- pieces that make no sense ---- */

static _Atomic int nonsense;
#define KINDS 6

static bool talk_nonsense(struct fake *f, int fd, struct msg *m)
{
	struct gpu_handle h[FAKE_PIECES_MAX];
	if (m->type != MSG_OPEN || m->u.open.tier != 3)
		return fake_gpu_serve(f, fd, m);
	memcpy(h, gpu.copy[0].handle, sizeof h);
	switch ((int)nonsense) {
	case 0:
		h[1].offset = 4 * MIB; /* where the first one is */
		break;
	case 1:
		h[1].offset = 2 * MIB; /* it reaches into the first one */
		break;
	case 2:
		h[0].extent = PROGRESS_MAX_EXTENTS;
		break;
	case 3:
		h[0].used = h[0].bytes + 1;
		break;
	case 4:
		h[0].offset = UINT64_MAX - 4 * MIB + 1;
		break;
	default:
		h[3].offset = (uint64_t)1 << 46; /* no space of addresses is so large */
	}
	ck_assert_int_gt(pwrite(gpu.copy[0].records, h, 4 * sizeof h[0], 0), 0);
	return fake_gpu_serve(f, fd, m);
}

START_TEST(pieces_that_make_no_sense_are_refused)
{
	trims_model *m;
	all_ready();
	fake.handle = talk_nonsense;
	for (nonsense = 0; nonsense < KINDS; nonsense++)
		ck_assert_msg(try_open(NULL, 0, &m) == -TRIMS_E_PROTOCOL, "nonsense %d", nonsense);
	ck_assert_int_eq(trims_check(conn), 0);
	check_clean("nonsense");
}
END_TEST

/* ---- plans go out ---- */

static struct {
	uint32_t n;
	off_t bytes;
	struct plan_head head;
	struct plan_entry entry[4];
	int seals;
} heard; /* with the last OPEN of tier gpu */

static bool hear_plan(struct fake *f, int fd, struct msg *m)
{
	if (m->type == MSG_OPEN && m->u.open.tier == 3) {
		int plan = m->u.open.plan.n ? m->u.open.plan.fd[0] : -1;
		heard.n = m->u.open.plan.n;
		heard.bytes = plan < 0 ? 0 : lseek(plan, 0, SEEK_END);
		heard.seals = plan < 0 ? 0 : fcntl(plan, F_GET_SEALS);
		ck_assert(plan < 0 || pread(plan, &heard.head, sizeof heard.head, 0) == sizeof heard.head);
		ck_assert(plan < 0 || pread(plan, heard.entry, sizeof heard.entry, sizeof heard.head) >= 0);
	} else if (m->type == MSG_OPEN) {
		ck_assert_uint_eq(m->u.open.plan.n, 0);
	}
	return fake_gpu_serve(f, fd, m);
}

START_TEST(a_plan_goes_out_as_it_is)
{
	static const char *const helpers[] = {"GPU-00000000-1111-2222-3333-444444444444"};
	const struct trims_plan_entry entries[] = {{.tensor = 2, .place = TRIMS_PLAN_HOST, .step = 7},
		{.tensor = 0, .link = 1, .step = 8}};
	const struct trims_plan plan = {.size = sizeof plan, .entries = entries, .n_entries = 2, .n_helpers = 1,
		.helpers = helpers, .keep_bytes = 5 * MIB, .dha_bytes_per_s = 1000000};
	struct fault why;
	trims_model *m;
	all_ready();
	fake.handle = hear_plan;
	ck_assert_msg(try_open(&plan, 0, &m) == 0, "%s", trims_last_error()->text);
	ck_assert_uint_eq(heard.n, 1);
	ck_assert_uint_eq((uint64_t)heard.bytes, sizeof(struct plan_head) + 2 * sizeof(struct plan_entry));
	ck_assert_int_eq(heard.seals & (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK);
	ck_assert_int_eq(plan_check(&heard.head, (uint64_t)heard.bytes, TENSORS, &why), 0);
	ck_assert_uint_eq(heard.head.keep_bytes, 5 * MIB);
	ck_assert_uint_eq(heard.head.dha_bytes_per_s, 1000000);
	ck_assert_str_eq(heard.head.helper[0], helpers[0]);
	ck_assert_uint_eq(heard.entry[0].tensor, 2);
	ck_assert_uint_eq(heard.entry[0].place, PLAN_PLACE_DHA);
	ck_assert_uint_eq(heard.entry[0].step, 7);
	ck_assert_uint_eq(heard.entry[1].tensor, 0);
	ck_assert_uint_eq(heard.entry[1].link, 1);
	trims_close(&m);
	m = opened(0);
	ck_assert_uint_eq(heard.n, 0);
	trims_close(&m);
}
END_TEST

static int try_plan(const struct trims_plan *plan, uint32_t tier)
{
	struct trims_open_options o = {.size = sizeof o, .tier = tier, .plan = plan};
	trims_model *m = NULL;
	int r = trims_open(conn, "m0", &o, &m);
	trims_close(&m);
	return r;
}

START_TEST(a_plan_that_makes_no_sense_is_refused_here)
{
	static const char *const helpers[] = {"GPU-00000000-1111-2222-3333-444444444444-and-more"};
	struct trims_plan_entry entries[] = {{.tensor = 1}, {.tensor = 2}};
	struct trims_plan plan = {.size = sizeof plan, .entries = entries, .n_entries = 2};
	all_ready();
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_DISK), -TRIMS_E_BAD_REQUEST);
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_ANY), -TRIMS_E_BAD_REQUEST);
	int opens = fake.opens;
	entries[1].tensor = 1;
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	ck_assert_ptr_nonnull(strstr(trims_last_error()->text, "twice"));
	entries[1] = (struct trims_plan_entry){.tensor = 2, .place = 2};
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	entries[1] = (struct trims_plan_entry){.tensor = 2, .link = 1};
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	entries[1] = (struct trims_plan_entry){.tensor = 2};
	plan.n_helpers = 1;
	plan.helpers = helpers;
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	plan.n_helpers = TRIMS_PLAN_MAX_HELPERS + 1;
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	plan.n_helpers = 0;
	plan.n_entries = TRIMS_PLAN_MAX_ENTRIES + 1;
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	plan.n_entries = 2;
	plan.size = 1;
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), -TRIMS_E_BAD_REQUEST);
	ck_assert_int_eq(fake.opens, opens);
	plan.size = sizeof plan;
	ck_assert_int_eq(try_plan(&plan, TRIMS_TIER_GPU), 0);
}
END_TEST

/* ---- every call fails ---- */

static const char *const names[] = {
#define CU(field, name, symbol, version, need, arguments) #name,
#include "shared/cuda.def"
};

/* Opens, uses and closes; each step may fail, but what is given is right. */
static int live(void)
{
	trims_model *m;
	uint8_t byte = 0xee;
	void *p;
	int failures = 0;
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
	if (try_open(NULL, 0, &m)) {
		ck_assert(*trims_last_error()->text);
		failures++;
	} else {
		ck_assert_int_eq(trims_read(m, 3, 0, &byte, 1), 0);
		ck_assert_uint_eq(byte, 3);
		failures += trims_private(m, 4, &p) != 0;
		failures += trims_wait_stream(m, TRIMS_ALL_TENSORS, NULL) != 0;
	}
	trims_close(&m);
	trims_disconnect(&conn);
	return failures;
}

/* Calls of one name.  Which threads meet where does not depend on which of them fails. */
#ifdef UNIT_THREAD_SANITIZER
#define FAIL_AT_MOST UINT64_C(2)
#else
#define FAIL_AT_MOST UINT64_C(16)
#endif

START_TEST(every_call_fails_once)
{
	const char *registers = _i ? REGISTERS "," : "";
	uint64_t calls[ARRAY_LEN(names)];
	unsigned tried = 0, failed = 0;
	all_ready();
	trims_disconnect(&conn);
	fake_gpu_script(_i ? REGISTERS : "");
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		calls[i] = fake_gpu_calls(names[i]);
	ck_assert_int_eq(live(), 0);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		calls[i] = fake_gpu_calls(names[i]) - calls[i];
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char script[160];
		for (uint64_t k = 1; k <= MIN(calls[i], FAIL_AT_MOST); k++) {
			snprintf(script, sizeof script, "%s%s:%" PRIu64 "=2", registers, names[i], k);
			fake_gpu_script(script);
			failed += live() != 0;
			tried++;
			refused += !strcmp(names[i], "cuMemHostRegister") - !strcmp(names[i], "cuMemHostUnregister");
			fake_gpu_script("");
			check_clean(script);
		}
	}
	ck_assert_uint_gt(tried, 30);
	ck_assert_uint_gt(failed, 10);
	printf("# %u calls, %u were noticed\n", tried, failed);
	ck_assert_int_eq(trims_connect(fake.path, NULL, &conn), 0);
}
END_TEST

static void *open_and_close(void *arg)
{
	for (int i = 0; i < 10; i++) {
		trims_model *m = opened(0);
		uint8_t byte = 0xee;
		ck_assert_int_eq(trims_read(m, 2, 0, &byte, 1), 0);
		ck_assert_uint_eq(byte, 2);
		trims_close(&m);
	}
	return NULL;
}

START_TEST(threads_share_registrations)
{
	pthread_t thread[4];
	all_ready();
	fake_gpu_script(REGISTERS);
	for (size_t i = 0; i < ARRAY_LEN(thread); i++)
		pthread_create(&thread[i], NULL, open_and_close, NULL);
	for (size_t i = 0; i < ARRAY_LEN(thread); i++)
		pthread_join(thread[i], NULL);
}
END_TEST

static void trims_dha(Suite *s)
{
	const TTest *const vmm[] = {what_the_device_has_not_is_read_where_the_host_has_it,
		where_devices_see_host_memory_elsewhere_their_address_is_given, what_cannot_be_registered_is_staged_and_says_why,
		a_run_that_is_refused_is_staged_beside_one_that_is_not, a_copy_may_have_nothing_on_the_device, models_share_what_is_registered,
		a_private_copy_comes_from_wherever_the_tensor_is, a_tensor_in_two_pieces_waits_for_both,
		a_load_that_fails_on_the_host_fails_what_is_there_alone, a_version_that_changes_between_the_tiers_is_opened_again,
		without_the_host_there_is_no_model, a_host_copy_of_another_shape_is_refused,
		both_leases_are_claimed_from_a_daemon_come_back, pieces_that_make_no_sense_are_refused, a_plan_goes_out_as_it_is,
		a_plan_that_makes_no_sense_is_refused_here, threads_share_registrations};
	TCase *v = tcase_create("vmm-fd"), *i = tcase_create("cuda-ipc");
	tcase_add_checked_fixture(v, setup_vmm, teardown);
	for (size_t t = 0; t < ARRAY_LEN(vmm); t++)
		tcase_add_test(v, vmm[t]);
	tcase_add_loop_test(v, what_is_on_the_host_is_waited_for_there, 0, 2);
	tcase_add_loop_test(v, every_call_fails_once, 0, 2);
	suite_add_tcase(s, v);
	tcase_add_checked_fixture(i, setup_ipc, teardown);
	tcase_add_test(i, across_two_ipc_handles_a_tensor_is_not_there);
	tcase_add_loop_test(i, every_call_fails_once, 1, 2);
	suite_add_tcase(s, i);
}

UNIT_MAIN("trims_dha", trims_dha)
