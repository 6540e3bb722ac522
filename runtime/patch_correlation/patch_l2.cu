// Distances in L*a*b*: no bounds, so every window is compared, in float64.

typedef double Query; // L*a*b* of a patch

__device__ void to_lab(const Pixel *image, int plane, int at, double *out)
{
    double linear[3], f[3];
    for (int k = 0; k < 3; k++) {
        const double v = level(image + k * (long long)plane, at) / 255.0;
        linear[k] = v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4);
    }
    for (int k = 0; k < 3; k++) {
        double v = 0;
        for (int s = 0; s < 3; s++)
            v += XYZ[k][s] * linear[s];
        f[k] = v > 216.0 / 24389 ? cbrt(v) : v / 0.128419 + 4.0 / 29;
    }
    out[0] = 116 * f[1] - 16;
    out[1] = 500 * (f[0] - f[1]);
    out[2] = 200 * (f[1] - f[2]);
}

// One thread for each pixel of the band: L*a*b*.
extern "C" __global__ void __launch_bounds__(THREADS) describe(Job job)
{
    const int rows = job.last - job.first + PH - 1;
    const int c = blockIdx.x * THREADS + threadIdx.x, r = blockIdx.y;
    if (c >= job.width)
        return;
    double lab[3];
    to_lab(job.y_dec, job.height * job.width, (job.first + r) * job.width + c, lab);
    for (int k = 0; k < 3; k++)
        job.lab[((long long)k * rows + r) * job.width + c] = lab[k];
}

// One block for each patch whose own row is in the band: what later kernels need of the patch.
extern "C" __global__ void __launch_bounds__(THREADS) guess(Job job)
{
    const int i = blockIdx.y, j = blockIdx.x;
    if (own_row(job, i) < job.first || own_row(job, i) >= job.last)
        return;
    Patch &patch = job.patches[i * job.across + j];
    if (i == 0 && j == 0 && threadIdx.x == 0)
        *job.crowded = 1;
    if (threadIdx.x == 0) {
        patch.near = NEAR + 1;
        patch.exact = -1e300;
        patch.found = 0;
    }
}

// One warp: the definition's score of a window.
__device__ double score_exactly(const Job &job, const Query *own, int i, int j, int r, int c)
{
    const int rows = job.last - job.first + PH - 1;
    double distance = 0;
    for (int e = threadIdx.x % 32; e < AREA; e += 32) {
        const int at = pixel(job, r - job.first, c, e);
        for (int k = 0; k < 3; k++) {
            const double d = own[k * AREA + e] - job.lab[(long long)k * rows * job.width + at];
            distance += d * d;
        }
    }
    distance = warp_sum(distance);
    return distance < TIE ? 0.0 : -distance / weight_exactly(job, i, j, r, c);
}

// The windows of one row that may win, in float64. Without `floor`: the best score. With it: the
// first column whose score is at least that, as a negative number, so that both are maxima.
__device__ double sweep(
    const Job &job, const Patch &, const Query *query, int i, int j, int r, const double *floor)
{
    const int lane = threadIdx.x % 32, columns = job.width - PW + 1;
    double found = -1e300;
    for (int c = threadIdx.x / 32; c < columns; c += WARPS) {
        const double value = score_exactly(job, query, i, j, r, c);
        if (!floor || value >= *floor)
            found = max(found, floor ? -(double)c : value);
    }
    return block_max(found);
}

__device__ void load_query(const Job &job, const Patch &, int i, int j, Query *query)
{
    for (int e = threadIdx.x; e < AREA; e += THREADS) {
        double lab[3];
        to_lab(job.x, job.height * job.width, own_pixel(job, i, j, e), lab);
        for (int k = 0; k < 3; k++)
            query[k * AREA + e] = lab[k];
    }
    __syncthreads();
}
