/* The part of NVIDIA's driver interface that dsin calls, over emulated kernels.
 *
 * A "module" is the path of a library compiled from CUDA source with device.h in front. Memory is
 * poisoned, and ends where a page begins that nothing may touch.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, PAGE = 4096 };

typedef void (*Emulate)(void *, unsigned, unsigned, unsigned, const void *);
typedef struct {
    void *kernel;
    Emulate emulate;
} Function;

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int index) { return *device = index, index ? 101 : SUCCESS; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = (void *)16, SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == 75 ? 9 : 0; /* compute capability 9.0 */
    return attribute == 75 || attribute == 76 ? SUCCESS : INVALID_VALUE;
}

static __thread int pushed;
int cuCtxPushCurrent_v2(void *context) { return pushed++, context ? SUCCESS : INVALID_VALUE; }
int cuCtxPopCurrent_v2(void **context) { return *context = (void *)16, pushed-- ? SUCCESS : 201; }

int cuModuleLoadData(void **module, const void *path)
{
    *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    return *module ? SUCCESS : 200;
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    Function *made = malloc(sizeof *made);
    made->kernel = dlsym(module, name);
    made->emulate = (Emulate)dlsym(module, "emulate");
    *function = made;
    return made->kernel && made->emulate ? SUCCESS : NOT_FOUND;
}

int cuLaunchKernel(const Function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void *stream, void **arguments, void **extra)
{
    if (!grid_x || !grid_y || grid_y > 65535 || grid_z != 1 || block_y != 1 || block_z != 1
        || shared || extra || !pushed)
        return INVALID_VALUE;
    function->emulate(function->kernel, grid_x, grid_y, block_x, arguments[0]);
    return SUCCESS;
}

/* Each block of memory: a page with its size, its own pages, a page that is off limits. */
int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    const size_t aligned = (size + 15) / 16 * 16, own = (aligned + PAGE - 1) / PAGE * PAGE;
    char *base = mmap(0, own + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!size || base == MAP_FAILED)
        return size ? OUT_OF_MEMORY : INVALID_VALUE;
    memset(base + PAGE, 0xa5, own);
    *(size_t *)base = own;
    mprotect(base, PAGE, PROT_READ);
    mprotect(base + PAGE + own, PAGE, PROT_NONE);
    *address = (uint64_t)(base + PAGE + own - aligned);
    return SUCCESS;
}

int cuMemFree_v2(uint64_t address)
{
    char *base = (char *)(address / PAGE * PAGE - PAGE);
    return munmap(base, *(size_t *)base + 2 * PAGE) ? INVALID_VALUE : SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size)
{
    return memcpy((void *)to, from, size), SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
    return memcpy(to, (void *)from, size), SUCCESS;
}

/* A stream does its work at once. */
int cuStreamCreate(void **stream, unsigned flags)
{
    *stream = malloc(16);
    return flags == 1 && pushed ? SUCCESS : INVALID_VALUE;
}

int cuStreamDestroy_v2(void *stream) { return free(stream), pushed ? SUCCESS : INVALID_VALUE; }
int cuStreamSynchronize(void *stream) { return stream && pushed ? SUCCESS : INVALID_VALUE; }

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream)
{
    return stream && pushed ? cuMemcpyHtoD_v2(to, from, size) : INVALID_VALUE;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream)
{
    return stream && pushed ? cuMemcpyDtoH_v2(to, from, size) : INVALID_VALUE;
}

int cuMemAllocHost_v2(void **address, size_t size)
{
    uint64_t made = 0;
    const int status = cuMemAlloc_v2(&made, size);
    return *address = (void *)made, status;
}

int cuMemFreeHost(void *address) { return cuMemFree_v2((uint64_t)address); }

/* How the binding finds the rest. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    char versioned[128] = {0};
    strncat(versioned, name, sizeof versioned - 4);
    strcat(versioned, "_v2");
    *function = dlsym(RTLD_DEFAULT, versioned);
    if (!*function)
        *function = dlsym(RTLD_DEFAULT, name);
    if (status)
        *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
