/* source_probe.c - drives one source for test_source.py: commands as lines on stdin, one JSON object per line as answer.
 *   source_probe [--OPTION=NUMBER|--ca_file=PATH|--real-wait|--no-openat2|--no-pread]... URL
 *     resolve NAME [REVISION] | read FILE OFF BYTES | stream FILE OFF END STOP | describe | local FILE |
 *     together THREADS FILE BYTES | report | cancel | uncancel
 * `cancel` acts at once, while another command runs; all others run one after the other on a thread of their own.
 * Waits are recorded and not waited, unless --real-wait. */
#include "mrm/source/source.h"
#include "shared/image.h"
#include "shared/own.h"

#include <curl/curl.h>
#include <jansson.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static struct source *source;
static struct source_worker *worker;
static struct source_listing *listing;
static struct source_cancel *cancel;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the two below, and of setting against replacing `cancel` */
static json_t *lines, *waits;

static void on_log(void *ctx, enum log_level level, const char *line)
{
	pthread_mutex_lock(&lock);
	json_array_append_new(lines, json_string(line));
	pthread_mutex_unlock(&lock);
}

static int on_wait(void *ctx, uint64_t ns, const struct source_cancel *c)
{
	pthread_mutex_lock(&lock);
	json_array_append_new(waits, json_integer((json_int_t)ns));
	pthread_mutex_unlock(&lock);
	return source_cancel_is_set(c) ? -ECANCELED : 0;
}

static json_t *hex(const void *data, size_t bytes)
{
	static const char digits[] = "0123456789abcdef";
	char *text = malloc(2 * bytes + 1);
	for (size_t i = 0; i < bytes; i++) {
		text[2 * i] = digits[((const uint8_t *)data)[i] >> 4];
		text[2 * i + 1] = digits[((const uint8_t *)data)[i] & 15];
	}
	json_t *out = json_stringn(text, 2 * bytes);
	free(text);
	return out;
}

static json_t *digest(const void *data, size_t bytes)
{
	uint8_t out[32];
	EVP_Digest(data, bytes, out, NULL, EVP_sha256(), NULL);
	return hex(out, sizeof out);
}

static json_t *outcome(int r, const struct fault *why)
{
	return json_pack("{sisssbss}", "r", r, "code", r ? error_name(why->code) : "NONE", "ok", r == 0, "text",
		r ? why->text : "");
}

static json_t *show_file(const struct source_file *f)
{
	json_t *out = json_pack("{sssIsssssb}", "path", f->path, "bytes", (json_int_t)f->bytes, "version", f->version,
		"locator", f->locator, "no_ranges", f->no_ranges);
	if (f->has_sha256)
		json_object_set_new(out, "sha256", hex(f->sha256, sizeof f->sha256));
	return out;
}

static void show_listing(json_t *out)
{
	char fingerprint[40];
	json_t *weights = json_array(), *side = json_array();
	for (uint32_t i = 0; i < listing->n_files; i++)
		json_array_append_new(i < listing->n_weights ? weights : side, show_file(&listing->files[i]));
	snprintf(fingerprint, sizeof fingerprint, "%016llx%016llx", (unsigned long long)listing->fingerprint_hi,
		(unsigned long long)listing->fingerprint_lo);
	json_object_set_new(out, "weights", weights);
	json_t *left_out = json_object();
	for (uint32_t i = 0; i < MIN(listing->left_out.n, (uint32_t)SOURCE_LEFT_OUT_NAMED); i++)
		json_object_set_new(left_out, listing->left_out.named[i].path, json_string(listing->left_out.named[i].why));
	json_object_set_new(out, "side", side);
	json_object_set_new(out, "left_out", left_out);
	json_object_set_new(out, "n_left_out", json_integer(listing->left_out.n));
	json_object_set_new(out, "fingerprint", json_string(fingerprint));
	json_object_set_new(out, "revision", listing->revision ? json_string(listing->revision) : json_null());
	json_object_set_new(out, "no_ranges", json_boolean(listing->no_ranges));
	json_object_set_new(out, "in_place", json_boolean(listing->in_place));
	json_object_set_new(out, "index", json_integer(listing->index == UINT32_MAX ? -1 : (int)listing->index));
}

static json_t *do_resolve(const char *line)
{
	char name[300] = "", revision[300] = "";
	struct fault why = {0};
	sscanf(line, "resolve %299s %299s", name, revision);
	source_listing_free(&listing);
	int r = source_resolve(source, worker, name, revision, cancel, &listing, &why);
	json_t *out = outcome(r, &why);
	if (!r)
		show_listing(out);
	return out;
}

static json_t *do_read(const char *line)
{
	unsigned file;
	unsigned long long off, bytes;
	struct fault why = {0};
	if (sscanf(line, "read %u %llu %llu", &file, &off, &bytes) != 3)
		return NULL;
	OWN_MEM uint8_t *buf = calloc(1, bytes + 1);
	int r = source_read(worker, listing, file, off, bytes, buf, cancel, &why);
	json_t *out = outcome(r, &why);
	json_object_set_new(out, "sha256", digest(buf, bytes));
	return out;
}

struct sink {
	uint8_t *data;
	uint64_t bytes, stop, room;
	unsigned calls;
};

static int take(void *ctx, const uint8_t *data, size_t bytes)
{
	struct sink *s = ctx;
	if (!s->stop) /* a failure of the sink's own, under a number that also means "try again" */
		return -EAGAIN;
	if (s->bytes + bytes > s->room)
		return -EOVERFLOW;
	memcpy(s->data + s->bytes, data, bytes);
	s->bytes += bytes;
	s->calls++;
	return s->bytes >= s->stop;
}

static json_t *do_stream(const char *line)
{
	unsigned file;
	unsigned long long off, end, stop;
	struct fault why = {0};
	if (sscanf(line, "stream %u %llu %llu %llu", &file, &off, &end, &stop) != 4)
		return NULL;
	uint64_t room = listing->files[file].bytes;
	OWN_MEM uint8_t *buf = calloc(1, room + 1);
	struct sink sink = {.data = buf, .room = room, .stop = stop};
	int r = source_stream(worker, listing, file, off, end ? end : UINT64_MAX, take, &sink, cancel, &why);
	json_t *out = outcome(r, &why);
	json_object_set_new(out, "bytes", json_integer((json_int_t)sink.bytes));
	json_object_set_new(out, "sha256", digest(buf, sink.bytes));
	return out;
}

static json_t *do_describe(const char *line)
{
	struct source_description *d = NULL;
	struct fault why = {0};
	int r = source_describe(worker, listing, cancel, &d, &why);
	json_t *out = outcome(r, &why);
	if (r)
		return out;
	json_t *heads = json_array(), *side = json_object();
	for (uint32_t i = 0; i < d->n_heads; i++)
		json_array_append_new(heads, digest(d->heads[i].data, d->heads[i].bytes));
	for (uint32_t i = 0; i < d->n_side; i++)
		json_object_set_new(side, listing->files[listing->n_weights + i].path,
			digest(d->side[i].data, d->side[i].bytes));
	json_object_set_new(out, "tensors", json_integer(d->layout->n_tensors));
	json_object_set_new(out, "heads", heads);
	json_object_set_new(out, "side", side);
	source_description_free(&d);
	return out;
}

static json_t *do_local(const char *line)
{
	unsigned file;
	OWN_FD int fd = -1;
	struct fault why = {0};
	if (sscanf(line, "local %u", &file) != 1)
		return NULL;
	int r = source_open_local(listing, file, 0, &fd, &why);
	if (!r)
		r = source_check_local(listing, file, fd, &why);
	json_t *out = outcome(r, &why);
	if (!r) {
		OWN_MEM uint8_t *buf = malloc(listing->files[file].bytes + 1);
		ssize_t n = pread(fd, buf, listing->files[file].bytes, 0);
		json_object_set_new(out, "sha256", digest(buf, n > 0 ? (size_t)n : 0));
	}
	return out;
}

struct share {
	pthread_t thread;
	unsigned first, step, file;
	uint64_t piece;
	uint8_t *data;
	struct fault why;
	int r;
};

static void *read_share(void *ctx)
{
	struct share *s = ctx;
	struct source_worker *w = NULL;
	uint64_t size = listing->files[s->file].bytes;
	s->r = source_worker_new(&w, s->first + 1);
	for (uint64_t off = s->first * s->piece; !s->r && off < size; off += s->step * s->piece)
		s->r = source_read(w, listing, s->file, off, MIN(s->piece, size - off), s->data + off, cancel, &s->why);
	source_worker_free(&w);
	return NULL;
}

static json_t *do_together(const char *line)
{
	unsigned threads, file;
	unsigned long long piece;
	struct share shares[16] = {0};
	if (sscanf(line, "together %u %u %llu", &threads, &file, &piece) != 3 || threads > ARRAY_LEN(shares))
		return NULL;
	uint64_t size = listing->files[file].bytes;
	OWN_MEM uint8_t *data = calloc(1, size + 1);
	for (unsigned i = 0; i < threads; i++) {
		shares[i] = (struct share){.first = i, .step = threads, .file = file, .piece = piece, .data = data};
		if (pthread_create(&shares[i].thread, NULL, read_share, &shares[i]))
			abort();
	}
	const struct share *worst = &shares[0];
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(shares[i].thread, NULL);
		worst = shares[i].r ? &shares[i] : worst;
	}
	json_t *out = outcome(worst->r, &worst->why);
	json_object_set_new(out, "sha256", digest(data, size));
	return out;
}

static json_t *do_report(const char *line)
{
	json_t *counters = json_object();
	const struct source_counters *c = source_counters(source);
#define COUNTER(name, doc) json_object_set_new(counters, #name, json_integer((json_int_t)atomic_load(&c->name)));
#include "mrm/source/source_counters.def"
#undef COUNTER
	pthread_mutex_lock(&lock);
	json_t *out = json_pack("{sososo}", "counters", counters, "log", json_copy(lines), "waits", json_copy(waits));
	pthread_mutex_unlock(&lock);
	return out;
}

static json_t *do_uncancel(const char *line)
{
	pthread_mutex_lock(&lock);
	source_cancel_free(&cancel);
	int r = source_cancel_new(&cancel);
	pthread_mutex_unlock(&lock);
	return outcome(r, &(struct fault){0});
}

static json_t *run(const char *line)
{
	static const struct {
		const char *name;
		json_t *(*run)(const char *line);
		bool needs_listing;
	} commands[] = {
		{"resolve", do_resolve, false}, {"read", do_read, true}, {"stream", do_stream, true},
		{"describe", do_describe, true}, {"local", do_local, true}, {"together", do_together, true},
		{"report", do_report, false}, {"uncancel", do_uncancel, false},
	};
	size_t n = strcspn(line, " ");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (!strncmp(line, commands[i].name, n) && !commands[i].name[n])
			return commands[i].needs_listing && !listing ? NULL : commands[i].run(line);
	return NULL;
}

static void *serve(void *ctx)
{
	char line[1024];
	FILE *in = ctx;
	while (fgets(line, sizeof line, in)) {
		line[strcspn(line, "\n")] = 0;
		json_t *out = run(line);
		char *text = out ? json_dumps(out, 0) : strdup("{\"text\": \"not a command, or no listing\"}");
		puts(text);
		fflush(stdout);
		free(text);
		json_decref(out);
	}
	return NULL;
}

/* As on a kernel before 5.6, or under a container runtime's old filter. */
static void fail_calls(unsigned call, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {ARRAY_LEN(code), code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0)) {
		perror("seccomp");
		exit(77);
	}
}

static bool take_option(struct source_options *o, const char *arg)
{
	const char *value = strchr(arg, '=');
#define NUMBER(name)                                                                                                  \
	if (value && !strncmp(arg, "--" #name "=", sizeof "--" #name)) {                                              \
		o->name = (__typeof__(o->name))strtoull(value + 1, NULL, 0);                                          \
		return true;                                                                                          \
	}
	NUMBER(max_attempts)
	NUMBER(backoff_base_ns)
	NUMBER(backoff_cap_ns)
	NUMBER(retry_after_cap_ns)
	NUMBER(request_timeout_ns)
	NUMBER(connect_timeout_ns)
	NUMBER(stall_s)
	NUMBER(max_redirects)
	NUMBER(max_header_bytes)
	NUMBER(max_json_bytes)
	NUMBER(max_side_files)
	NUMBER(max_side_file_bytes)
	NUMBER(max_side_total_bytes)
	NUMBER(max_head_total_bytes)
	if (value && !strncmp(arg, "--ca_file=", 10))
		o->ca_file = value + 1;
	else if (!strcmp(arg, "--real-wait"))
		o->wait = NULL;
	else if (!strcmp(arg, "--no-openat2"))
		fail_calls(SYS_openat2, ENOSYS);
	else if (!strcmp(arg, "--no-pread"))
		fail_calls(SYS_pread64, EIO);
	else
		return false;
	return true;
}

static void set_cancel(void)
{
	pthread_mutex_lock(&lock);
	source_cancel_set(cancel);
	pthread_mutex_unlock(&lock);
}

static int drive(void)
{
	int fds[2];
	char line[1024];
	pthread_t thread;
	if (pipe(fds))
		return 1;
	FILE *in = fdopen(fds[0], "r");
	if (!in || pthread_create(&thread, NULL, serve, in))
		return 1;
	while (fgets(line, sizeof line, stdin)) {
		if (!strcmp(line, "cancel\n"))
			set_cancel();
		else if (write(fds[1], line, strlen(line)) < 0)
			return 1;
	}
	close(fds[1]);
	pthread_join(thread, NULL);
	fclose(in);
	return 0;
}

int main(int argc, char **argv)
{
	struct source_options o;
	struct fault why = {0};
	int i = 1;
	source_options_init(&o);
	o.log = on_log;
	o.wait = on_wait;
	for (; i < argc - 1 && take_option(&o, argv[i]); i++)
		;
	if (i != argc - 1 || curl_global_init(CURL_GLOBAL_DEFAULT))
		return 2;
	lines = json_array();
	waits = json_array();
	int r = source_new(&source, argv[i], &o, &why);
	json_t *hello = outcome(r, &why);
	char *text = json_dumps(hello, 0);
	puts(text);
	fflush(stdout);
	free(text);
	json_decref(hello);
	r = r || source_worker_new(&worker, 1) || source_cancel_new(&cancel) || drive();
	source_listing_free(&listing);
	source_cancel_free(&cancel);
	source_worker_free(&worker);
	source_free(&source);
	json_decref(lines);
	json_decref(waits);
	curl_global_cleanup();
	return r != 0;
}
