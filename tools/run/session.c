/* session.c - from a command line to a model that can be run.
 * Keeps: the load is asked for before anything else that takes time, so that bytes move while libraries start; only where the
 * model is on a GPU its context comes first, since memory is imported into it. */
#include "tools/run/run.h"

#include "shared/cuda.h"
#include "tools/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* "cuda:N" is the Nth device that this process sees; the daemon knows it by its UUID. */
static int find_device(struct session *s, int ordinal, bool *simulated, struct fault *why)
{
	const char *path = getenv("TRIMS_CUDA_DRIVER");
	struct cuda *cu;
	struct cu_uuid uuid;
	cu_device device;
	char name[128];
	size_t bytes = 0;
	int r = cuda_load(&cu, path && *path ? path : NULL, why);
	if (r)
		return r == -EPROTO || r == -ENODEV ? -EPROTO : fault_set(why, TRIMS_E_NO_MEMORY, "no memory for the driver's table");
	*simulated = cu->simulated;
	if (ordinal >= cu->n_devices) {
		r = fault_set(why, TRIMS_E_NO_TIER, "--device cuda:%d: this process sees %d devices", ordinal, cu->n_devices);
	} else {
		cu_result e = cu->device_get(&device, ordinal);
		if (!e)
			e = cu->device_get_uuid(&uuid, device);
		if (!e)
			e = cu->device_get_name(name, sizeof name, device);
		if (!e)
			e = cu->device_total_mem(&bytes, device);
		r = e ? cuda_fault(cu, e, "cuDeviceGetUuid", why) : 0;
		if (!r)
			cuda_uuid_text(&uuid, s->uuid);
		device_class_gpu(s->class, r ? "" : name, bytes, cu->simulated);
		s->driver = (uint32_t)cu->driver_version;
	}
	cuda_free(&cu);
	return r;
}

/* Simulated devices' memory can be read by the CPU, and that is who computes then unless somebody wishes otherwise. */
static int choose_backend(struct session *s, const struct run *r, int *ordinal, struct fault *why)
{
	bool simulated = false, host = strcmp(r->device, "cpu") == 0;
	*ordinal = host ? 0 : atoi(r->device + strlen("cuda:"));
	int e = host ? 0 : find_device(s, *ordinal, &simulated, why);
	if (e)
		return e;
	s->ops = r->backend ? backend_find(r->backend) : host || simulated ? &backend_cpu : &backend_cuda;
	if (s->ops == &backend_cuda && host)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--backend cuda wants a GPU: --device cuda:N");
	if (s->ops == &backend_cpu && !host && !simulated)
		return fault_set(why, TRIMS_E_UNSUPPORTED, "--backend cpu: the CPU cannot read the memory of %s", r->device);
	return 0;
}

int session_find_uuid(const struct run *r, char uuid[64], bool *simulated, struct fault *why)
{
	struct session s = {0};
	bool host = strcmp(r->device, "cpu") == 0;
	*simulated = false;
	int e = host ? 0 : find_device(&s, atoi(r->device + strlen("cuda:")), simulated, why);
	memcpy(uuid, s.uuid, sizeof s.uuid);
	return e;
}

static int open_backend(struct session *s, const struct run *r, int ordinal, struct fault *why)
{
	struct backend_options options = {.threads = r->threads, .device = ordinal};
	return s->backend ? 0 : s->ops->open(&options, &s->backend, why);
}

static int check_tokens(const struct net *net, const struct run *r, struct fault *why)
{
	if (net->input == NET_IMAGE && r->tokens)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--tokens is for models that take tokens; %s is none", net->family);
	if (net->input == NET_TOKENS && r->tokens > net->max_tokens)
		return fault_set(why, TRIMS_E_BAD_REQUEST, "--tokens %u: this model can take %u", r->tokens, net->max_tokens);
	return 0;
}

int session_open(struct session *s, const struct run *r, struct fault *why)
{
	int ordinal;
	int e = choose_backend(s, r, &ordinal, why);
	if (!e && s->uuid[0])
		e = open_backend(s, r, ordinal, why);
	struct weights_options options = {
		.mode = r->mode,
		.socket = r->socket,
		.model = r->model,
		.file = r->file,
		.device = s->uuid[0] ? s->uuid : NULL,
		.plan = r->plan,
		.both = r->both,
	};
	if (!e)
		e = weights_open(&options, &s->weights, why);
	uint64_t began = clock_ns();
	if (!e)
		e = net_build(weights_catalog(s->weights), &s->net, why);
	if (s->weights && weights_read_all(s->weights, why))
		e = -EPROTO;
	s->build_ns = clock_ns() - began;
	if (!e)
		e = check_tokens(s->net, r, why);
	if (!e)
		weights_ask_for_order(s->weights, s->net);
	return e;
}

int session_bind(struct session *s, const struct run *r, struct fault *why)
{
	int e = open_backend(s, r, 0, why);
	return e ? e : weights_bind(s->weights, s->backend, s->net, why);
}

void session_close(struct session *s)
{
	if (s->weights)
		weights_free(&s->weights);
	if (s->backend)
		s->ops->close(s->backend);
	s->backend = NULL;
	net_free(&s->net);
}
