// Matches of patches refined for every block: dsin.runtime.patch_correlation.block_refinement in CUDA.
//
// dsin.runtime.patch_correlation.block_cuda puts the constants in front of this file. Pictures are planes (3, height,
// width) of whole numbers in 0..255, as float32. What is compared is float64 and rounded after each
// operation, never fused, so that every machine chooses alike.

#define WINDOW (BLOCK + 2 * MARGIN)
#define MOVES (2 * REACH + 1)
#define CANDIDATES (NEIGHBOURS * MOVES)
#define WARPS (THREADS / 32)

struct Job {
    const float *x, *y_dec, *y;
    float *y_dec_syn, *y_syn;
    const int *row, *col;
    int *down, *right;
    float *cost;
    int height, width, patch_rows, patch_columns;
};

// To whole levels: x to y_syn. One thread for each pixel.
extern "C" __global__ void __launch_bounds__(THREADS) level(Job job)
{
    const int c = blockIdx.x * THREADS + threadIdx.x, r = blockIdx.y;
    if (c >= job.width)
        return;
    const long long plane = (long long)job.height * job.width;
    const long long at = (long long)r * job.width + c;
    for (int k = 0; k < 3; k++)
        job.y_syn[k * plane + at] = fminf(fmaxf(rintf(job.x[k * plane + at]), 0), 255);
}

__device__ int sum_of_warp(int value)
{
    for (int step = 16; step; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

struct Patch {
    int down, right;
};

__device__ Patch shift_of(const Job &job, int i, int j)
{
    const int at = i * job.patch_columns + j;
    return {job.row[at] - i * PH, job.col[at] - j * PW};
}

// One block of threads for each block of the picture; each warp takes candidates in turn.
extern "C" __global__ void __launch_bounds__(THREADS) refine(Job job)
{
    __shared__ int mine[3][WINDOW * WINDOW];
    __shared__ double costs[CANDIDATES];
    __shared__ Patch places[CANDIDATES];
    const int i = blockIdx.y, j = blockIdx.x, top = i * BLOCK, left = j * BLOCK;
    const int r0 = max(top - MARGIN, 0), r1 = min(top + BLOCK + MARGIN, job.height);
    const int c0 = max(left - MARGIN, 0), c1 = min(left + BLOCK + MARGIN, job.width);
    const int columns = c1 - c0, n = (r1 - r0) * columns;
    const long long plane = (long long)job.height * job.width;
    for (int p = threadIdx.x; p < n; p += THREADS)
        for (int k = 0; k < 3; k++)
            mine[k][p] = (int)
                job.x[k * plane + (long long)(r0 + p / columns) * job.width + c0 + p % columns];
    __syncthreads();

    const int pi = min((top + BLOCK / 2) / PH, job.patch_rows - 1);
    const int pj = min((left + BLOCK / 2) / PW, job.patch_columns - 1);
    const Patch own = shift_of(job, pi, pj);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int candidate = warp; candidate < CANDIDATES; candidate += WARPS) {
        const int neighbour = candidate / MOVES, move = candidate % MOVES - REACH;
        const int a = pi + ABOVE_OR_BELOW[neighbour], b = pj + BESIDE[neighbour];
        bool valid = a >= 0 && b >= 0 && a < job.patch_rows && b < job.patch_columns;
        Patch shift = own;
        if (valid) {
            shift = shift_of(job, a, b);
            valid = !neighbour || shift.down != own.down || shift.right != own.right;
            shift.right += move;
        }
        valid = valid && r0 + shift.down >= 0 && r1 + shift.down <= job.height
            && c0 + shift.right >= 0 && c1 + shift.right <= job.width;
        double total = 0;
        // All lanes go the same way.
        for (int k = 0; valid && k < 3; k++) {
            int linear = 0, square = 0;
            for (int p = lane; p < n; p += 32) {
                const long long at = (long long)(r0 + p / columns + shift.down) * job.width + c0
                    + p % columns + shift.right;
                const int d = mine[k][p] - (int)job.y_dec[k * plane + at];
                linear += d;
                square += d * d;
            }
            linear = sum_of_warp(linear);
            square = sum_of_warp(square);
            const double even = __ddiv_rn(
                __dmul_rn(FORGIVEN, __dmul_rn((double)linear, (double)linear)), (double)n);
            total = __dadd_rn(total, __dsub_rn((double)square, even));
        }
        if (lane == 0) {
            const double penalty = __dadd_rn(
                1, __dadd_rn(__dmul_rn(MOVED, (double)(move < 0 ? -move : move)),
                             neighbour ? FOREIGN : 0.0));
            const double cost = __dmul_rn(__ddiv_rn(total, (double)(3 * n)), penalty);
            costs[candidate] = valid ? cost : -1;
            places[candidate] = shift;
        }
    }
    __syncthreads();
    if (threadIdx.x)
        return;
    Patch best = own;
    double least = -1;
    for (int candidate = 0; candidate < CANDIDATES; candidate++)
        if (costs[candidate] >= 0 && (least < 0 || costs[candidate] < least)) {
            least = costs[candidate];
            best = places[candidate];
        }
    const int at = i * (job.width / BLOCK) + j;
    job.down[at] = min(max(best.down, -top), job.height - BLOCK - top);
    job.right[at] = min(max(best.right, -left), job.width - BLOCK - left);
    job.cost[at] = least < 0 ? __int_as_float(0x7f800000) : (float)least;
}

// The blocks of y and y_dec put where they belong. One thread for each pixel.
extern "C" __global__ void __launch_bounds__(THREADS) paste(Job job)
{
    const int c = blockIdx.x * THREADS + threadIdx.x, r = blockIdx.y;
    if (c >= job.width)
        return;
    const int block = r / BLOCK * (job.width / BLOCK) + c / BLOCK;
    const long long plane = (long long)job.height * job.width;
    const long long at = (long long)r * job.width + c;
    const long long from
        = (long long)(r + job.down[block]) * job.width + c + job.right[block];
    for (int k = 0; k < 3; k++) {
        job.y_syn[k * plane + at] = job.y[k * plane + from];
        job.y_dec_syn[k * plane + at] = job.y_dec[k * plane + from];
    }
}
