/* simcuda.h - what the simulated driver exports beside the driver's own entries; for tests, by dlsym().  README.md has
 * the script's and the topology's formats.  Thread: any. */
#ifndef TOOLS_SIMCUDA_SIMCUDA_H
#define TOOLS_SIMCUDA_SIMCUDA_H

#include <stddef.h>
#include <stdint.h>

#define SIMCUDA_VERSION 1

/* That this symbol exists is what tells a simulated driver from a real one. */
extern const int simcuda_version;

/* Replaces the fault script of this process; NULL or "": none.  0, or -1 for one that makes no sense. */
int simcuda_script(const char *script);
/* Lets every stalled call and operation of this process go on; what stalls later stalls again. */
void simcuda_release(void);
/* How many calls and operations of this process are stalled now. */
int simcuda_stalled(void);
/* How many stream waits of this process have looked at their word, found it wanting and wait. */
int simcuda_waiting(void);
/* Until a stream has written to host memory, no wait of this process for a word there goes on, whatever the CPU stores; 0: as before. */
void simcuda_deafen(int on);
/* How many copies of this process are under way on links, having an engine where they need one. */
int simcuda_copying(void);
/* How often an entry was called in this process: "cuMemCreate". */
uint64_t simcuda_count(const char *name);
/* Device `ordinal` is lost, for all processes of the directory: whatever concerns it gives `result` from now on. */
int simcuda_lose(int ordinal, int result);
/* And is there again for processes that start now. */
int simcuda_mend(int ordinal);
/* Whether copies take time: the topology has a speed. */
int simcuda_keeps_time(void);
/* Work of a simulated library: `run` is called in the stream's order with its own copy of `data` (bytes of it), in which the
 * pointers that `spans` named are ones that the CPU can use.  A span that the device cannot use is an illegal address, sticky as on
 * a device.  Both functions must not call the driver.  A CUresult. */
#define SIMCUDA_SPANS 8
struct simcuda_span {
	void *pointer;      /* where the work's data has the device address */
	size_t bytes;       /* from there on */
	int writes;
	unsigned long long at; /* the driver's own */
};
struct simcuda_work {
	unsigned (*spans)(void *data, struct simcuda_span spans[SIMCUDA_SPANS]); /* how many */
	void (*run)(void *data);
};
int simcuda_work(void *stream, const struct simcuda_work *kind, const void *data, size_t bytes);
/* What sysfs would say about the device: one line of the file `name` of its directory ("numa_node", "../max_link_speed"), ""
 * for the path of that.  Devices of one switch have its upstream port on their way; widths are 16, generations the least that
 * move what the topology says.  0, or -1: no such device or file. */
int simcuda_sysfs(int ordinal, const char *name, char *text, size_t size);

#endif
