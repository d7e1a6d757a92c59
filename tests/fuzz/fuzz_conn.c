/* fuzz_conn.c - a live connection: a whole daemon in this process, with a small model to be opened, and a client that says
 * whatever the input says.  Afterwards a well-behaved client must still be welcomed.
 *
 * Input: a byte, odd: a proper HELLO comes first.  Then records:
 *   n < 0x80:  n descriptors (at most 8), u16 length, that many bytes: a datagram as it is
 *   n >= 0x80: n - 0x80 descriptors, u8 type, u8 request, u16 length, body: a datagram with a proper header */
#include "mrm/config.h"
#include "mrm/daemon.h"
#include "shared/check.h"
#include "shared/log.h"
#include "shared/metrics.h"
#include "shared/msg.h"
#include "shared/own.h"
#include "shared/seqpacket.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_RECORDS 64
#define MAX_RECORD_FDS 8

static char dir[] = "/tmp/trims-fuzz-conn-XXXXXX";
static char socket_path[64];
static struct daemon *daemon_;
static pthread_t loop;

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	return remove(path);
}

static void stop(void)
{
	kill(getpid(), SIGTERM);
	pthread_join(loop, NULL);
	daemon_free(&daemon_);
	metrics_unlink(socket_path);
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void *run(void *arg)
{
	daemon_run(daemon_);
	return NULL;
}

static void write_model(void)
{
	static const char header[] = "{\"w\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}";
	char path[96];
	uint64_t bytes = sizeof header - 1;
	snprintf(path, sizeof path, "%s/m.safetensors", dir);
	FILE *f = fopen(path, "w");
	ASSERT(f);
	ASSERT(fwrite(&bytes, sizeof bytes, 1, f) == 1 && fwrite(header, bytes, 1, f) == 1 && fwrite("weights!", 8, 1, f) == 1);
	ASSERT(!fclose(f));
}

static void start(void)
{
	char source[64], cache[64];
	struct config *config;
	enum config_action action;
	struct fault why = {0};
	ASSERT(mkdtemp(dir));
	snprintf(socket_path, sizeof socket_path, "%s/s", dir);
	snprintf(source, sizeof source, "dir:%s", dir);
	snprintf(cache, sizeof cache, "%s/cache", dir);
	const char *const args[] = {"mrm", "--socket", socket_path, "--source", source, "--cache-dir", cache, "--host-bytes",
		"16M", "--disk-bytes", "16M", "--connections", "1", "--read-threads", "1", "--read-depth", "1", "--log-level",
		"error", "--profiler", "no"};
	static char *argv[ARRAY_LEN(args)]; /* the daemon keeps it, for reloads */
	for (size_t i = 0; i < ARRAY_LEN(args); i++)
		argv[i] = (char *)args[i];
	log_set_level(LOG_ERROR);
	write_model();
	ASSERT(!config_load(&config, ARRAY_LEN(argv), argv, &action, &why));
	ASSERT(!daemon_new(&daemon_, config, ARRAY_LEN(argv), argv, &why));
	ASSERT(!pthread_create(&loop, NULL, run, NULL));
	atexit(stop);
}

static void put16(uint8_t *at, uint32_t v)
{
	at[0] = (uint8_t)v;
	at[1] = (uint8_t)(v >> 8);
}

static size_t header(uint8_t *out, uint8_t type, uint8_t request, uint32_t body)
{
	memset(out, 0, MSG_HEADER_BYTES);
	put16(out, MSG_VERSION);
	put16(out + 2, type);
	put16(out + 4, body);
	out[8] = request;
	return MSG_HEADER_BYTES;
}

static int say_hello(int fd)
{
	struct msg m;
	uint8_t buf[MSG_MAX_BYTES];
	int fds[MSG_MAX_FDS];
	uint32_t n;
	msg_init(&m, MSG_HELLO, 1);
	m.u.hello.version_min = m.u.hello.version_max = MSG_VERSION;
	ssize_t len = msg_encode(&m, buf, sizeof buf, fds, &n);
	return seqpacket_send(fd, buf, (size_t)len, NULL, 0, 0);
}

/* One record; returns how much of the input it was, 0 at the end. */
static size_t say_record(int fd, const uint8_t *p, size_t left)
{
	static uint8_t out[MSG_HEADER_BYTES + UINT16_MAX];
	bool typed = left && *p >= 0x80;
	size_t head = typed ? 5 : 3, len = 0;
	int fds[MAX_RECORD_FDS];
	if (left < head)
		return 0;
	uint32_t n = MIN(p[0] & 0x7fu, (uint32_t)MAX_RECORD_FDS);
	size_t body = MIN((size_t)p[head - 2] | (size_t)p[head - 1] << 8, left - head);
	if (typed)
		len = header(out, p[1], p[2], (uint32_t)body);
	memcpy(out + len, p + head, body);
	for (uint32_t i = 0; i < n; i++)
		fds[i] = fd; /* any descriptor will do */
	seqpacket_send(fd, out, len + body, fds, n, MSG_DONTWAIT);
	return head + body;
}

/* Takes what has come so far; true when a WELCOME was among it. */
static bool listen_to(int fd, int flags)
{
	uint8_t buf[MSG_MAX_BYTES];
	int fds[SEQPACKET_MAX_FDS];
	uint32_t n;
	ssize_t len;
	while ((len = seqpacket_recv(fd, buf, sizeof buf, fds, SEQPACKET_MAX_FDS, &n, flags)) > 0) {
		struct msg m;
		ASSERT(!msg_decode(buf, (size_t)len, fds, n, &m));
		bool welcome = m.type == MSG_WELCOME;
		msg_fini(&m);
		if (welcome)
			return true;
	}
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	OWN_FD int fd = -1;
	OWN_FD int other = -1;
	if (!daemon_)
		start();
	ASSERT(!seqpacket_connect(socket_path, 0, &fd));
	if (size && data[0] & 1)
		say_hello(fd);
	size_t at = 1, step;
	for (int i = 0; at < size && i < MAX_RECORDS && (step = say_record(fd, data + at, size - at)); i++)
		at += step;
	ASSERT(!seqpacket_connect(socket_path, 0, &other));
	ASSERT(!say_hello(other) && listen_to(other, 0));
	listen_to(fd, MSG_DONTWAIT);
	return 0;
}
