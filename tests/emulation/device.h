/* CUDA's device side on a CPU: one block after the other, its threads as fibers of one thread.
 *
 * A fiber runs until a barrier, so what lacks a barrier shows as a wrong result, the more so as the
 * order of fibers is turned round from barrier to barrier, and shared memory holds NaN at the start
 * of each block. A collective that not all lanes of a warp reach ends the process.
 */
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define EMULATED 1
#define __global__
#define __device__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static __attribute__((section("block_memory")))

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim;

/* Fibers. */

enum { MOST_THREADS = 1024, STACK = 128 << 10 };
struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool begun, ended;
    unsigned parity;
    char *stack;
};
static Fiber fibers[MOST_THREADS];
static unsigned threads, alive, arrived, generation, progress, predicate[2];
static unsigned warp_arrived[MOST_THREADS / 32], warp_generation[MOST_THREADS / 32];
static double slots[MOST_THREADS / 32][2][32];
static jmp_buf scheduler;

static void leave()
{
    Fiber &self = fibers[threadIdx.x];
    const unsigned thread = threadIdx.x;
    if (!_setjmp(self.at))
        _longjmp(scheduler, 1);
    threadIdx.x = thread;
}

static void pass_if_all_arrived()
{
    if (alive && arrived == alive) {
        arrived = 0;
        generation++;
        predicate[generation % 2] = 0;
    }
}

static void __syncthreads()
{
    const unsigned now = generation;
    progress++;
    arrived++;
    pass_if_all_arrived();
    while (generation == now)
        leave();
}

static int __syncthreads_or(int value)
{
    const unsigned now = generation % 2;
    predicate[now] |= value != 0;
    __syncthreads();
    const int any = predicate[now];
    __syncthreads();
    return any;
}

static void __syncwarp()
{
    const unsigned warp = threadIdx.x / 32, now = warp_generation[warp];
    progress++;
    if (++warp_arrived[warp] == 32) {
        warp_arrived[warp] = 0;
        warp_generation[warp]++;
    }
    while (warp_generation[warp] == now)
        leave();
}

/* Every lane gives a value and takes that of another. */
template <class T> static T exchange(T value, unsigned from)
{
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    double(&row)[32] = slots[warp][fibers[threadIdx.x].parity++ % 2];
    memcpy(&row[lane], &value, sizeof value);
    __syncwarp();
    memcpy(&value, &row[from], sizeof value);
    return value;
}

template <class T> static T __shfl_xor_sync(unsigned, T value, int mask)
{
    return exchange(value, threadIdx.x % 32 ^ mask);
}

template <class T> static T __shfl_sync(unsigned, T value, int from)
{
    return exchange(value, from);
}

static unsigned __ballot_sync(unsigned, int value)
{
    const unsigned warp = threadIdx.x / 32, now = fibers[threadIdx.x].parity % 2;
    exchange(value, 0);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++) {
        int other;
        memcpy(&other, &slots[warp][now][lane], sizeof other);
        bits |= (unsigned)(other != 0) << lane;
    }
    return bits;
}

/* Numbers. */

static int __ffs(unsigned bits) { return __builtin_ffs(bits); }
template <class T> static T max(T a, T b) { return a > b ? a : b; }
template <class T> static T min(T a, T b) { return a < b ? a : b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static double __dmul_rn(double a, double b) { return a * b; }
static double __dadd_rn(double a, double b) { return a + b; }
static double __dsub_rn(double a, double b) { return a - b; }
static double __ddiv_rn(double a, double b) { return a / b; }

static int __float_as_int(float value)
{
    int bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float __int_as_float(int bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float from_half(unsigned short bits)
{
    _Float16 value;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

static unsigned short to_half(float value)
{
    const _Float16 half = value;
    unsigned short bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

static int atomicAdd(int *at, int value)
{
    const int before = *at;
    *at += value;
    return before;
}

static int atomicMax(int *at, int value)
{
    const int before = *at;
    *at = max(before, value);
    return before;
}

/* Blocks. */

struct Job;
static void (*kernel)(Job);
static const void *argument;
static void call_kernel();
extern "C" char __start_block_memory[], __stop_block_memory[];

static void begin()
{
    call_kernel();
    Fiber &self = fibers[threadIdx.x];
    self.ended = true;
    progress++;
    alive--;
    pass_if_all_arrived();
    _longjmp(scheduler, 1);
}

static void run(unsigned thread)
{
    Fiber &fiber = fibers[thread];
    threadIdx.x = thread;
    if (_setjmp(scheduler))
        return;
    if (fiber.begun)
        _longjmp(fiber.at, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    if (!fiber.stack)
        fiber.stack = (char *)malloc(STACK);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK;
    makecontext(&fiber.start, begin, 0);
    setcontext(&fiber.start);
}

static void run_block()
{
    memset(__start_block_memory, 0xff, __stop_block_memory - __start_block_memory);
    memset(warp_arrived, 0, sizeof warp_arrived);
    alive = threads;
    arrived = predicate[0] = predicate[1] = 0;
    for (unsigned n = 0; n < threads; n++)
        fibers[n].begun = fibers[n].ended = fibers[n].parity = 0;
    for (unsigned round = 0; alive; round++) {
        const unsigned before = progress;
        for (unsigned n = 0; n < threads; n++) {
            const unsigned thread = round % 2 ? threads - 1 - n : n;
            if (!fibers[thread].ended)
                run(thread);
        }
        if (progress == before) {
            fprintf(stderr, "emulation: threads wait for others that never come\n");
            abort();
        }
    }
}

/* Called by the driver. */
extern "C" void emulate(void (*function)(Job), unsigned x, unsigned y, unsigned count, const void *job)
{
    kernel = function;
    argument = job;
    threads = count;
    gridDim = {x, y, 1};
    for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++)
            run_block();
}
