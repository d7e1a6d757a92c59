/* export.h - how device memory is shared with other processes; numbers are wire format (CANARY, ATTACHED, OPENED). */
#ifndef MRM_GPU_EXPORT_H
#define MRM_GPU_EXPORT_H

enum gpu_export { GPU_EXPORT_NONE, GPU_EXPORT_VMM_FD, GPU_EXPORT_CUDA_IPC };

static inline const char *gpu_export_name(enum gpu_export e)
{
	return e == GPU_EXPORT_VMM_FD ? "vmm-fd" : e == GPU_EXPORT_CUDA_IPC ? "cuda-ipc" : "none";
}

#endif
