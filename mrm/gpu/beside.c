/* beside.c - see beside.h.
 * Keeps: a copy is on the list, and on the books, until its memory is free; it is freed when it was dropped, nobody has it or waits
 * for it, and no job of it is out; an answer goes out only of what the asker's user may see: complete and just checked,
 * or of nobody else's hands. */
#include "mrm/gpu/beside.h"

#include "mrm/clock.h"
#include "mrm/copies.h"
#include "mrm/gpu/gpu.h"
#include "mrm/gpu/integrity.h"
#include "mrm/gpu/memory.h"
#include "mrm/gpu/session.h"
#include "shared/check.h"
#include "shared/gpu_handle.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILL_JOBS 4         /* chunks of one copy that are being filled */
#define HAD_MAX 8
#define TRUSTED_MAX 64
#define NOT_IN_IT UINT8_MAX /* of_chunk of what it does not have */
#define NUMBERS ((uint64_t)1 << 63) /* copies' numbers are from there on: none of the brain's */

_Static_assert(GPU_MAX_PIECES <= NOT_IN_IT, "a piece has another number");

enum phase { PHASE_MAKING, PHASE_FILLING, PHASE_READY };

/* Who has the copy, or waits for it. */
struct user {
	struct list node;
	struct user *next; /* of the same lease */
	struct beside_copy *copy;
	uint64_t conn, lease, request, ticket;
	uid_t uid;
};

struct beside_copy {
	struct list node;
	struct beside *all;
	struct holding *image;    /* it is there as long as the copy on the device, until this is dropped: no reference, which
	                           * those who wait until nobody works on the model would wait for */
	struct image_desc *desc;  /* referenced: whose layout it is */
	const struct layout *layout;
	uint64_t number, of;      /* its own, and of the copy on a device: the generation */
	uint8_t tier;             /* of that */
	uint32_t device;
	enum gpu_direct_way way;
	uid_t uid;                /* trusted: whose */
	uint64_t bytes, left_ns;
	enum phase phase;
	bool dropped;             /* nobody gets it any more */
	bool at_work, checking;   /* `job` is out; it compares */
	uint32_t n_out, next;     /* filling */
	struct pieces *pieces;    /* until the segment has them */
	struct segment *segment;  /* NULL: being made, or it could not be */
	struct list holders, waiting;
	uint32_t n_had;           /* users who let go of it since it was compared last; beyond HAD_MAX they only count */
	uid_t had[HAD_MAX];
	uint32_t n_was;           /* those on whose account it is being compared */
	uid_t was[HAD_MAX];
	struct job job;
	char label[128];
	int result;
	struct fault why;
	uint32_t n_bad;
	struct hash128 *want;     /* [n_chunks] while it is compared */
	void (*told)(void *, const char *, uint32_t, uint32_t, uint64_t); /* whom to tell beside those who wait */
	void *told_ctx;
};

struct fill {
	struct job job;
	struct beside_copy *copy;
	struct segment *host; /* held */
	uint32_t chunk;
	const uint8_t *from;
	uint8_t *to;
	uint64_t bytes;
	struct hash128 want;
	bool good;
};

struct beside {
	struct daemon *daemon;
	struct list copies;
	struct idmap leases; /* lease -> struct user, of which there may be several in a row */
	uint64_t made, bytes[GPU_DIRECT_WAYS], leaving_bytes;
	uint32_t n_trusted;
	uid_t trusted[TRUSTED_MAX];
};

static const char *const way_names[GPU_DIRECT_WAYS] = {"", "dha-host-numa", "dha-trusted"};

/* ---- who is trusted ---- */

static int user_of(const char *word, uid_t *out)
{
	char *end;
	unsigned long number = strtoul(word, &end, 10);
	if (!strcmp(word, "self")) {
		*out = geteuid();
		return 0;
	}
	if (*word && !*end && number < UINT32_MAX) {
		*out = (uid_t)number;
		return 0;
	}
	const struct passwd *p = *end ? getpwnam(word) : NULL;
	if (p)
		*out = p->pw_uid;
	return p ? 0 : -ENOENT;
}

static int parse_users(const char *text, uid_t out[TRUSTED_MAX], uint32_t *n, struct fault *why)
{
	char words[2001], *rest = words, *word;
	snprintf(words, sizeof words, "%s", text);
	*n = 0;
	while ((word = strsep(&rest, ", "))) {
		if (!*word)
			continue;
		if (*n == TRUSTED_MAX)
			return fault_set(why, TRIMS_E_BAD_REQUEST, "direct-trusted: more than %d users", TRUSTED_MAX), -EINVAL;
		if (user_of(word, &out[*n]))
			return fault_set(why, TRIMS_E_BAD_REQUEST, "direct-trusted: there is no user \"%.100s\"", word), -EINVAL;
		++*n;
	}
	return 0;
}

int beside_check_users(const char *text, struct fault *why)
{
	uid_t users[TRUSTED_MAX];
	uint32_t n;
	return parse_users(text, users, &n, why);
}

static bool is_trusted(const struct beside *b, uid_t uid)
{
	for (uint32_t i = 0; i < b->n_trusted; i++)
		if (b->trusted[i] == uid)
			return true;
	return false;
}

void beside_reload(struct beside *b)
{
	struct fault why;
	if (parse_users(b->daemon->config->direct_trusted, b->trusted, &b->n_trusted, &why))
		b->n_trusted = 0; /* was checked; a user may have gone since */
}

struct beside *beside_new(struct daemon *d)
{
	struct beside *b = calloc(1, sizeof *b);
	ASSERT(b);
	b->daemon = d;
	list_init(&b->copies);
	beside_reload(b);
	return b;
}

/* ---- what it consists of ---- */

static bool is_left_out(const struct pieces *of, uint32_t chunk)
{
	return of->of_chunk[chunk] >= of->n_plan;
}

/* All chunks of a tensor of which some are left out: its first and its last may well be on the device. */
static void mark(bool wanted[], const struct layout *l, const struct pieces *of, const struct tensor *t)
{
	uint32_t base = l->extent_chunk[t->extent];
	uint32_t first = base + (uint32_t)(t->offset / IMAGE_CHUNK_BYTES);
	uint32_t last = base + (uint32_t)((t->offset + t->bytes - 1) / IMAGE_CHUNK_BYTES), c = first;
	while (c < last && !is_left_out(of, c))
		c++;
	if (is_left_out(of, c))
		memset(wanted + first, true, last - first + 1);
}

/* A piece for each run of chunks; there is room, since each has one of the left-out pieces of its own. */
static struct pieces *cut(const struct layout *l, const struct pieces *of)
{
	struct pieces *p = calloc(1, sizeof *p);
	OWN_MEM bool *wanted = calloc(MAX(l->n_chunks, 1u), sizeof *wanted);
	ASSERT(p && wanted);
	p->of_chunk = malloc(MAX(l->n_chunks, 1u));
	ASSERT(p->of_chunk);
	memset(p->of_chunk, NOT_IN_IT, l->n_chunks);
	for (uint32_t i = 0; i < l->n_tensors; i++)
		if (l->tensors[i].bytes)
			mark(wanted, l, of, &l->tensors[i]);
	for (uint32_t x = 0; x < l->n_extents; x++) {
		struct image_piece *v = NULL;
		for (uint32_t c = l->extent_chunk[x]; c < l->extent_chunk[x + 1]; c++) {
			struct layout_chunk k = layout_chunk(l, c);
			if (!wanted[c]) {
				v = NULL;
				continue;
			}
			if (!v) {
				v = &p->v[p->n++];
				*v = (struct image_piece){.extent = x, .first = c, .offset = k.offset};
			}
			p->of_chunk[c] = (uint8_t)(v - p->v);
			v->n++;
			v->bytes = k.offset + k.bytes - v->offset;
		}
	}
	p->n_plan = p->n;
	return p;
}

static uint8_t *address_of(const struct beside_copy *x, uint32_t chunk)
{
	const struct segment *s = x->segment;
	uint32_t i = s->pieces->of_chunk[chunk];
	uint64_t offset = layout_chunk(x->layout, chunk).offset - s->pieces->v[i].offset;
	return s->device ? (uint8_t *)(uintptr_t)gpu_memory_address(s->device, i) + offset : (uint8_t *)s->extents[i].map + offset;
}

static bool has(const struct beside_copy *x, uint32_t chunk)
{
	return x->segment->pieces->of_chunk[chunk] != NOT_IN_IT;
}

/* ---- books ---- */

static void book(struct beside *b)
{
	metrics_set(M_direct_bytes_numa, b->bytes[GPU_DIRECT_NUMA]);
	metrics_set(M_direct_bytes_trusted, b->bytes[GPU_DIRECT_TRUSTED]);
}

static uint64_t bytes_taken(const struct beside *b)
{
	return b->bytes[GPU_DIRECT_NUMA] + b->bytes[GPU_DIRECT_TRUSTED] - b->leaving_bytes;
}

static void copy_end(struct beside_copy *x)
{
	struct beside *b = x->all;
	ASSERT(!x->n_out && !x->segment && list_empty(&x->holders) && list_empty(&x->waiting));
	b->bytes[x->way] -= x->bytes;
	book(b);
	list_del(&x->node);
	pieces_free(&x->pieces);
	image_desc_free(&x->desc);
	free(x->want);
	free(x);
}

static void run_free(struct job *job, void *worker)
{
	struct beside_copy *x = container_of(job, struct beside_copy, job);
	if (x->segment)
		gpu_memory_free(&x->segment->device);
	segment_free(&x->segment);
}

static void freed(struct job *job)
{
	struct beside_copy *x = container_of(job, struct beside_copy, job);
	if (job->withdrawn)
		run_free(job, NULL);
	x->all->leaving_bytes -= x->bytes;
	copy_end(x);
}

static void submit(struct beside_copy *x, void (*run)(struct job *, void *), void (*done)(struct job *))
{
	x->at_work = true;
	x->job = (struct job){.run = run, .done = done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(x->all->daemon->misc, &x->job);
}

/* It may be gone afterwards: when nobody wants it any more. */
static void settle(struct beside_copy *x)
{
	if (!x->dropped || x->at_work || x->n_out || !list_empty(&x->holders) || !list_empty(&x->waiting) ||
		x->all->daemon->stopping)
		return;
	x->all->leaving_bytes += x->bytes;
	submit(x, run_free, freed);
}

/* Those that nobody has, the one that was let go of first. */
static struct beside_copy *idle(const struct beside *b)
{
	struct beside_copy *found = NULL;
	list_for_each(it, &b->copies) {
		struct beside_copy *x = list_entry(it, struct beside_copy, node);
		if (!x->dropped && !x->at_work && !x->n_out && list_empty(&x->holders) && list_empty(&x->waiting) &&
			(!found || x->left_ns < found->left_ns))
			found = x;
	}
	return found;
}

static bool make_room(struct beside *b, uint64_t bytes)
{
	uint64_t bound = b->daemon->config->direct_bytes;
	struct beside_copy *x;
	while (bytes > bound || bytes_taken(b) > bound - bytes) {
		if (bytes > bound || !(x = idle(b)))
			return false;
		x->dropped = true;
		settle(x);
	}
	return true;
}

/* ---- users ---- */

static void remember(struct beside_copy *x, uid_t uid)
{
	for (uint32_t i = 0; i < MIN(x->n_had, (uint32_t)HAD_MAX); i++)
		if (x->had[i] == uid)
			return;
	if (x->n_had < HAD_MAX)
		x->had[x->n_had] = uid;
	x->n_had++;
}

static void user_free(struct user *u)
{
	struct beside *b = u->copy->all;
	if (!u->ticket)
		remember(u->copy, u->uid);
	struct user *first = idmap_take(&b->leases, u->lease), **at = &first;
	while (*at != u)
		at = &(*at)->next;
	*at = u->next;
	if (first)
		idmap_set(&b->leases, u->lease, first);
	list_del(&u->node);
	free(u);
}

static void add_user(struct beside_copy *x, struct conn *c, uint64_t request, uint64_t ticket, uint64_t lease)
{
	struct beside *b = x->all;
	struct user *u = calloc(1, sizeof *u);
	ASSERT(u);
	*u = (struct user){.copy = x, .conn = conn_id(c), .uid = conn_uid(c), .lease = lease, .request = request, .ticket = ticket,
		.next = idmap_take(&b->leases, lease)};
	idmap_set(&b->leases, lease, u);
	list_add_tail(&u->node, &x->waiting);
}

/* First it goes, then it is told: a reply may end its connection, and with that whatever the lease has here. */
static void refuse(struct user *u, const struct fault *why)
{
	struct conn *c = server_conn(u->copy->all->daemon->server, u->conn);
	uint64_t request = u->request, ticket = u->ticket;
	user_free(u);
	if (c && conn_redeem(c, ticket))
		conn_reply_fault(c, request, why->code, why->text);
}

static void refuse_all(struct beside_copy *x, const struct fault *why)
{
	while (!list_empty(&x->waiting))
		refuse(list_first(&x->waiting, struct user, node), why);
}

static bool holds(const struct beside_copy *x, uid_t uid)
{
	list_for_each(it, &x->holders)
		if (list_entry(it, struct user, node)->uid == uid)
			return true;
	return false;
}

/* Somebody else had it, and has let go of it altogether. */
static bool is_tainted_for(const struct beside_copy *x, uid_t uid)
{
	for (uint32_t i = 0; i < MIN(x->n_had, (uint32_t)HAD_MAX); i++)
		if (x->had[i] != uid && !holds(x, x->had[i]))
			return true;
	return x->n_had > HAD_MAX;
}

static void send_opened(struct conn *c, const struct beside_copy *x, uint64_t request)
{
	const struct segment *s = x->segment;
	struct msg m;
	msg_init(&m, MSG_OPENED, request);
	struct msg_opened *o = &m.u.opened;
	o->copy = x->number;
	o->tier = TIER_GPU;
	o->hit = x->phase == PHASE_READY;
	o->image_bytes = x->layout->image_bytes;
	MSG_SET_STR(o->device, gpu_facts(x->all->daemon->gpu, x->device)->uuid);
	o->export = x->way == GPU_DIRECT_NUMA ? GPU_HANDLE_VMM_FD : GPU_HANDLE_MEMORY_FILE;
	o->slot = GPU_SLOT_NONE;
	o->model = x->image->model;
	struct msg_fds *fds = &o->fds;
	fds->fd[fds->n++] = x->image->table.fd;
	fds->fd[fds->n++] = s->page.fd;
	fds->fd[fds->n++] = s->records.fd;
	for (uint32_t i = 0; i < s->n_pieces; i++)
		fds->fd[fds->n++] = s->device ? gpu_memory_fd(s->device, i) : s->extents[i].fd;
	conn_reply(c, &m);
}

/* By the same lease, which may ask as often as it likes. */
static bool has_already(const struct user *u)
{
	const struct user *other = idmap_get(&u->copy->all->leases, u->lease);
	while (other && (other->copy != u->copy || other->ticket))
		other = other->next;
	return other;
}

/* Last of all it is told: neither it nor its neighbours need be there afterwards. */
static void answer(struct user *u)
{
	struct beside_copy *x = u->copy;
	struct conn *c = server_conn(x->all->daemon->server, u->conn);
	if (!c || !conn_redeem(c, u->ticket)) {
		user_free(u);
		return;
	}
	metrics_add(x->way == GPU_DIRECT_NUMA ? M_direct_opens_numa : M_direct_opens_trusted, 1);
	uint64_t request = u->request;
	if (has_already(u)) {
		user_free(u);
	} else {
		u->ticket = 0;
		list_del(&u->node);
		list_add_tail(&u->node, &x->holders);
	}
	send_opened(c, x, request);
}

/* ---- comparing ---- */

static void run_check(struct job *job, void *worker)
{
	struct beside_copy *x = container_of(job, struct beside_copy, job);
	for (uint32_t c = 0; c < x->layout->n_chunks; c++)
		if (has(x, c) && !hash_equal(chunk_hash(address_of(x, c), layout_chunk(x->layout, c).bytes), x->want[c]))
			x->n_bad++;
}

static void answer_those_who_may(struct beside_copy *x);

static void say_damage(const struct beside_copy *x)
{
	struct daemon *d = x->all->daemon;
	char who[200] = "";
	for (uint32_t i = 0; i < MIN(x->n_was, (uint32_t)HAD_MAX); i++)
		snprintf(who + strlen(who), sizeof who - strlen(who), "%s%u", i ? ", " : "", (unsigned)x->was[i]);
	log_error("gpu", "%s: %" PRIu32 " chunks of what devices read on the host (%s) were changed by who had them: it is dropped; "
		"had by users %s", x->label, x->n_bad, way_names[x->way], who);
	daemon_degraded(d, "device-memory-changed", "%s, %s, last held by users %s", x->label, way_names[x->way], who);
	metrics_add(M_fallback_device_changed, 1);
	metrics_add(M_verify_failures_host, x->n_bad);
}

/* Who waits may ask again, and gets another copy. */
static void drop_damaged(struct beside_copy *x)
{
	struct fault why;
	fault_set(&why, TRIMS_E_BUSY, "what was kept for devices to read was damaged, and is dropped; try again");
	say_damage(x);
	x->dropped = true;
	refuse_all(x, &why);
}

static void checked(struct job *job)
{
	struct beside_copy *x = container_of(job, struct beside_copy, job);
	struct fault stopping;
	x->at_work = x->checking = false;
	free(STEAL(x->want));
	if (x->told)
		x->told(x->told_ctx, way_names[x->way], pieces_chunks(x->segment->pieces, x->segment->n_pieces), x->n_bad, x->bytes);
	x->told = NULL;
	if (job->withdrawn) {
		fault_set(&stopping, TRIMS_E_STOPPING, "the daemon is stopping");
		refuse_all(x, &stopping);
		x->dropped = true;
	} else if (x->n_bad) {
		metrics_add(M_integrity_bad, 1);
		drop_damaged(x);
	} else {
		metrics_add(M_integrity_good, 1);
	}
	answer_those_who_may(x);
	settle(x);
}

/* All hashes are on record: each chunk was compared with its own when it was filled. */
static bool begin_check(struct beside_copy *x)
{
	struct fault why;
	if (x->all->daemon->stopping)
		return false;
	x->want = calloc(MAX(x->layout->n_chunks, 1u), sizeof *x->want);
	ASSERT(x->want);
	for (uint32_t c = 0; c < x->layout->n_chunks; c++)
		if (has(x, c) && holding_want_hash(x->image, c, &x->want[c], &why)) {
			log_warn("gpu", "%s: %s", x->label, why.text);
			free(STEAL(x->want));
			return false;
		}
	x->n_bad = 0;
	x->checking = true;
	memcpy(x->was, x->had, sizeof x->was);
	x->n_was = x->n_had;
	x->n_had = 0; /* from here on: who lets go while it is compared, and may have changed what was looked at already */
	submit(x, run_check, checked);
	return true;
}

/* Those for whom it has to be compared first wait until it is complete. */
static void answer_those_who_may(struct beside_copy *x)
{
	struct fault why;
	bool tainted = false;
	if (x->phase == PHASE_MAKING || x->checking || x->dropped)
		return;
	struct list must_wait;
	list_init(&must_wait);
	while (!list_empty(&x->waiting) && !x->dropped) {
		struct user *u = list_first(&x->waiting, struct user, node);
		if (!is_tainted_for(x, u->uid)) {
			answer(u);
			continue;
		}
		list_del(&u->node);
		list_add_tail(&u->node, &must_wait);
	}
	while (!list_empty(&must_wait)) {
		struct user *u = list_first(&must_wait, struct user, node);
		tainted = true;
		list_del(&u->node);
		list_add_tail(&u->node, &x->waiting);
	}
	if (x->dropped) { /* by the end of whoever was answered last */
		fault_set(&why, TRIMS_E_BUSY, "it has just been given up; try again");
		refuse_all(x, &why);
		return;
	}
	if (!tainted || x->phase != PHASE_READY || begin_check(x))
		return;
	fault_set(&why, TRIMS_E_BUSY, "what was kept for devices to read cannot be compared now, and is dropped; try again");
	x->dropped = true;
	refuse_all(x, &why);
}

/* ---- filling ---- */

static void advance(struct beside_copy *x);

static void run_fill(struct job *job, void *worker)
{
	struct fill *f = container_of(job, struct fill, job);
	memcpy(f->to, f->from, f->bytes);
	f->good = hash_equal(chunk_hash(f->to, f->bytes), f->want);
}

static void fill_fails(struct beside_copy *x, const struct fault *why)
{
	if (!x->dropped)
		log_error("gpu", "%s: %s", x->label, why->text);
	segment_poison(x->segment, why);
	x->dropped = true;
	refuse_all(x, why);
}

static void filled(struct job *job)
{
	struct fill *f = container_of(job, struct fill, job);
	struct beside_copy *x = f->copy;
	struct segment *s = x->segment;
	struct fault why;
	x->n_out--;
	copies_let_go(x->all->daemon, f->host);
	if (job->withdrawn) {
		fault_set(&why, TRIMS_E_STOPPING, "the daemon is stopping");
		fill_fails(x, &why);
	} else if (!f->good) {
		metrics_add(M_verify_failures_host, 1);
		fault_set(&why, TRIMS_E_MISMATCH, "chunk %" PRIu32 " of the host copy, or where it was put, does not match its digest", f->chunk);
		fill_fails(x, &why);
	} else {
		s->landed[f->chunk] = true;
		s->n_landed++;
		segment_set_readable(s, x->layout, f->chunk);
	}
	free(f);
	advance(x);
	settle(x);
}

/* Whether the next chunk was given to a worker, or need not be. */
static bool fill_next(struct beside_copy *x)
{
	struct segment *host = holding_host(x->image);
	struct hash128 want;
	uint32_t c = x->next;
	if (has(x, c)) {
		if (!host || !host->readable[c] || !holding_chunk_hash(x->image, c, &want))
			return false;
		struct fill *f = calloc(1, sizeof *f);
		ASSERT(f);
		*f = (struct fill){.copy = x, .host = host, .chunk = c, .from = segment_chunk(host, x->layout, c),
			.to = address_of(x, c), .bytes = layout_chunk(x->layout, c).bytes, .want = want};
		f->job = (struct job){.run = run_fill, .done = filled, .class = CLASS_DEMAND, .deadline = 0};
		copies_hold(host);
		x->n_out++;
		pool_submit(x->all->daemon->pin, &f->job);
	}
	x->next++;
	return true;
}

static void advance(struct beside_copy *x)
{
	if (x->phase != PHASE_FILLING || x->dropped || x->all->daemon->stopping)
		return;
	while (x->n_out < FILL_JOBS && x->next < x->layout->n_chunks && fill_next(x))
		;
	if (x->n_out || x->next < x->layout->n_chunks)
		return;
	x->phase = PHASE_READY;
	segment_set_ready(x->segment, x->layout, x->image->digest);
	answer_those_who_may(x);
}

void beside_advance(struct beside *b, const struct holding *img)
{
	if (!b)
		return;
	list_for_each_safe(it, &b->copies) {
		struct beside_copy *x = list_entry(it, struct beside_copy, node);
		if (x->image == img)
			advance(x);
	}
}

/* ---- making ---- */

static int make_files(struct beside_copy *x)
{
	const struct shm_options *o = &x->all->daemon->shm;
	struct segment *s = x->segment;
	OWN_MEM struct gpu_handle *h = calloc(MAX(s->n_pieces, 1u), sizeof *h);
	struct shm_region *files = calloc(MAX(s->n_pieces, 1u), sizeof *files);
	ASSERT(h && files);
	for (uint32_t i = 0; i < s->n_pieces; i++)
		files[i].fd = -1;
	s->extents = files;
	for (uint32_t i = 0; i < s->n_pieces; i++) {
		const struct image_piece *v = &s->pieces->v[i];
		int e = shm_new_writable(&files[i], "mrm:direct", v->bytes, o, &x->why);
		if (e)
			return e;
		shm_populate(files[i].map, v->bytes, o->huge);
		h[i] = (struct gpu_handle){.kind = GPU_HANDLE_MEMORY_FILE, .extent = v->extent, .offset = v->offset, .used = v->bytes,
			.bytes = v->bytes, .generation = x->number};
	}
	return shm_new_filled(&s->records, "trims-handles", h, s->n_pieces * sizeof *h, o, &x->why);
}

static int make_numa(struct beside_copy *x)
{
	struct daemon *d = x->all->daemon;
	struct segment *s = x->segment;
	uint64_t bytes[PIECES_MAX];
	for (uint32_t i = 0; i < s->n_pieces; i++)
		bytes[i] = s->pieces->v[i].bytes;
	int e = gpu_memory_new_on_host(&s->device, d->gpu, x->device, bytes, s->n_pieces, &x->why);
	return e ? e : session_records_new(&s->records, s->device, s->pieces, s->n_pieces, x->number, &d->shm, &x->why);
}

static void run_make(struct job *job, void *worker)
{
	struct beside_copy *x = container_of(job, struct beside_copy, job);
	x->result = segment_new(&x->segment, x->layout, x->number, SEGMENT_DEVICE, STEAL(x->pieces), x->label, &x->all->daemon->shm,
		&x->why);
	if (!x->result)
		x->result = x->way == GPU_DIRECT_NUMA ? make_numa(x) : make_files(x);
	if (x->result)
		run_free(job, NULL);
}

static void say_no_memory(struct beside_copy *x)
{
	daemon_degraded(x->all->daemon, "dha-not-made", "%s: %s: %.300s", x->label, way_names[x->way], x->why.text);
	metrics_add(M_fallback_dha_not_made, 1);
}

static void made(struct job *job)
{
	struct beside_copy *x = container_of(job, struct beside_copy, job);
	x->at_work = false;
	if (job->withdrawn) {
		x->result = -ECANCELED;
		fault_set(&x->why, TRIMS_E_STOPPING, "the daemon is stopping");
	} else if (x->result) {
		say_no_memory(x);
	}
	if (x->result) {
		x->dropped = true;
		refuse_all(x, &x->why);
	} else {
		x->phase = PHASE_FILLING;
		answer_those_who_may(x);
		advance(x);
	}
	settle(x);
}

/* NULL: there is no room for it. */
static struct beside_copy *begin(struct beside *b, struct holding *img, uint8_t tier, enum gpu_direct_way way, uid_t uid)
{
	const struct segment *of = img->copies[tier];
	struct pieces *p = cut(holding_layout(img), of->pieces);
	uint64_t bytes = pieces_bytes(p, p->n, GPU_EXTENT_ALIGN);
	if (!make_room(b, bytes)) {
		pieces_free(&p);
		return NULL;
	}
	struct beside_copy *x = calloc(1, sizeof *x);
	ASSERT(x);
	*x = (struct beside_copy){.all = b, .image = img, .desc = image_desc_ref(holding_desc(img)), .layout = holding_layout(img), .number = NUMBERS | ++b->made,
		.of = of->generation, .tier = tier, .device = gpu_memory_device(of->device), .way = way, .uid = uid, .bytes = bytes,
		.pieces = p};
	snprintf(x->label, sizeof x->label, "%s", holding_label(img));
	list_init(&x->holders);
	list_init(&x->waiting);
	list_add_tail(&x->node, &b->copies);
	b->bytes[way] += bytes;
	book(b);
	submit(x, run_make, made);
	return x;
}

/* ---- asking ---- */

static struct beside_copy *find(const struct beside *b, uint64_t of, enum gpu_direct_way way, uid_t uid)
{
	list_for_each(it, &b->copies) {
		struct beside_copy *x = list_entry(it, struct beside_copy, node);
		if (!x->dropped && x->of == of && x->way == way && (way != GPU_DIRECT_TRUSTED || x->uid == uid))
			return x;
	}
	return NULL;
}

static int check_way(const struct beside *b, const struct conn *c, const struct segment *copy, uint32_t way, struct fault *why)
{
	const struct gpu_facts *f = gpu_facts(b->daemon->gpu, gpu_memory_device(copy->device));
	if (copy->pieces->n_plan == copy->pieces->n)
		fault_set(why, TRIMS_E_BAD_REQUEST, "its plan leaves nothing on the host");
	else if (way != GPU_DIRECT_NUMA && way != GPU_DIRECT_TRUSTED)
		fault_set(why, TRIMS_E_UNSUPPORTED, "this daemon knows no such way of direct access");
	else if (!b->daemon->config->direct_bytes)
		fault_set(why, TRIMS_E_UNSUPPORTED, "direct-bytes is 0: nothing is kept on the host for devices to read");
	else if (way == GPU_DIRECT_NUMA && !f->host_numa_vmm)
		fault_set(why, TRIMS_E_UNSUPPORTED, "%s has no memory on the host to share (attribute 141)", f->uuid);
	else if (way == GPU_DIRECT_TRUSTED && !is_trusted(b, conn_uid(c)))
		fault_set(why, TRIMS_E_DENIED, "direct-trusted does not name user %u", (unsigned)conn_uid(c));
	else
		return 0;
	return -ENOTSUP;
}

/* The copy on a device that the lease is on; NULL: there is none. */
static struct holding *leased(struct conn *c, uint64_t lease, uint8_t *tier)
{
	struct daemon *d = conn_daemon(c);
	uint64_t model = cache_lease_model(d->cache, conn_id(c), lease), copy;
	struct holding *img = model ? holding_by_model(d, model) : NULL;
	if (!img || !integrity_lease(d->integrity, lease, tier, &copy))
		return NULL;
	return img->copies[*tier] && img->copies[*tier]->generation == copy ? img : NULL;
}

static void say_no_room(struct beside *b, const struct holding *img, struct fault *why)
{
	fault_set(why, TRIMS_E_NO_ROOM, "direct-bytes (%" PRIu64 ") has no room for what devices read of it", b->daemon->config->direct_bytes);
	daemon_degraded(b->daemon, "dha-no-room", "%s: %s", holding_label(img), why->text);
	metrics_add(M_fallback_dha_no_room, 1);
}

void beside_ask(struct conn *c, uint64_t request, const struct msg_direct *m)
{
	struct beside *b = conn_daemon(c)->beside;
	struct fault why;
	uint8_t tier;
	uint64_t ticket;
	struct holding *img = leased(c, m->lease, &tier);
	if (!img) {
		conn_reply_fault(c, request, TRIMS_E_NO_LEASE, "not a lease on a copy on a device");
		return;
	}
	if (check_way(b, c, img->copies[tier], m->way, &why)) {
		conn_reply_fault(c, request, why.code, why.text);
		return;
	}
	struct beside_copy *x = find(b, img->copies[tier]->generation, (enum gpu_direct_way)m->way, conn_uid(c));
	if (m->flags & ~1u) {
		conn_reply_fault(c, request, TRIMS_E_BAD_REQUEST, "unknown flag");
		return;
	}
	if (m->flags & 1 && (!x || x->phase != PHASE_READY)) {
		conn_reply_fault(c, request, TRIMS_E_BUSY, "not all of it is there");
		return;
	}
	if (!x && !(x = begin(b, img, tier, (enum gpu_direct_way)m->way, conn_uid(c)))) {
		say_no_room(b, img, &why);
		conn_reply_fault(c, request, why.code, why.text);
		return;
	}
	if ((ticket = conn_begin(c, request)))
		add_user(x, c, request, ticket, m->lease);
	if (x->dropped) { /* room for the request was made by ending a connection, the last one that had it */
		fault_set(&why, TRIMS_E_BUSY, "it has just been given up; try again");
		refuse_all(x, &why);
	}
	answer_those_who_may(x);
	advance(x);
	settle(x);
}

/* All of the model is on the device by now, and nobody needs it; or nobody is left who would see to it that it gets filled. */
static bool is_of_no_use(const struct beside_copy *x)
{
	const struct segment *of = x->dropped ? NULL : x->image->copies[x->tier];
	return x->phase != PHASE_READY || !of || of->generation != x->of || of->n_pieces == of->pieces->n;
}

void beside_left(struct beside *b, uint64_t lease)
{
	struct fault why;
	struct user *u;
	fault_set(&why, TRIMS_E_NO_LEASE, "the lease was given back");
	while ((u = idmap_get(&b->leases, lease))) {
		struct beside_copy *x = u->copy;
		if (u->ticket)
			refuse(u, &why);
		else
			user_free(u);
		x->left_ns = clock_now();
		if (list_empty(&x->holders) && list_empty(&x->waiting) && is_of_no_use(x))
			x->dropped = true;
		settle(x);
	}
}

void beside_forget(struct beside *b, uint64_t copy)
{
	list_for_each_safe(it, &b->copies) {
		struct beside_copy *x = list_entry(it, struct beside_copy, node);
		if (x->of != copy)
			continue;
		x->dropped = true;
		settle(x);
	}
}

void beside_free(struct beside **bp)
{
	struct beside *b = STEAL(*bp);
	if (!b)
		return;
	ASSERT(!b->leases.n);
	while (!list_empty(&b->copies)) {
		struct beside_copy *x = list_first(&b->copies, struct beside_copy, node);
		run_free(&x->job, NULL);
		copy_end(x);
	}
	idmap_fini(&b->leases);
	free(b);
}

/* ---- looking ---- */

bool beside_verify(struct beside *b, const struct holding *img, uint64_t *after,
	void (*done)(void *ctx, const char *way, uint32_t n_chunks, uint32_t n_bad, uint64_t bytes), void *ctx)
{
	list_for_each(it, &b->copies) {
		struct beside_copy *x = list_entry(it, struct beside_copy, node);
		if (x->image != img || x->number <= *after || x->dropped || x->at_work || x->phase != PHASE_READY)
			continue;
		*after = x->number;
		x->told = done;
		x->told_ctx = ctx;
		if (begin_check(x))
			return true;
		x->told = NULL;
	}
	return false;
}

static uint32_t count(const struct list *l)
{
	uint32_t n = 0;
	list_for_each(it, l)
		n++;
	return n;
}

json_t *beside_rows(const struct beside *b, const struct holding *img)
{
	json_t *rows = json_array();
	list_for_each(it, &b->copies) {
		const struct beside_copy *x = list_entry(it, struct beside_copy, node);
		if (x->image != img || x->dropped)
			continue;
		const struct gpu_facts *f = gpu_facts(b->daemon->gpu, x->device);
		json_t *row = json_pack("{s:s, s:s, s:b, s:I, s:s, s:i}", "way", way_names[x->way], "device", f->uuid, "simulated",
			gpu_is_simulated(b->daemon->gpu), "bytes", (json_int_t)x->bytes, "state", x->phase == PHASE_READY ? "ready"
			: "loading", "users", (int)count(&x->holders));
		if (x->way == GPU_DIRECT_TRUSTED)
			json_object_set_new(row, "user", json_integer((json_int_t)x->uid));
		else
			json_object_set_new(row, "numa_node", json_integer(f->host_numa_node));
		json_array_append_new(rows, row);
	}
	return rows;
}

void beside_doctor(const struct beside *b, void (*check)(json_t *checks, const char *name, const char *state, const char *fmt,
	...) __attribute__((format(printf, 4, 5))), json_t *checks)
{
	const struct daemon *d = b->daemon;
	bool numa = false, registers = true;
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++) {
		numa |= gpu_facts(d->gpu, i)->host_numa_vmm;
		registers &= gpu_facts(d->gpu, i)->register_read_only;
	}
	if (!gpu_count(d->gpu))
		return;
	check(checks, "direct-access", registers || (numa && d->config->direct_bytes) || b->n_trusted ? "ok" : "degraded",
		"%sread-only registration %s; dha-host-numa %s, %.1f MB; dha-trusted for %" PRIu32 " users%s, %.1f MB; direct-bytes %.1f MB",
		gpu_is_simulated(d->gpu) ? "simulated: " : "", registers ? "yes" : "no", numa ? "yes" : "no (attribute 141)",
		(double)b->bytes[GPU_DIRECT_NUMA] / 1e6, b->n_trusted,
		b->n_trusted ? ", each of whose processes can change what the others read there" : "",
		(double)b->bytes[GPU_DIRECT_TRUSTED] / 1e6, (double)d->config->direct_bytes / 1e6);
}
