/* session.c - see session.h.
 *
 * ATTACH: the devices both sides see, and of those the ones that share memory in the way to be tried first.  CANARY goes out
 * when there is one (made once per device and export, by a worker), VERDICT comes back; a good one is answered by ATTACHED,
 * a bad one by the next way, or FAULT with what was said about each.  One device is tried, the first that the client named: to
 * try them all would make contexts on devices that it never uses.  Before it uses another one it attaches again, for that; and
 * so it does when it could not take up what ATTACHED had brought.  The session and its page stay the same.
 * Good verdicts are remembered by user, program, driver and device, so that only the first of many like processes goes through
 * it.  Bad ones are not: what one process could not do once says nothing about the next, and asking again costs a few calls.
 *
 * Keeps: a session is in no list after session_free(); a watch's slots are its own until it is gone; the value of a slot in
 * use never goes down; what a client writes to a canary or a page harms that client alone: a canary that a verdict calls
 * wrong is read back, and made anew if somebody has written to it. */
#include "mrm/gpu/session.h"

#include "mrm/clock.h"
#include "mrm/conn.h"
#include "mrm/gpu/canary.h"
#include "mrm/segment.h"
#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/log.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES (SESSION_SLOTS * sizeof(int64_t))
#define STORE_TRIES 8

_Static_assert((int)GPU_EXPORT_VMM_FD == GPU_HANDLE_VMM_FD && (int)GPU_EXPORT_CUDA_IPC == GPU_HANDLE_CUDA_IPC, "one numbering");
_Static_assert(SESSION_NO_SLOT == GPU_SLOT_NONE, "one number");

/* Who can import what. */
struct verdict {
	uint64_t client; /* 0: free */
	uint32_t device;
	enum gpu_export export;
};

struct sessions {
	struct daemon *daemon;
	struct canaries *canaries;
	uint32_t count[3];     /* by export, attached ones */
	struct idmap watched;  /* copy -> struct watchers */
	struct verdict verdicts[SESSION_VERDICTS];
	uint32_t next_verdict;
};

/* A lease's slots. */
struct watch {
	struct list of_copy, of_session;
	struct session *session;
	uint64_t lease, copy;
	uint32_t first, n;
};

struct watchers {
	struct list watches;
};

enum phase { PHASE_QUIET, PHASE_WAITING, PHASE_ASKED }; /* no ATTACH is under way; for the canary, for the verdict */

/* An ATTACH under way. */
struct trial {
	uint64_t request, ticket;
	uint64_t client;          /* key for verdicts */
	uint32_t devices, first;  /* common ones, and which to begin with */
	uint32_t exports, pid;
	uint32_t tried;           /* bits of exports */
	enum gpu_export export;   /* being tried */
	uint32_t device;          /* on which */
	bool doubted;             /* its verdict was bad, and what it said: */
	char doubt[FAULT_TEXT_MAX];
	char refusals[FAULT_TEXT_MAX];
};

struct session {
	struct sessions *all;
	struct conn *conn;
	enum phase phase;
	struct trial trial;
	struct canary_wait wait;
	/* once attached */
	bool attached;
	enum gpu_export export;
	uint32_t devices;         /* that may be opened on */
	int page_fd;
	_Atomic int64_t *page;
	bool used[SESSION_SLOTS];
	struct list watches;
};

/* ---- the daemon's ---- */

int sessions_new(struct sessions **out, struct daemon *d, struct fault *why)
{
	struct sessions *s = calloc(1, sizeof *s);
	if (!s)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for GPU sessions"), -ENOMEM;
	s->daemon = d;
	s->canaries = canaries_new(d);
	*out = s;
	return 0;
}

void sessions_free(struct sessions **p)
{
	struct sessions *s = STEAL(*p);
	if (!s)
		return;
	ASSERT(s->watched.n == 0);
	canaries_free(&s->canaries);
	idmap_fini(&s->watched);
	free(s);
}

uint32_t sessions_count(const struct sessions *s, enum gpu_export export)
{
	return s->count[export];
}

/* ---- slots ---- */

/* Never lowers a value: the client's watchdog may have ended the slot meanwhile.  A client that changes it all the time
 * only deceives itself. */
static void raise_slot(_Atomic int64_t *slot, int64_t value)
{
	int64_t now = atomic_load_explicit(slot, memory_order_relaxed);
	for (int i = 0; i < STORE_TRIES && now < value; i++)
		if (atomic_compare_exchange_strong_explicit(slot, &now, value, memory_order_release, memory_order_relaxed))
			return;
}

static int64_t slot_value(uint64_t watermark)
{
	return watermark < INT64_MAX ? (int64_t)watermark : INT64_MAX - 1;
}

void session_publish(struct sessions *s, uint64_t copy, uint32_t piece, uint64_t watermark)
{
	struct watchers *all = idmap_get(&s->watched, copy);
	if (!all)
		return;
	list_for_each(it, &all->watches) {
		struct watch *w = list_entry(it, struct watch, of_copy);
		ASSERT(piece < w->n);
		raise_slot(&w->session->page[w->first + piece], slot_value(watermark));
	}
}

static void end_slots(struct watch *w)
{
	for (uint32_t i = 0; i < w->n; i++)
		raise_slot(&w->session->page[w->first + i], GPU_SLOT_ENDED);
}

void session_poison(struct sessions *s, uint64_t copy)
{
	struct watchers *all = idmap_get(&s->watched, copy);
	if (!all)
		return;
	list_for_each(it, &all->watches)
		end_slots(list_entry(it, struct watch, of_copy));
}

/* The first of n free slots in a row.  The last one of the page is the client's. */
static uint32_t find_slots(const struct session *s, uint32_t n)
{
	uint32_t run = 0;
	for (uint32_t i = 0; i < SESSION_SLOTS - 1; i++) {
		run = s->used[i] ? 0 : run + 1;
		if (run == n)
			return i + 1 - n;
	}
	return SESSION_NO_SLOT;
}

static struct watchers *watchers_of(struct sessions *s, uint64_t copy)
{
	struct watchers *all = idmap_get(&s->watched, copy);
	if (all)
		return all;
	all = malloc(sizeof *all);
	ASSERT(all);
	list_init(&all->watches);
	idmap_set(&s->watched, copy, all);
	return all;
}

uint32_t session_watch(struct conn *c, uint64_t lease, uint64_t copy, const _Atomic uint64_t *watermark, uint32_t n)
{
	struct session *s = *conn_session(c);
	uint32_t first = s && s->attached && n ? find_slots(s, n) : SESSION_NO_SLOT;
	if (first == SESSION_NO_SLOT)
		return first;
	struct watch *w = malloc(sizeof *w);
	ASSERT(w);
	*w = (struct watch){.session = s, .lease = lease, .copy = copy, .first = first, .n = n};
	list_add_tail(&w->of_session, &s->watches);
	list_add_tail(&w->of_copy, &watchers_of(s->all, copy)->watches);
	for (uint32_t i = 0; i < n; i++) {
		s->used[first + i] = true;
		/* A store, not a rise: the slot has its last owner's value. */
		atomic_store_explicit(&s->page[first + i], slot_value(watermark[i]), memory_order_release);
	}
	return first;
}

static void watch_free(struct watch *w)
{
	struct session *s = w->session;
	struct watchers *all = idmap_get(&s->all->watched, w->copy);
	end_slots(w);
	memset(&s->used[w->first], 0, w->n * sizeof s->used[0]);
	list_del(&w->of_session);
	list_del(&w->of_copy);
	if (list_empty(&all->watches)) {
		idmap_take(&s->all->watched, w->copy);
		free(all);
	}
	free(w);
}

void session_unwatch(struct conn *c, uint64_t lease)
{
	struct session *s = *conn_session(c);
	if (!s)
		return;
	list_for_each_safe(it, &s->watches) {
		struct watch *w = list_entry(it, struct watch, of_session);
		if (w->lease == lease)
			watch_free(w);
	}
}

/* ---- remembered verdicts ---- */

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
	for (const uint8_t *p = data; n; p++, n--)
		h = (h ^ *p) * 0x100000001b3u; /* FNV-1a */
	return h;
}

static uint64_t client_key(struct conn *c, const struct msg_attach *m)
{
	uid_t uid = conn_uid(c);
	const char *program = conn_program(c);
	uint64_t h = mix(0xcbf29ce484222325u, &uid, sizeof uid);
	h = mix(h, program, strlen(program) + 1);
	h = mix(h, &m->driver, sizeof m->driver);
	h = mix(h, &m->exports, sizeof m->exports);
	return h ? h : 1;
}

static bool is_remembered(const struct sessions *all, const struct trial *t)
{
	for (uint32_t i = 0; i < SESSION_VERDICTS; i++) {
		const struct verdict *v = &all->verdicts[i];
		if (v->client == t->client && v->device == t->device && v->export == t->export)
			return true;
	}
	return false;
}

static void remember(struct sessions *all, const struct trial *t)
{
	if (!is_remembered(all, t))
		all->verdicts[all->next_verdict++ % SESSION_VERDICTS] =
			(struct verdict){.client = t->client, .device = t->device, .export = t->export};
}

/* ---- negotiation ---- */

static void offer_next(struct session *s);

static bool redeem(struct session *s)
{
	uint64_t ticket = s->trial.ticket;
	s->trial.ticket = 0;
	return ticket && conn_redeem(s->conn, ticket);
}

/* Back to what it was before ATTACH; the connection may try again. */
static void drop(struct session *s)
{
	if (!s->attached) {
		session_free(conn_session(s->conn));
		return;
	}
	canary_unwait(&s->wait);
	redeem(s);
	s->phase = PHASE_QUIET;
}

/* A client may try again as often as it likes. */
static struct log_limit refusals = {.period_ns = 10 * NS_PER_S, .most = 20};

static void refuse(struct session *s, const char *why)
{
	struct trial *t = &s->trial;
	size_t len = strlen(t->refusals);
	snprintf(t->refusals + len, sizeof t->refusals - len, "%s%s: %s", len ? "; " : "", gpu_export_name(t->export), why);
	log_limited(&refusals, clock_now(), LOG_INFO, "gpu", "%s (user %u) cannot import %s memory of %s: %s", conn_program(s->conn),
		(unsigned)conn_uid(s->conn), gpu_export_name(t->export), gpu_facts(s->all->daemon->gpu, t->device)->uuid, why);
}

static int make_page(struct session *s)
{
	OWN_FD int fd = memfd_create("trims-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, PAGE_BYTES) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return -errno;
	s->page = page;
	s->page_fd = steal_fd(&fd);
	return 0;
}

/* Of these devices those that share memory that way. */
static uint32_t devices_with(const struct session *s, uint32_t devices, enum gpu_export export)
{
	const struct gpu *g = s->all->daemon->gpu;
	uint32_t mask = 0;
	for (uint32_t i = 0; i < gpu_count(g); i++)
		if (devices >> i & 1 && gpu_facts(g, i)->export == export && !gpu_lost(g, i))
			mask |= 1u << i;
	return mask;
}

/* Ends an ATTACH that led to nothing. */
static void give_up(struct session *s, enum trims_code code, const char *why)
{
	struct conn *c = s->conn;
	uint64_t request = s->trial.request;
	bool wanted = redeem(s);
	char text[FAULT_TEXT_MAX];
	snprintf(text, sizeof text, "%s", why);
	drop(s);
	if (wanted)
		conn_reply_fault(c, request, code, text);
}

/* The first device is there for it.  All others of that kind are, too, until one turns out to be not. */
static int begin_session(struct session *s, struct fault *why)
{
	int e = make_page(s);
	if (e)
		return fault_errno(why, TRIMS_E_NO_SYSTEM, -e, "no session page"), e;
	s->attached = true;
	s->export = s->trial.export;
	s->devices = devices_with(s, s->trial.devices, s->export);
	s->all->count[s->export]++;
	log_debug("gpu", "#%" PRIu64 " %s is attached: %s", conn_id(s->conn), conn_program(s->conn), gpu_export_name(s->export));
	return 0;
}

static void attached(struct session *s)
{
	struct msg m;
	struct fault why;
	if (!conn_wants(s->conn, s->trial.ticket)) { /* cancelled meanwhile */
		drop(s);
		return;
	}
	if (!s->attached && begin_session(s, &why)) {
		give_up(s, why.code, why.text);
		return;
	}
	redeem(s);
	s->phase = PHASE_QUIET;
	s->devices |= 1u << s->trial.device;
	msg_init(&m, MSG_ATTACHED, s->trial.request);
	m.u.attached.export = s->export;
	m.u.attached.slots = SESSION_SLOTS;
	m.u.attached.fds = (struct msg_fds){.n = 1, .fd = {s->page_fd}};
	conn_reply(s->conn, &m);
}

static void refuse_doubted(struct session *s)
{
	s->trial.doubted = false;
	s->devices &= ~(1u << s->trial.device);
	refuse(s, s->trial.doubt);
	offer_next(s);
}

static void ready(struct canary_wait *wait, const struct canary *canary, bool made_anew, const struct fault *why)
{
	struct session *s = container_of(wait, struct session, wait);
	struct msg m;
	if (!conn_wants(s->conn, s->trial.ticket)) {
		drop(s);
		return;
	}
	if (canary && s->trial.doubted && !made_anew) {
		refuse_doubted(s);
		return;
	}
	if (!canary) {
		s->trial.doubted = false;
		refuse(s, why->text);
		offer_next(s);
		return;
	}
	s->phase = PHASE_ASKED;
	msg_init(&m, MSG_CANARY, s->trial.request);
	canary_fill(canary, &m.u.canary);
	conn_reply(s->conn, &m);
}

/* Of what is left to try the best; false when nothing is. */
static bool choose(struct session *s)
{
	struct trial *t = &s->trial;
	for (enum gpu_export e = GPU_EXPORT_VMM_FD; e <= GPU_EXPORT_CUDA_IPC; e++) {
		uint32_t devices = devices_with(s, t->devices, e);
		if (t->tried & GPU_EXPORT_BIT(e) || !devices || (s->attached && e != s->export))
			continue;
		t->tried |= GPU_EXPORT_BIT(e);
		t->export = e;
		t->device = devices >> t->first & 1 ? t->first : (uint32_t)__builtin_ctz(devices);
		if (!(t->exports & GPU_EXPORT_BIT(e)))
			refuse(s, "the client's library cannot import it");
		else if (e == GPU_EXPORT_CUDA_IPC && t->pid == (uint32_t)getpid())
			refuse(s, "the client's process has the daemon's number, in a PID namespace of its own");
		else
			return true;
	}
	return false;
}

static void offer_next(struct session *s)
{
	struct trial *t = &s->trial;
	if (!choose(s)) {
		give_up(s, TRIMS_E_UNSUPPORTED, *t->refusals ? t->refusals : "no device is left that could be tried");
		return;
	}
	if (is_remembered(s->all, t)) {
		attached(s);
		return;
	}
	s->phase = PHASE_WAITING;
	canary_get(s->all->canaries, t->device, t->export, false, &s->wait);
}

/* ---- messages ---- */

/* Those that both sides see, and the first of them that the client has named. */
static uint32_t common_devices(const struct gpu *g, const char *list, uint32_t *first)
{
	char uuid[GPU_UUID_TEXT];
	uint32_t mask = 0;
	for (const char *at = list; *at;) {
		size_t len = strcspn(at, ",");
		if (len < sizeof uuid) {
			memcpy(uuid, at, len);
			uuid[len] = 0;
			int device = gpu_find(g, uuid);
			if (device >= 0 && !mask)
				*first = (uint32_t)device;
			if (device >= 0)
				mask |= 1u << device;
		}
		at += len + (at[len] == ',');
	}
	return mask;
}

/* Whether the two can have anything to do with each other. */
static bool is_welcome(struct conn *c, const struct msg_attach *m, struct trial *t, struct fault *why)
{
	const struct gpu *g = conn_daemon(c)->gpu;
	struct session *s = *conn_session(c);
	if (s && s->phase != PHASE_QUIET)
		fault_set(why, TRIMS_E_BAD_REQUEST, "this connection is being attached");
	else if (!gpu_count(g))
		fault_set(why, TRIMS_E_NO_TIER, "the daemon has no GPU: %s", gpu_absence(g));
	else if ((m->simulated != 0) != gpu_is_simulated(g))
		fault_set(why, TRIMS_E_NO_TIER, "the daemon's GPUs are %s and the client's are %s",
			gpu_is_simulated(g) ? "simulated" : "real", m->simulated ? "simulated" : "real");
	else if (!(t->devices = common_devices(g, m->devices, &t->first)))
		fault_set(why, TRIMS_E_NO_TIER, "no device is visible to both: the daemon has %s%s, the client %.200s",
			gpu_facts(g, 0)->uuid, gpu_count(g) > 1 ? " and others" : "", *m->devices ? m->devices : "none");
	else
		return true;
	return false;
}

static struct session *session_new(struct conn *c)
{
	struct session *s = calloc(1, sizeof *s);
	ASSERT(s);
	s->all = conn_daemon(c)->sessions;
	s->conn = c;
	s->page_fd = -1;
	canary_wait_init(&s->wait, ready);
	list_init(&s->watches);
	*conn_session(c) = s;
	return s;
}

void session_attach(struct conn *c, uint64_t request, const struct msg_attach *m)
{
	struct fault why;
	struct trial t = {.request = request, .client = client_key(c, m), .exports = m->exports, .pid = m->pid};
	if (!is_welcome(c, m, &t, &why)) {
		conn_reply_fault(c, request, why.code, why.text);
		return;
	}
	t.ticket = conn_begin(c, request);
	if (!t.ticket)
		return;
	struct session *s = *conn_session(c);
	s = s ? s : session_new(c);
	s->trial = t;
	offer_next(s);
}

void session_verdict(struct conn *c, uint64_t request, const struct msg_verdict *m)
{
	struct session *s = *conn_session(c);
	if (!s || s->phase != PHASE_ASKED || s->trial.request != request || m->good > 1) {
		conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "a VERDICT that was not asked for");
		return;
	}
	struct trial *t = &s->trial;
	s->phase = PHASE_WAITING;
	if (m->good) {
		remember(s->all, t);
		attached(s);
		return;
	}
	snprintf(t->doubt, sizeof t->doubt, "%s", m->text);
	if (t->doubted) { /* and it was a new one */
		refuse_doubted(s);
		return;
	}
	t->doubted = true;
	canary_get(s->all->canaries, t->device, t->export, true, &s->wait);
}

bool session_cancel(struct conn *c, uint64_t request)
{
	struct session *s = *conn_session(c);
	if (!s || s->phase == PHASE_QUIET || s->trial.request != request)
		return false;
	conn_cancel(c, request);
	drop(s);
	return true;
}

void session_free(struct session **p)
{
	struct session *s = STEAL(*p);
	if (!s)
		return;
	canary_unwait(&s->wait);
	redeem(s);
	while (!list_empty(&s->watches))
		watch_free(list_first(&s->watches, struct watch, of_session));
	if (s->attached)
		s->all->count[s->export]--;
	if (s->page)
		munmap((void *)s->page, PAGE_BYTES);
	own_close_fd(&s->page_fd);
	free(s);
}

/* ---- opening ---- */

int session_device(struct conn *c, const char *uuid, struct cache_open *ask, struct fault *why)
{
	const struct gpu *g = conn_daemon(c)->gpu;
	struct session *s = *conn_session(c);
	int i = *uuid ? gpu_find(g, uuid) : -1;
	if (!gpu_count(g))
		fault_set(why, TRIMS_E_NO_TIER, "the daemon has no GPU: %s", gpu_absence(g));
	else if (!s || !s->attached)
		fault_set(why, TRIMS_E_BAD_REQUEST, "this connection must attach first");
	else if (*uuid && i < 0)
		fault_set(why, TRIMS_E_NO_TIER, "the daemon has no device %.64s", uuid);
	else if (*uuid && !(s->devices >> i & 1))
		fault_set(why, TRIMS_E_NO_TIER, "this connection does not see device %.64s", uuid);
	else {
		ask->device = *uuid ? (uint32_t)i : CACHE_ANY_DEVICE;
		ask->device_mask = s->devices;
		return 0;
	}
	return -EPROTO;
}

int session_records_new(struct shm_region *out, const struct gpu_memory *m, const struct pieces *p, uint32_t n,
	uint64_t edition, const struct shm_options *options, struct fault *why)
{
	OWN_MEM struct gpu_handle *h = calloc(MAX(n, 1u), sizeof *h);
	if (!h)
		return fault_set(why, TRIMS_E_NO_MEMORY, "no memory for handle records"), -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		h[i].kind = gpu_memory_export(m);
		h[i].extent = p ? p->v[i].extent : 0;
		h[i].offset = p ? p->v[i].offset : 0;
		h[i].used = gpu_memory_used(m, i);
		h[i].bytes = gpu_memory_bytes(m, i);
		h[i].generation = edition;
		gpu_memory_ipc(m, i, h[i].ipc);
	}
	return shm_new_filled(out, "trims-handles", h, n * sizeof *h, options, why);
}

void session_fill_opened(struct msg_opened *o, const struct gpu *g, const struct segment *copy)
{
	const struct gpu_memory *m = copy->device;
	MSG_SET_STR(o->device, gpu_facts(g, gpu_memory_device(m))->uuid);
	o->export = gpu_memory_export(m);
	o->fds.fd[o->fds.n++] = copy->records.fd;
	for (uint32_t i = 0; o->export == GPU_EXPORT_VMM_FD && i < copy->n_pieces; i++)
		o->fds.fd[o->fds.n++] = gpu_memory_fd(m, i);
}
