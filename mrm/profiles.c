/* profiles.c - see profiles.h.
 * Keeps: entries are in the order of their numbers, the oldest first; one writing job is on its way at a time. */
#include "mrm/profiles.h"

#include "mrm/clock.h"
#include "mrm/gpu/gpu.h"
#include "mrm/shm.h"
#include "shared/check.h"
#include "shared/device_class.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/own.h"
#include "shared/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALED (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)
_Static_assert(DISK_PROFILE_CLASS + 1 == DEVICE_CLASS_BYTES, "one bound");

struct entry {
	uint64_t number; /* a cursor; greater: younger */
	struct disk_profile profile;
};

struct profiles {
	struct daemon *daemon;
	struct entry *entries;
	uint32_t n, cap;
	uint64_t last, bytes;
	char cpu[DEVICE_CLASS_BYTES];
	struct list writes; /* struct write: the first is with a worker */
};

/* ---- what is there ---- */

static void add(struct profiles *p, const struct disk_profile *profile)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 16;
		p->entries = realloc(p->entries, p->cap * sizeof *p->entries);
		ASSERT(p->entries);
	}
	p->entries[p->n++] = (struct entry){++p->last, *profile};
	p->bytes += profile->bytes;
}

static void forget(struct profiles *p, uint32_t i)
{
	p->bytes -= p->entries[i].profile.bytes;
	memmove(p->entries + i, p->entries + i + 1, (--p->n - i) * sizeof *p->entries);
}

static void found(void *ctx, const struct disk_profile *profile)
{
	add(ctx, profile);
}

static int by_age(const void *a, const void *b)
{
	uint64_t x = ((const struct entry *)a)->profile.stored_s, y = ((const struct entry *)b)->profile.stored_s;
	return x < y ? -1 : x > y;
}

void profiles_class(const struct daemon *d, uint32_t device, char class[DISK_PROFILE_CLASS + 1], char driver[DISK_PROFILE_DRIVER + 1])
{
	*driver = 0;
	if (device == CACHE_ANY_DEVICE) {
		strcpy(class, d->profiles->cpu);
		return;
	}
	const struct gpu_facts *f = gpu_facts(d->gpu, device);
	device_class_gpu(class, f->name, f->total_bytes, gpu_is_simulated(d->gpu));
	device_class_driver(driver, gpu_driver_version(d->gpu));
}

static bool is_of(const struct disk_profile *p, struct hash128 digest)
{
	return hash_equal(p->digest, digest);
}

bool profiles_have(const struct daemon *d, struct hash128 digest, const char *class, const char *driver, const char *executor)
{
	const struct profiles *p = d->profiles;
	for (uint32_t i = 0; i < p->n; i++) {
		const struct disk_profile *e = &p->entries[i].profile;
		if (is_of(e, digest) && !strcmp(e->class, class) && !strcmp(e->driver, driver) &&
			!strncmp(e->executor, executor, strlen(executor)))
			return true;
	}
	return false;
}

/* Devices of this machine that it is a profile for: "cpu", or UUIDs. */
static json_t *devices_of(const struct daemon *d, const struct disk_profile *p)
{
	char class[DISK_PROFILE_CLASS + 1], driver[DISK_PROFILE_DRIVER + 1];
	json_t *list = json_array();
	profiles_class(d, CACHE_ANY_DEVICE, class, driver);
	if (!strcmp(class, p->class) && !strcmp(driver, p->driver))
		json_array_append_new(list, json_string("cpu"));
	for (uint32_t i = 0; i < gpu_count(d->gpu); i++) {
		profiles_class(d, i, class, driver);
		if (!strcmp(class, p->class) && !strcmp(driver, p->driver))
			json_array_append_new(list, json_string(gpu_facts(d->gpu, i)->uuid));
	}
	return list;
}

static json_t *row(const struct daemon *d, const struct disk_profile *p)
{
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "device_class", p->class, "driver", p->driver, "executor", p->executor,
		"stored_unix_s", (json_int_t)p->stored_s, "bytes", (json_int_t)p->bytes, "devices", devices_of(d, p));
}

json_t *profiles_list(const struct daemon *d, struct hash128 digest)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < d->profiles->n; i++)
		if (is_of(&d->profiles->entries[i].profile, digest))
			json_array_append_new(list, row(d, &d->profiles->entries[i].profile));
	return list;
}

/* ---- writing ---- */

struct write {
	struct job job;
	struct list node;
	struct daemon *daemon;
	int fd;                   /* of the text; -1: the profile is removed */
	bool sealed;              /* it must be, as a client might still change it */
	struct disk_profile profile;
	uint64_t conn, request, ticket; /* conn 0: nobody waits */
	int result;
	struct fault why;
};

static void submit(struct write *w)
{
	pool_submit(w->daemon->misc, &w->job);
}

static int refuse(struct fault *why, const char *what)
{
	return fault_set(why, TRIMS_E_BAD_REQUEST, "profile: %s", what);
}

static int read_text(struct write *w, char **out)
{
	struct stat st;
	int seals = fcntl(w->fd, F_GET_SEALS);
	if (w->sealed && (seals < 0 || (seals & SEALED) != SEALED))
		return refuse(&w->why, "not a sealed memory file");
	if (fstat(w->fd, &st) || st.st_size <= 0 || (uint64_t)st.st_size > DISK_PROFILE_MAX)
		return refuse(&w->why, "empty, or larger than 4 MiB");
	size_t n = (size_t)st.st_size;
	OWN_MEM char *text = malloc(n + 1);
	if (!text)
		return fault_set(&w->why, TRIMS_E_NO_MEMORY, "no memory for a profile of %zu bytes", n);
	if (pread(w->fd, text, n, 0) != st.st_size)
		return refuse(&w->why, "it cannot be read");
	text[n] = 0;
	w->profile.bytes = n;
	*out = STEAL(text);
	return 0;
}

static int take_key(const json_t *profile, const char *key, bool empty, char *out, size_t max, struct fault *why)
{
	const char *text = json_string_value(json_object_get(profile, key));
	size_t n = text ? strlen(text) : 0;
	if (!text || n > max || (!n && !empty))
		return fault_set(why, TRIMS_E_BAD_REQUEST, "profile: \"%s\" is missing, empty or longer than %zu bytes", key, max);
	memcpy(out, text, n + 1);
	return 0;
}

/* What the planner makes of its numbers is the planner's to check. */
static int check_text(struct disk_profile *p, const char *text, struct fault *why)
{
	json_error_t error;
	json_t *profile = json_loadb(text, p->bytes, JSON_REJECT_DUPLICATES, &error);
	const char *format = json_string_value(json_object_get(profile, "format"));
	size_t layers = json_array_size(json_object_get(profile, "layers"));
	int e = 0;
	if (!profile)
		e = fault_set(why, TRIMS_E_BAD_REQUEST, "profile: line %d: %s", error.line, error.text);
	else if (!format || strcmp(format, "trims-profile-1"))
		e = refuse(why, "its format is not \"trims-profile-1\"");
	else if (!layers || layers > PLAN_MAX_LAYERS)
		e = refuse(why, "it has no layers, or too many");
	if (!e)
		e = take_key(profile, "device_class", false, p->class, DISK_PROFILE_CLASS, why);
	if (!e)
		e = take_key(profile, "driver", true, p->driver, DISK_PROFILE_DRIVER, why);
	if (!e)
		e = take_key(profile, "executor", false, p->executor, DISK_PROFILE_EXECUTOR, why);
	json_decref(profile);
	return e;
}

static void write_run(struct job *job, void *worker)
{
	struct write *w = container_of(job, struct write, job);
	OWN_MEM char *text = NULL;
	if (w->fd < 0) {
		w->result = disk_profile_remove(w->daemon->disk, &w->profile, &w->why);
		return;
	}
	w->result = read_text(w, &text);
	if (!w->result)
		w->result = check_text(&w->profile, text, &w->why);
	w->profile.stored_s = clock_unix() / NS_PER_S;
	if (!w->result)
		w->result = disk_profile_write(w->daemon->disk, &w->profile, text, &w->why);
}

static void start(struct daemon *d, struct write from);

/* The oldest give way. */
static void make_room(struct profiles *p)
{
	const struct config *c = p->daemon->config;
	while (p->n > 1 && (p->n > c->max_profiles || p->bytes > c->profile_bytes)) {
		start(p->daemon, (struct write){.fd = -1, .profile = p->entries[0].profile});
		forget(p, 0);
	}
}

static void stored(struct profiles *p, const struct disk_profile *profile)
{
	for (uint32_t i = p->n; i-- > 0;)
		if (disk_profile_same_key(&p->entries[i].profile, profile))
			forget(p, i);
	add(p, profile);
	metrics_add(M_profiles_stored, 1);
	make_room(p);
}

static void answer(struct write *w, bool withdrawn)
{
	struct conn *c = w->conn ? server_conn(w->daemon->server, w->conn) : NULL;
	struct msg m;
	if (!c || !conn_redeem(c, w->ticket))
		return;
	if (withdrawn || w->result) {
		conn_reply_fault(c, w->request, withdrawn ? TRIMS_E_STOPPING : w->why.code, withdrawn ? "the daemon is stopping" : w->why.text);
		return;
	}
	msg_init(&m, MSG_DONE, w->request);
	MSG_SET_TEXT(m.u.done.text, "stored");
	conn_reply(c, &m);
}

static bool is_there(const struct profiles *p, const struct disk_profile *profile)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (disk_profile_same_key(&p->entries[i].profile, profile))
			return true;
	return false;
}

/* What was to be removed and has been stored again meanwhile stays: a file is named by its key alone. */
static void go_on(struct profiles *p)
{
	while (!list_empty(&p->writes)) {
		struct write *w = list_entry(p->writes.next, struct write, node);
		if (w->fd >= 0 || !is_there(p, &w->profile)) {
			submit(w);
			return;
		}
		list_del(&w->node);
		free(w);
	}
}

static void write_done(struct job *job)
{
	struct write *w = container_of(job, struct write, job);
	struct profiles *p = w->daemon->profiles;
	if (!job->withdrawn && !w->result && w->fd >= 0)
		stored(p, &w->profile);
	else if (!job->withdrawn && w->result && !w->conn)
		log_warn("profiles", "%s", w->why.text);
	answer(w, job->withdrawn);
	list_del(&w->node); /* only now: what was asked for meanwhile has queued up behind it */
	if (w->fd >= 0)
		close(w->fd);
	free(w);
	go_on(p);
}

static void start(struct daemon *d, struct write from)
{
	struct profiles *p = d->profiles;
	struct write *w = malloc(sizeof *w);
	ASSERT(w);
	*w = from;
	w->daemon = d;
	w->job = (struct job){.run = write_run, .done = write_done, .class = CLASS_PERSIST, .deadline = CACHE_NEVER};
	bool idle = list_empty(&p->writes);
	list_add_tail(&w->node, &p->writes);
	if (idle)
		submit(w);
}

void profiles_store(struct conn *c, uint64_t request, struct holding *img, int fd)
{
	struct daemon *d = conn_daemon(c);
	if (!(img->digest.hi | img->digest.lo)) {
		conn_reply_fault(c, request, TRIMS_E_NOT_FOUND, "profiles are kept by content, and not all of this model's bytes have been seen");
		return;
	}
	uint64_t ticket = conn_begin(c, request);
	if (!ticket)
		return;
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0) {
		conn_redeem(c, ticket);
		conn_reply_fault(c, request, TRIMS_E_NO_SYSTEM, "no descriptor is left for a profile");
		return;
	}
	start(d, (struct write){.fd = own, .sealed = true, .profile.digest = img->digest, .conn = conn_id(c), .request = request,
		.ticket = ticket});
}

void profiles_keep(struct daemon *d, struct hash128 digest, int fd)
{
	start(d, (struct write){.fd = fd, .profile.digest = digest});
}

/* ---- handing out ---- */

struct page {
	struct job job;
	struct daemon *daemon;
	struct disk_profile profile;
	json_t *row;
	uint64_t conn, request, ticket, next;
	struct shm_region region;
	size_t bytes;
	int result;
	struct fault why;
};

/* One that was damaged is none, and gone; so is one that somebody has removed. */
static void page_run(struct job *job, void *worker)
{
	struct page *g = container_of(job, struct page, job);
	OWN_MEM char *text = NULL;
	json_t *list = json_array();
	if (g->row && !(g->result = disk_profile_read(g->daemon->disk, &g->profile, &text, &g->why))) {
		json_t *profile = json_loads(text, 0, NULL);
		json_object_set_new(g->row, "profile", profile ? profile : json_null());
		json_array_append_new(list, STEAL(g->row));
	}
	json_t *page = json_pack("{s:o}", "profiles", list);
	OWN_MEM char *dump = json_dumps(page, JSON_COMPACT);
	json_decref(page);
	g->bytes = dump ? strlen(dump) : 0;
	if (g->result && g->result != -EBADMSG && g->result != -ENOENT)
		return;
	struct fault why;
	int e = shm_new_filled(&g->region, "mrm:profile", dump ? dump : "{}", dump ? g->bytes : 2, &g->daemon->shm, &why);
	if (e) {
		g->result = e;
		g->why = why;
	}
}

static void lost(struct profiles *p, const struct disk_profile *gone)
{
	for (uint32_t i = p->n; i-- > 0;)
		if (disk_profile_same_key(&p->entries[i].profile, gone) && p->entries[i].profile.stored_s == gone->stored_s)
			forget(p, i);
}

static void page_done(struct job *job)
{
	struct page *g = container_of(job, struct page, job);
	struct conn *c = server_conn(g->daemon->server, g->conn);
	struct msg m;
	if (!job->withdrawn && (g->result == -EBADMSG || g->result == -ENOENT))
		lost(g->daemon->profiles, &g->profile);
	if (c && conn_redeem(c, g->ticket)) {
		if (job->withdrawn || g->region.fd < 0) {
			conn_reply_fault(c, g->request, job->withdrawn ? TRIMS_E_STOPPING : g->why.code,
				job->withdrawn ? "the daemon is stopping" : g->why.text);
		} else {
			msg_init(&m, MSG_REPORT, g->request);
			m.u.report.next = g->next;
			m.u.report.bytes = g->bytes;
			m.u.report.fds = (struct msg_fds){.n = 1, .fd = {g->region.fd}};
			conn_reply(c, &m);
		}
	}
	json_decref(g->row);
	shm_fini(&g->region);
	free(g);
}

/* The n-th of the model's behind the cursor; NULL: there are no more. */
static const struct entry *behind(const struct profiles *p, struct hash128 digest, uint64_t cursor, unsigned n)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (p->entries[i].number > cursor && is_of(&p->entries[i].profile, digest) && n-- == 0)
			return &p->entries[i];
	return NULL;
}

void profiles_report(struct conn *c, uint64_t request, const struct holding *img, uint64_t cursor)
{
	struct daemon *d = conn_daemon(c);
	const struct entry *e = behind(d->profiles, img->digest, cursor, 0);
	uint64_t ticket = conn_begin(c, request);
	if (!ticket)
		return;
	struct page *g = calloc(1, sizeof *g);
	ASSERT(g);
	*g = (struct page){.daemon = d, .conn = conn_id(c), .request = request, .ticket = ticket, .region.fd = -1};
	if (e) {
		g->profile = e->profile;
		g->row = row(d, &e->profile);
		g->next = behind(d->profiles, img->digest, cursor, 1) ? e->number : 0;
	}
	g->job = (struct job){.run = page_run, .done = page_done, .class = CLASS_DEMAND, .deadline = 0};
	pool_submit(d->misc, &g->job);
}

/* ---- life ---- */

struct profiles *profiles_new(struct daemon *d)
{
	struct profiles *p = calloc(1, sizeof *p);
	struct fault why;
	ASSERT(p);
	p->daemon = d;
	list_init(&p->writes);
	device_class_cpu(p->cpu);
	if (disk_profiles_scan(d->disk, found, p, &why))
		log_warn("profiles", "%s", why.text);
	if (p->n)
		qsort(p->entries, p->n, sizeof *p->entries, by_age);
	for (uint32_t i = 0; i < p->n; i++)
		p->entries[i].number = i + 1;
	return p;
}

void profiles_free(struct profiles **pp)
{
	struct profiles *p = STEAL(*pp);
	if (!p)
		return;
	ASSERT(list_empty(&p->writes));
	free(p->entries);
	free(p);
}
