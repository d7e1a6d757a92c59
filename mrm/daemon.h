/* daemon.h - what the parts of mrm share.
 * Thread: everything here belongs to the loop thread, except the pools' own innards and what jobs carry to workers.
 * Owns: all that it points to. */
#ifndef MRM_DAEMON_H
#define MRM_DAEMON_H

#include "cache/cache.h"
#include "mrm/config.h"
#include "mrm/idmap.h"
#include "mrm/jobs.h"
#include "mrm/shm.h"

#include <ev.h>

struct disk;
struct source;
struct source_cancel;
struct metrics;
struct server;
struct sessions;
struct integrity;
struct direct;
struct beside;
struct httpd;
struct keep;
struct plans;
struct profiles;
struct profiler;
struct gpu;
struct gpu_peers;
struct gpu_relays;
struct devices;

/* Degraded paths in use, each with its name, reason and counter (metrics.def: trims_fallback_total). */
struct degraded {
	const char *name;
	char reason[FAULT_TEXT_MAX];
	uint64_t count;
};
#define DAEMON_MAX_DEGRADED 48

/* The brain's tiers, by index: the same on every machine.  BRAIN_GPU is the first device's, whether there is one or not. */
enum { BRAIN_REMOTE, BRAIN_DISK, BRAIN_HOST, BRAIN_GPU };

struct daemon {
	struct config *config;
	int argc; /* kept for reloads */
	char **argv;
	struct ev_loop *loop;
	struct cache *cache;
	struct disk *disk;
	struct source *sources[CONFIG_MAX_LIST];
	size_t n_sources;
	struct metrics *metrics;
	struct jobs *jobs;
	/* read: file and disk-tier chunks; net: remote chunks; find: what asks a source about a model; write: disk-tier
	 * stores; misc: what takes long and needs no source. */
	struct pool *read, *net, *find, *write, *misc;
	struct pool *pin; /* pages and registration of host copies that devices read; NULL without a device */
	struct source_cancel *halt; /* set when the daemon stops: ends every search */
	struct shm_machine machine;
	struct shm_options shm;
	struct gpu *gpu;         /* the driver and what it has; no devices: no GPU */
	struct devices *devices;
	struct integrity *integrity; /* who has had what on a device */
	struct direct *direct;   /* shares of links that running models read host memory over */
	struct beside *beside;   /* what they read where they cannot register it */
	struct sessions *sessions; /* of clients that use a GPU */
	struct gpu_links *links; /* what copies to and from devices; NULL without one */
	struct gpu_peers *peers; /* which devices take from each other, and what passes through where */
	struct gpu_relays *relays; /* what copies between devices; NULL without one */
	struct server *server;
	struct httpd *httpd;
	struct idmap images;    /* brain's model id -> struct holding */
	struct idmap prints;    /* fingerprint key -> struct holding */
	struct idmap hauls; /* brain's transfer id -> struct haul */
	struct idmap verifications;
	struct keep *keep;
	struct plans *plans;    /* that clients have brought */
	struct profiles *profiles; /* of models, in the cache directory */
	struct profiler *profiler; /* takes them; NULL: nobody does */
	struct idmap kept;      /* generation of a copy that outlived another daemon -> the brain's model id, as a pointer */
	uint64_t next_verification;
	struct degraded degraded[DAEMON_MAX_DEGRADED];
	size_t n_degraded;
	bool pumping, adopted, names_dirty, names_saving, stopping;
	struct names_job *names_gathered; /* catalog.c's; NULL: none are being gathered */
	uint64_t started_ns, settle_ns, boot_hi, boot_lo;
	uint64_t identity_hi, identity_lo; /* of the cache directory: outlives runs */
	ev_timer tick, watchdog, names_timer, gauges, drain;
	ev_signal sigterm, sigint, sighup;
	ev_prepare pump;
	ev_check woken;
	uint64_t woken_ns;
};

/* 0 or -errno with a sentence; on failure daemon_free() cleans up. */
int daemon_new(struct daemon **out, struct config *config, int argc, char **argv, struct fault *why);
/* Whether a daemon could start with these settings, as far as can be told without touching disk or network. */
int daemon_check(const struct config *config, struct fault *why);
/* Runs until told to stop; returns the process's exit code. */
int daemon_run(struct daemon *d);
void daemon_free(struct daemon **d);

/* Names a degraded path: logged the first time, counted every time. */
void daemon_degraded(struct daemon *d, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
