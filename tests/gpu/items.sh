# items.sh - the items of run that need a whole build: the GPU cases of the suite, and the benchmarks.  Sourced by run.
# shellcheck shell=sh disable=SC2154  # $build, $driver, $root: run's

export TRIMS_BUILD="$build" TRIMS_SANITIZE=none PYTHONDONTWRITEBYTECODE=1 TRIMS_GPU_DRIVER="${driver:-libcuda.so.1}"
