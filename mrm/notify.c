/* notify.c - see notify.h. */
#include "mrm/notify.h"

#include "mrm/clock.h"
#include "shared/check.h"
#include "shared/own.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_FDS_START 3
#define PASSED_MAX 65536

struct passed {
	int fd;      /* -1: taken */
	char *name;
};

static struct passed *passed;
static size_t n_passed;

/* The names are separated by ':', and there may be fewer of them than descriptors. */
static void name_passed(const char *names)
{
	for (size_t i = 0; i < n_passed; i++) {
		size_t len = strcspn(names, ":");
		passed[i] = (struct passed){.fd = LISTEN_FDS_START + (int)i, .name = strndup(names, len)};
		ASSERT(passed[i].name);
		fcntl(passed[i].fd, F_SETFD, FD_CLOEXEC);
		names += len + (names[len] == ':');
	}
}

static void read_passed(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
	bool ours = pid && fds && strtol(pid, NULL, 10) == getpid();
	long n = ours ? strtol(fds, NULL, 10) : 0;
	if (!fds)
		return; /* nothing was passed, or it has been read */
	while (n_passed)
		free(passed[--n_passed].name);
	free(passed);
	n_passed = (size_t)MIN(MAX(n, 0L), (long)PASSED_MAX);
	passed = calloc(n_passed + 1, sizeof *passed);
	ASSERT(passed);
	name_passed(names ? names : "");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
}

static bool is_stored(const struct passed *p)
{
	return !strncmp(p->name, NOTIFY_STORED, strlen(NOTIFY_STORED));
}

static bool is_listener(int fd)
{
	int type = 0, listening = 0;
	socklen_t len = sizeof type;
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET &&
	       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening;
}

int notify_listen_fd(int *out)
{
	struct passed *found = NULL;
	read_passed();
	for (size_t i = 0; i < n_passed; i++) {
		if (is_stored(&passed[i]) || passed[i].fd < 0)
			continue;
		if (found)
			return -EINVAL;
		found = &passed[i];
	}
	if (!found)
		return -ENOENT;
	if (!is_listener(found->fd))
		return -EINVAL;
	*out = found->fd;
	found->fd = -1;
	fcntl(*out, F_SETFL, fcntl(*out, F_GETFL) | O_NONBLOCK);
	return 0;
}

bool notify_take_stored(int *fd, char *name, size_t size)
{
	read_passed();
	for (size_t i = 0; i < n_passed; i++) {
		if (passed[i].fd < 0 || !is_stored(&passed[i]))
			continue;
		*fd = passed[i].fd;
		passed[i].fd = -1;
		snprintf(name, size, "%s", passed[i].name + strlen(NOTIFY_STORED));
		return true;
	}
	return false;
}

static int manager_address(struct sockaddr_un *to, socklen_t *len)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t n = path ? strlen(path) : 0;
	if (!n || n >= sizeof to->sun_path || (*path != '/' && *path != '@'))
		return -ENOENT;
	*to = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(to->sun_path, path, n);
	if (*path == '@')
		to->sun_path[0] = 0;
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	return 0;
}

int notify_send_fd(const char *state, int fd)
{
	struct sockaddr_un to;
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec text = {.iov_base = (void *)(uintptr_t)state, .iov_len = strlen(state)};
	struct msghdr m = {.msg_name = &to, .msg_iov = &text, .msg_iovlen = 1};
	int e = manager_address(&to, &m.msg_namelen);
	if (e)
		return e;
	if (fd >= 0) {
		control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
		m.msg_control = control.room;
		m.msg_controllen = sizeof control.room;
	}
	OWN_FD int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return s >= 0 && sendmsg(s, &m, MSG_NOSIGNAL) >= 0 ? 0 : -errno;
}

void notify_send(const char *state)
{
	/* Nobody is left to tell when this fails; the service manager will notice by its time-out. */
	notify_send_fd(state, -1);
}

void notify_reloading(void)
{
	char text[64];
	snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, clock_now() / NS_PER_US);
	notify_send(text);
}

double notify_watchdog_interval(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	if (!usec || (pid && strtol(pid, NULL, 10) != getpid()))
		return 0;
	return strtod(usec, NULL) / 2e6;
}
