/* weights.h - where a net's weights are and when they are there: one seam behind which all modes are.
 *
 *	weights_open()       opens the model (or its file) so that names and shapes are known; bytes may be on their way
 *	net_build(weights_catalog(w), ...)
 *	weights_bind()       who computes what with them; mode private loads here
 *	weights_start()      before the first layer of a pass; mode resident waits here
 *	weights_layer()      before each layer: waits for its bytes, where the mode did not before
 *	weights_settle()     after the pass: whether what was waited for came
 *
 * Thread: one.  Owns connection, leases, and the memory of mode private. */
#ifndef TOOLS_RUN_WEIGHTS_H
#define TOOLS_RUN_WEIGHTS_H

#include "tools/run/backend.h"

enum mode {
#define MODE(NAME, name, doc) MODE_##NAME,
#include "tools/run/modes.def"
#undef MODE
	MODE_COUNT
};

const char *mode_name(unsigned mode);
/* MODE_COUNT: no such. */
enum mode mode_find(const char *name);
/* dha, pt and both: they want a GPU, and say by a plan what is where. */
static inline bool mode_follows_plan(enum mode m)
{
	return m == MODE_DHA || m == MODE_PT || m == MODE_PT_DHA;
}

/* Where a layer's weights are read from while it runs. */
enum place { PLACE_DEVICE, PLACE_HOST };

struct weights_options {
	enum mode mode;
	const char *socket; /* NULL: libtrims' default */
	const char *model;
	const char *file;   /* mode private: a folder or a weight file */
	const char *device; /* UUID of the GPU; NULL: the CPU computes from host memory */
	const char *plan;   /* file; NULL: none */
	bool both;          /* for profiles: the copy in host memory as well, see weights_place_all() */
};

/* What the way to the weights took. */
struct weights_times {
	uint64_t connect_ns, open_ns; /* private: 0, and reading the header */
	uint64_t wait_ns;             /* for bytes; private: loading them */
	uint64_t asked_ns;            /* by clock_ns(): when the copy in use was asked for; private: when the file was opened */
};

struct weights;

int weights_open(const struct weights_options *options, struct weights **out, struct fault *why);
void weights_free(struct weights **w);
const struct catalog *weights_catalog(const struct weights *w);
/* A file that is not there and one that the daemon was not able to give look alike through the catalog: 0, or why the latter. */
int weights_read_all(const struct weights *w, struct fault *why);
/* A file has its tensors by name, a pass that runs ahead of the load wants them as its layers come: so mode pipeline on the CPU asks
 * for what has not been begun in that order.  A wish: without it the pass waits longer, and weights_info() says why. */
void weights_ask_for_order(struct weights *w, const struct net *net);
/* Net and backend must outlive the weights. */
int weights_bind(struct weights *w, struct backend *b, const struct net *net, struct fault *why);
/* A layer's operands with their final addresses; their bytes may not be there yet. */
const struct operand *weights_operands(const struct weights *w, uint32_t layer);
int weights_start(struct weights *w, struct fault *why);
/* Nothing has to be waited for any more. */
bool weights_all_there(const struct weights *w);
int weights_layer(struct weights *w, uint32_t layer, struct fault *why);
int weights_settle(struct weights *w, struct fault *why);
const struct weights_times *weights_times(const struct weights *w);
/* With options.both: all layers are read from there now.  The bytes must be there (weights_wait_all()).  A device that cannot read the
 * host's copy in place reads one of this process, which weights_layer() fills layer by layer; weights_info() says why. */
int weights_place_all(struct weights *w, enum place place, struct fault *why);
/* Until every byte of every copy in use is there. */
int weights_wait_all(struct weights *w, struct fault *why);
/* "?": private, or no such tensor. */
const char *weights_tensor_name(const struct weights *w, uint32_t tensor);

/* What is known of the copy in use; private: hit and simulated are 0. */
struct weights_info {
	uint64_t bytes;
	bool hit, simulated;
	/* of modes that follow a plan */
	uint64_t device_bytes, direct_bytes, staged_bytes;
	uint64_t helper_bytes;                   /* of device_bytes, what came over other devices' links */
	uint32_t direct_tensors, staged_tensors; /* read from the host by the device, or from a copy of this process for want of it */
	char note[256];                          /* the way they are read, unless all are registered, and why */
	const char *unreadable;                  /* why the device reads a copy of the host's copy, or NULL; with options.both */
	const char *unordered;                   /* why bytes do not come in the order of execution though that was asked for, or NULL */
};
struct weights_info weights_info(const struct weights *w);

#endif
