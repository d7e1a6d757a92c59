/* mathsim.h - what the simulated cuBLAS and cuDNN share.  They are one library, libsimcublas.so, which has the ABI of every row of
 * tools/run/cublas.def and cudnn.def, does the work with the CPU in the order of the simulated driver's streams, and tells what it
 * is: it exports simcublas_version.  Thread: a handle is one thread's, as in the real ones. */
#ifndef TOOLS_SIMCUDA_MATHSIM_H
#define TOOLS_SIMCUDA_MATHSIM_H

#include "tools/run/mathlib.h"
#include "tools/simcuda/simcuda.h"

#define EXPORT __attribute__((visibility("default")))

#define MATH(field, symbol, arguments) math_status symbol arguments;
#include "tools/run/cublas.def"
#define MATH(field, symbol, arguments) math_status symbol arguments;
#include "tools/run/cudnn.def"

typedef int mathsim_work(void *stream, const struct simcuda_work *kind, const void *data, size_t bytes);

/* simcuda_work() of the driver that $TRIMS_CUDA_DRIVER names and this process has loaded; NULL: there is none. */
mathsim_work *mathsim_driver(void);

#endif
