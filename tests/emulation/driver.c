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
int cuDeviceGetCount(int *count) { return *count = 2, SUCCESS; }
int cuDeviceGet(int *device, int index) { return *device = index, index > 1 ? 101 : SUCCESS; }

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    return *context = (void *)(uintptr_t)(16 + device), SUCCESS;
}

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

int cuMemGetInfo_v2(size_t *free, size_t *total)
{
    *free = (size_t)6 << 30, *total = (size_t)8 << 30;
    return pushed ? SUCCESS : 201;
}

static int64_t up, down;

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size)
{
    up += size;
    return memcpy((void *)to, from, size), SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
    down += size;
    return memcpy(to, (void *)from, size), SUCCESS;
}

/* A stream does its work at once, unless it is captured: then copies and calls of the host are
 * recorded, with their addresses, and nothing else may be asked of it. */
enum { MOST_NODES = 64, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
typedef struct {
    void (*call)(void *);
    void *data, *to;
    const void *from;
    size_t size;
} Node;
typedef struct {
    Node nodes[MOST_NODES];
    int count, launchable;
} Graph;
typedef struct {
    Graph *recorded;
} Stream;
static int instantiated, launched, destroyed, graphs;

static int submit(Stream *stream, Node node)
{
    if (!stream || !pushed)
        return INVALID_VALUE;
    if (!stream->recorded) {
        if (node.call)
            node.call(node.data);
        else
            memcpy(node.to, node.from, node.size);
    } else if (stream->recorded->count == MOST_NODES)
        return CAPTURE_UNSUPPORTED;
    else
        stream->recorded->nodes[stream->recorded->count++] = node;
    return SUCCESS;
}

int cuStreamCreate(Stream **stream, unsigned flags)
{
    *stream = calloc(1, sizeof **stream);
    return flags == 1 && pushed ? SUCCESS : INVALID_VALUE;
}

int cuStreamDestroy_v2(Stream *stream) { return free(stream), pushed ? SUCCESS : INVALID_VALUE; }

int cuStreamSynchronize(Stream *stream)
{
    if (!stream || !pushed)
        return INVALID_VALUE;
    return stream->recorded ? CAPTURE_UNSUPPORTED : SUCCESS;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, Stream *stream)
{
    up += size;
    return submit(stream, (Node){.to = (void *)to, .from = from, .size = size});
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, Stream *stream)
{
    down += size;
    return submit(stream, (Node){.to = to, .from = (void *)from, .size = size});
}

int cuLaunchHostFunc(Stream *stream, void (*call)(void *), void *data)
{
    return submit(stream, (Node){.call = call, .data = data});
}

typedef struct {
    size_t x, y, z, lod;
    int kind;
    void *host;
    uint64_t device;
    void *array, *reserved;
    size_t pitch, height;
} Corner;
typedef struct {
    Corner from, to;
    size_t width, height, depth;
} Box;

int cuMemcpy3DAsync_v2(const Box *box, Stream *stream)
{
    const Corner *from = &box->from, *to = &box->to;
    if (from->kind != 2 || to->kind != 2 || from->pitch < box->width || to->pitch < box->width
        || from->height < box->height || to->height < box->height)
        return INVALID_VALUE;
    for (size_t z = 0; z < box->depth; z++)
        for (size_t y = 0; y < box->height; y++) {
            const char *row = (char *)from->device + (z * from->height + y) * from->pitch;
            char *goal = (char *)to->device + (z * to->height + y) * to->pitch;
            const int status = submit(stream, (Node){.to = goal, .from = row, .size = box->width});
            if (status)
                return status;
        }
    return SUCCESS;
}

int cuStreamBeginCapture_v2(Stream *stream, int mode)
{
    if (!stream || stream->recorded || mode < 0 || mode > 2 || !pushed)
        return INVALID_VALUE;
    graphs++;
    return stream->recorded = calloc(1, sizeof(Graph)), SUCCESS;
}

int cuStreamEndCapture(Stream *stream, Graph **graph)
{
    *graph = stream->recorded;
    stream->recorded = 0;
    return *graph && pushed ? SUCCESS : INVALID_VALUE;
}

int cuGraphInstantiateWithFlags(Graph **made, const Graph *graph, uint64_t flags)
{
    *made = malloc(sizeof **made);
    memcpy(*made, graph, sizeof *graph);
    (*made)->launchable = 1;
    instantiated++;
    return flags || !pushed ? INVALID_VALUE : SUCCESS;
}

int cuGraphDestroy(Graph *graph) { return free(graph), graphs--, SUCCESS; }

int cuGraphExecDestroy(Graph *graph)
{
    if (!graph->launchable || !pushed)
        return INVALID_VALUE;
    graph->launchable = 0; /* and is kept, so that a late launch is noticed */
    return destroyed++, SUCCESS;
}

int cuGraphLaunch(const Graph *graph, Stream *stream)
{
    int status = graph->launchable ? SUCCESS : INVALID_VALUE;
    for (int n = 0; n < graph->count && !status; n++)
        status = submit(stream, graph->nodes[n]);
    return launched++, status;
}

/* For tests: bytes that were copied to the device and from it. */
void emulated_copies(int64_t bytes[2]) { bytes[0] = up, bytes[1] = down; }

/* For tests: graphs that were instantiated, launched and destroyed, and records not yet freed. */
void emulated_graphs(int counts[4])
{
    const int all[] = {instantiated, launched, destroyed, graphs};
    memcpy(counts, all, sizeof all);
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
