/* admin.c - requests for tools: reports, and changing what is kept where. */
#include "client/conn.h"

#include "client/fail.h"
#include "client/memory.h"
#include "client/plan.h"
#include "shared/name.h"
#include "shared/own.h"

#include <stdio.h>

static int check_name(const char *name)
{
	struct fault why;
	return name_check(name, &why) < 0 ? fail_fault(&why) : 0;
}

/* Sends a request that is answered by REPORT. */
static int report(trims_conn *conn, struct msg *request, char **json, size_t *bytes, uint64_t *next)
{
	struct msg reply;
	struct conn_life life = {0};
	int r = conn_call(conn, request, MSG_REPORT, conn_request_deadline(conn), &reply, &life);
	if (r < 0)
		return r;
	OWN_FD int fd = msg_take_fd(&reply.u.report.fds, 0);
	r = memory_read(fd, reply.u.report.bytes, json);
	if (r == 0) {
		*bytes = reply.u.report.bytes;
		*next = reply.u.report.next;
	}
	return r;
}

int trims_query(trims_conn *conn, uint32_t number, const char *model, uint64_t cursor, char **json, size_t *bytes,
	uint64_t *next)
{
	struct msg request;
	int r = model && *model ? check_name(model) : 0;
	if (r < 0)
		return r;
	msg_init(&request, MSG_QUERY, 0);
	request.u.query.report = number;
	request.u.query.cursor = cursor;
	if (model)
		MSG_SET_STR(request.u.query.model, model);
	return report(conn, &request, json, bytes, next);
}

int trims_verify(trims_conn *conn, const char *name, char **json, size_t *bytes)
{
	struct msg request;
	uint64_t next;
	int r = check_name(name);
	if (r < 0)
		return r;
	msg_init(&request, MSG_VERIFY, 0);
	MSG_SET_STR(request.u.verify.model, name);
	return report(conn, &request, json, bytes, &next);
}

/* Sends a request that is answered by DONE. */
static int act(trims_conn *conn, struct msg *request, char *text, size_t text_size)
{
	struct msg reply;
	struct conn_life life = {0};
	int r = conn_call(conn, request, MSG_DONE, conn_request_deadline(conn), &reply, &life);
	if (r == 0 && text && text_size)
		msg_set_text(text, text_size, reply.u.done.text);
	return r;
}

int trims_put_profile(trims_conn *conn, const char *name, const char *json, size_t bytes, char *text, size_t text_size)
{
	struct msg request;
	OWN_FD int fd = -1;
	int r = check_name(name);
	if (r == 0)
		r = memory_sealed("trims-profile", json, bytes, &fd);
	if (r < 0)
		return r;
	msg_init(&request, MSG_PROFILE, 0);
	MSG_SET_STR(request.u.profile.model, name);
	request.u.profile.profile = (struct msg_fds){.n = 1, .fd = {fd}};
	return act(conn, &request, text, text_size);
}

static int set_device(char *field, size_t size, const char *device)
{
	if (device && msg_set_str(field, size, device) < 0)
		return fail(TRIMS_E_BAD_REQUEST, "not a device's UUID: %.64s", device);
	return 0;
}

int trims_prefetch(trims_conn *conn, const char *name, uint32_t tier, const char *device, const struct trims_plan *plan,
	char *text, size_t text_size)
{
	struct msg request;
	OWN_FD int fd = -1;
	int r = check_name(name);
	if (r < 0)
		return r;
	msg_init(&request, MSG_PREFETCH, 0);
	MSG_SET_STR(request.u.prefetch.model, name);
	request.u.prefetch.tier = tier;
	r = set_device(request.u.prefetch.device, sizeof request.u.prefetch.device, device);
	if (r < 0 || (r = plan_for(plan, tier, &request.u.prefetch.plan, &fd)) < 0)
		return r;
	return act(conn, &request, text, text_size);
}

#define ACTION(NAME, name_)                                                                                           \
	int trims_##name_(trims_conn *conn, const char *name, uint32_t tier, const char *device, char *text,          \
		size_t text_size)                                                                                     \
	{                                                                                                             \
		struct msg request;                                                                                   \
		int r = check_name(name);                                                                             \
		if (r < 0)                                                                                            \
			return r;                                                                                     \
		msg_init(&request, MSG_##NAME, 0);                                                                    \
		MSG_SET_STR(request.u.name_.model, name);                                                             \
		request.u.name_.tier = tier;                                                                          \
		r = set_device(request.u.name_.device, sizeof request.u.name_.device, device);                        \
		return r < 0 ? r : act(conn, &request, text, text_size);                                              \
	}
ACTION(PIN, pin)
ACTION(UNPIN, unpin)
ACTION(EVICT, evict)
