/* file.c - the small files that travel with a model.
 * Keeps: a file is fetched and mapped once per open model; the list only grows until model_unmap_files(). */
#include "client/model.h"

#include "client/fail.h"
#include "client/memory.h"
#include "shared/own.h"

#include <string.h>

struct model_file {
	struct model_file *next;
	const void *data;
	size_t bytes;
	char path[];
};

static int fetch(trims_model *m, struct model_lease lease, const char *path, int *fd, uint64_t *bytes)
{
	struct msg request, reply;
	msg_init(&request, MSG_FILE, 0);
	request.u.file.lease = lease.number;
	if (MSG_SET_STR(request.u.file.path, path) < 0)
		return fail(TRIMS_E_NO_FILE, "the model carries no file \"%.255s\"", path);
	int r = conn_call(m->conn, &request, MSG_FILED, conn_request_deadline(m->conn), &reply, &lease.life);
	if (r < 0)
		return r;
	*fd = msg_take_fd(&reply.u.filed.fds, 0);
	*bytes = reply.u.filed.bytes;
	return *fd < 0 ? fail(TRIMS_E_PROTOCOL, "the daemon answered FILE without a file") : 0;
}

static const struct model_file *find(const trims_model *m, const char *path)
{
	for (const struct model_file *f = m->files; f; f = f->next)
		if (!strcmp(f->path, path))
			return f;
	return NULL;
}

static int add(trims_model *m, const char *path, const struct model_file **out)
{
	OWN_FD int fd = -1;
	uint64_t bytes;
	int r = fetch(m, model_lease(m), path, &fd, &bytes);
	if (r < 0)
		return r;
	OWN_MEM struct model_file *f = malloc(sizeof *f + strlen(path) + 1);
	if (!f)
		return fail(TRIMS_E_NO_MEMORY, "no memory for a file");
	if ((r = memory_map(fd, bytes, &f->data)) < 0)
		return r;
	f->bytes = bytes;
	strcpy(f->path, path);
	f->next = m->files;
	*out = m->files = STEAL(f);
	return 0;
}

int trims_file(trims_model *m, const char *path, const void **data, size_t *bytes)
{
	int r = 0;
	pthread_mutex_lock(&m->files_lock);
	const struct model_file *f = find(m, path);
	if (!f)
		r = add(m, path, &f);
	if (r == 0) {
		*data = f->data;
		*bytes = f->bytes;
	}
	pthread_mutex_unlock(&m->files_lock);
	return r;
}

int trims_file_fd(trims_model *m, const char *path, int *fd, uint64_t *bytes)
{
	OWN_FD int got = -1;
	uint64_t n;
	const void *data;
	int r = fetch(m, model_lease(m), path, &got, &n);
	if (r == 0 && (r = memory_map(got, n, &data)) == 0) { /* proves that the size is true */
		memory_unmap(data, n);
		*fd = steal_fd(&got);
		*bytes = n;
	}
	return r;
}

void model_unmap_files(trims_model *m)
{
	while (m->files) {
		struct model_file *f = m->files;
		m->files = f->next;
		memory_unmap(f->data, f->bytes);
		free(f);
	}
}
