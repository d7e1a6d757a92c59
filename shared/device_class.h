/* device_class.h - what profiles of models are kept by: devices of one class, with one driver, are taken to be equally fast.
 * Daemon and tools say it in the same words.  Thread: any.  Owns nothing. */
#ifndef SHARED_DEVICE_CLASS_H
#define SHARED_DEVICE_CLASS_H

#include <stdbool.h>
#include <stdint.h>

#define DEVICE_CLASS_BYTES 128 /* with the NUL */

/* "cpu: <model name>, 8 cores", of this machine; cores are those online. */
void device_class_cpu(char out[DEVICE_CLASS_BYTES]);
/* "<name>, 143771 MiB", as the driver has them; a simulated one says so. */
void device_class_gpu(char out[DEVICE_CLASS_BYTES], const char *name, uint64_t bytes, bool simulated);
/* "13.0" for 13000. */
void device_class_driver(char out[16], uint32_t version);

#endif
