// Patches that need every window, and the pieces.

// One block for each crowded patch: its best score in the band.
extern "C" __global__ void __launch_bounds__(THREADS) exhaust_best(Job job)
{
    __shared__ Query query[3 * AREA];
    const int i = blockIdx.y, j = blockIdx.x;
    Patch &patch = job.patches[i * job.across + j];
    if (patch.near <= NEAR)
        return;
    load_query(job, patch, i, j, query);
    double best = patch.exact;
    for (int r = job.first; r < job.last; r++)
        best = max(best, sweep(job, patch, query, i, j, r, 0));
    if (threadIdx.x == 0)
        patch.exact = best;
}

// The same blocks: the first row whose best is that, and the first column in it.
extern "C" __global__ void __launch_bounds__(THREADS) exhaust_first(Job job)
{
    __shared__ Query query[3 * AREA];
    const int i = blockIdx.y, j = blockIdx.x;
    Patch &patch = job.patches[i * job.across + j];
    if (patch.near <= NEAR || patch.found)
        return;
    load_query(job, patch, i, j, query);
    for (int r = job.first; r < job.last; r++) {
        const double top = sweep(job, patch, query, i, j, r, 0);
        if (top < patch.exact - TIE)
            continue;
        const double floor = top - TIE;
        const int c = -sweep(job, patch, query, i, j, r, &floor);
        if (threadIdx.x == 0) {
            write(job, i, j, r, c, top);
            patch.found = 1;
        }
        return;
    }
}

// One sample of crop_and_resize: floor, ceiling and fraction, rounded step by step as in float32.
__device__ float sample(int start, int size, int length, int n, int &low, int &high)
{
    const float from = (double)start / size, to = (double)(start + length) / size;
    const float step = __fdiv_rn(__fmul_rn(__fsub_rn(to, from), size - 1), length - 1);
    const float at = __fadd_rn(__fmul_rn(from, size - 1), __fmul_rn(n, step));
    low = min(max((int)floorf(at), 0), size - 1);
    high = min(max((int)ceilf(at), 0), size - 1);
    return __fsub_rn(at, low);
}

__device__ __forceinline__ float between(float a, float b, float fraction)
{
    return __fadd_rn(a, __fmul_rn(__fsub_rn(b, a), fraction));
}

// One thread for each pixel.
extern "C" __global__ void __launch_bounds__(THREADS) gather(Job job)
{
    const int c = blockIdx.x * THREADS + threadIdx.x, r = blockIdx.y;
    if (c >= job.width)
        return;
    const int patch = r / PH * job.across + c / PW;
    const long long plane = (long long)job.height * job.width;
    const int at = r * job.width + c;
    if (!job.stretched) {
        const int from = (job.row[patch] + r % PH) * job.width + job.col[patch] + c % PW;
        for (int k = 0; k < 3; k++)
            job.y_syn[k * plane + at] = job.y[k * plane + from];
        return;
    }
    int r0, r1, c0, c1;
    const float down = sample(job.row[patch], job.height, PH, r % PH, r0, r1);
    const float across = sample(job.col[patch], job.width, PW, c % PW, c0, c1);
    const int corners[4] = {r0 * job.width + c0, r0 * job.width + c1, r1 * job.width + c0,
                            r1 * job.width + c1};
    for (int k = 0; k < 3; k++) {
        float y[4];
        for (int n = 0; n < 4; n++)
            y[n] = to_float(job.y[k * plane + corners[n]]);
        const float top = between(y[0], y[1], across), low = between(y[2], y[3], across);
        job.y_syn[k * plane + at] = to_pixel(between(top, low, down));
    }
}
