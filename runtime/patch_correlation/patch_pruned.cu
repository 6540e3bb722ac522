// Pearson correlation: windows described, bounded, and only then compared.

typedef float Query; // what R, G and B of a window are multiplied with

struct Scored {
    float score, doubt;
};

// Windows described: bounds and correlations in float32.

__device__ __forceinline__ void rotated(const Pixel *image, int plane, int at, float *out)
{
    float v[3];
    for (int k = 0; k < 3; k++)
        v[k] = level(image + k * (long long)plane, at) - (float)MEAN[k];
    for (int k = 0; k < 3; k++)
        out[k] = ROTATED[k][0] * v[0] + ROTATED[k][1] * v[1] + ROTATED[k][2] * v[2];
}

__device__ __forceinline__ float doubt_of(float ratio, float inverse)
{
    if (inverse == 0)
        return 0;
    if (inverse > 1 / HARDLY_FLAT)
        return 2;
    return min(max(ROUNDING * ratio - MARGIN / 2, 0.0f), 2.0f);
}

__device__ __forceinline__ const unsigned short *features_of(const Job &job, int r, int k)
{
    return job.features + ((long long)(r - job.first) * (K + 1) + k) * job.pitch;
}

__device__ __forceinline__ float inverse_of(const Job &job, int r, int c)
{
    return job.inverse[(long long)(r - job.first) * job.pitch + c];
}

__device__ float bound_of(const Job &job, const float *wanted, int r, int c)
{
    float bound = ROUGH;
    for (int k = 0; k <= K; k++)
        bound += wanted[k] * from_half(features_of(job, r, k)[c]);
    return bound;
}

// One warp: the correlation of a query and a window.
__device__ Scored correlate(const Job &job, const float *query, float length, int r, int c)
{
    const float inverse = inverse_of(job, r, c);
    if (inverse == 0)
        return {0, 0};
    const int plane = job.height * job.width;
    float dot = 0, square = 0;
    for (int e = threadIdx.x % 32; e < AREA; e += 32) {
        const int at = pixel(job, r, c, e);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const float v = level(job.y_dec + k * (long long)plane, at) - (float)MEAN[k];
            dot += query[k * AREA + e] * v;
            square += v * v;
        }
    }
    dot = warp_sum(dot);
    square = warp_sum(square);
    const float score = min(max(dot * inverse, -1.0f), 1.0f);
    return {score, doubt_of(length * sqrtf(square) * inverse, inverse)};
}

// The block: the patch centred and of norm 1, in rotated H-space.
__device__ void load_unit(const Job &job, const Patch &patch, int i, int j, float *unit)
{
    for (int e = threadIdx.x; e < AREA; e += THREADS) {
        const int at = own_pixel(job, i, j, e);
        double h[3];
        to_h_space(job.x, job.height * job.width, at, h);
        for (int k = 0; k < 3; k++) {
            double value = 0;
            for (int s = 0; s < 3; s++)
                value += ROTATION[k][s] * (h[s] - patch.mean);
            unit[k * AREA + e] = value / patch.norm;
        }
    }
    __syncthreads();
}

// The block: what a patch has to be multiplied with in R, G and B, in place.
__device__ void to_query(float *unit)
{
    for (int e = threadIdx.x; e < AREA; e += THREADS) {
        const float v[3] = {unit[e], unit[AREA + e], unit[2 * AREA + e]};
        for (int k = 0; k < 3; k++)
            unit[k * AREA + e]
                = ROTATED[0][k] * v[0] + ROTATED[1][k] * v[1] + ROTATED[2][k] * v[2];
    }
    __syncthreads();
}

// Orders of the DCT that are kept, and how many there are of each plane's vertical ones.
#define ORDER(plane) ((plane) == 0 ? TOP_GREY : TOP_COLOUR)
#define LINES_OF(plane) (ORDER(plane) + 1 < PH ? ORDER(plane) + 1 : PH)
#define LINES (LINES_OF(0) + 2 * LINES_OF(1))
#define SPAN (THREADS + PW - 1)

extern "C" __global__ void __launch_bounds__(THREADS) describe(Job job)
{
    if (job.again && *job.crowded == 0)
        return;
    __shared__ float lines[LINES][SPAN];
    __shared__ double sums[4][SPAN];
    const int r = job.first + blockIdx.y, start = blockIdx.x * THREADS;
    for (int t = threadIdx.x; t < SPAN && start + t < job.width; t += THREADS) {
        float line[LINES] = {};
        double sum[4] = {};
        for (int i = 0; i < PH; i++) {
            float v[3];
            rotated(job.y_dec, job.height * job.width, (r + i) * job.width + start + t, v);
            int n = 0;
#pragma unroll
            for (int plane = 0; plane < 3; plane++) {
#pragma unroll
                for (int u = 0; u < LINES_OF(plane); u++)
                    line[n++] += DOWN[u][i] * v[plane];
                sum[plane] += v[plane];
                sum[3] += (double)v[plane] * v[plane];
            }
        }
        for (int n = 0; n < LINES; n++)
            lines[n][t] = line[n];
        for (int n = 0; n < 4; n++)
            sums[n][t] = sum[n];
    }
    __syncthreads();
    const int c = start + threadIdx.x;
    if (c > job.width - PW)
        return;
    double sum[4] = {};
    for (int j = 0; j < PW; j++)
        for (int n = 0; n < 4; n++)
            sum[n] += sums[n][threadIdx.x + j];
    const double mean = (AXIS[0] * sum[0] + AXIS[1] * sum[1] + AXIS[2] * sum[2]) / (3 * AREA);
    const float norm = sqrt(max(sum[3] - 3 * AREA * mean * mean, 0.0));
    const float inverse = norm < SURELY_FLAT ? 0 : 1 / norm;
    // Where the norm itself is in doubt, so are they: then the rest alone is the bound.
    const float scale = inverse > 1 / HARDLY_FLAT ? 0 : inverse;
    unsigned short *out = job.features + (long long)blockIdx.y * (K + 1) * job.pitch + c;
    float kept = 0;
    int n = 0, k = 0;
#pragma unroll
    for (int plane = 0; plane < 3; plane++) {
#pragma unroll
        for (int u = 0; u < LINES_OF(plane); u++, n++) {
#pragma unroll
            for (int v = 0; v <= ORDER(plane) - u && v < PW; v++, k++) {
                float value = 0;
                if (u == 0 && v == 0)
                    value = (sum[plane] - AXIS[plane] * mean * AREA) * (1 / sqrt((double)AREA));
                else
                    for (int j = 0; j < PW; j++)
                        value += ACROSS[v][j] * lines[n][threadIdx.x + j];
                value *= scale;
                kept += value * value;
                out[(long long)k * job.pitch] = to_half(value);
            }
        }
    }
    // A patch's own rest is at least the root of SLACK, so a bound grows by the doubt at least.
    const float doubt = doubt_of(sqrtf(sum[3]) * inverse, inverse);
    const float rest = sqrtf(max(1 - kept, 0.0f) + SLACK) + doubt / sqrtf(SLACK);
    out[(long long)K * job.pitch] = to_half(inverse == 0 ? 0 : rest);
    job.inverse[(long long)blockIdx.y * job.pitch + c] = inverse;
}

// The block: features of the patch.
__device__ void describe_patch(Patch &patch, const float *unit)
{
    int n = 0;
    for (int plane = 0; plane < 3; plane++)
        for (int u = 0; u < LINES_OF(plane); u++)
            for (int v = 0; v <= ORDER(plane) - u && v < PW; v++, n++) {
                if (n % WARPS != threadIdx.x / 32)
                    continue;
                float value = 0;
                for (int e = threadIdx.x % 32; e < AREA; e += 32)
                    value += DOWN[u][e / PW] * ACROSS[v][e % PW] * unit[plane * AREA + e];
                value = warp_sum(value);
                if (threadIdx.x % 32 == 0)
                    patch.wanted[n] = value;
            }
    __syncthreads();
    if (threadIdx.x == 0) {
        float kept = 0;
        for (int k = 0; k < K; k++)
            kept += patch.wanted[k] * patch.wanted[k];
        patch.wanted[K] = sqrtf(max(1 - kept, 0.0f) + SLACK);
    }
    __syncthreads();
}

// Each warp: the window of the highest bound among a share of the rows around the own row.
__device__ void look_around(const Job &job, Patch &patch, int i, int j, const float *query)
{
    const int lane = threadIdx.x % 32, columns = job.width - PW + 1;
    const int top = max(job.first, own_row(job, i) - OWN_ROWS);
    const int stop = min(job.last, own_row(job, i) + OWN_ROWS + 1);
    float most = -1e30f;
    int row = own_row(job, i), col = own_col(job, j);
    for (int r = top; r < stop; r++) {
        const float down = weight_along(job, r, own_row(job, i), job.height);
        for (int c = threadIdx.x; c < columns; c += THREADS) {
            const float weight = down * weight_along(job, c, own_col(job, j), job.width);
            const float bound = min(bound_of(job, patch.wanted, r, c), 1.0f) * weight;
            if (bound > most) {
                most = bound;
                row = r;
                col = c;
            }
        }
    }
    const float winner = warp_max(most);
    const int lane_of = __ffs(__ballot_sync(EVERY_LANE, most == winner)) - 1;
    row = __shfl_sync(EVERY_LANE, row, lane_of);
    col = __shfl_sync(EVERY_LANE, col, lane_of);
    const Scored found = correlate(job, query, patch.length, row, col);
    const float weight = weight_along(job, row, own_row(job, i), job.height)
        * weight_along(job, col, own_col(job, j), job.width);
    if (lane == 0)
        atomicMax(&patch.best, ordered(found.score * weight - found.doubt - MARGIN));
}
// One block for each patch whose own row is in the band: what later kernels need of the patch.
extern "C" __global__ void __launch_bounds__(THREADS) guess(Job job)
{
    const int i = blockIdx.y, j = blockIdx.x;
    if (own_row(job, i) < job.first || own_row(job, i) >= job.last)
        return;
    Patch &patch = job.patches[i * job.across + j];
    if (i == 0 && j == 0 && threadIdx.x == 0)
        *job.crowded = 0;
    __shared__ float unit[3 * AREA];
    double sum = 0, square = 0;
    const int plane = job.height * job.width;
    for (int e = threadIdx.x; e < AREA; e += THREADS) {
        double h[3];
        to_h_space(job.x, plane, own_pixel(job, i, j, e), h);
        sum += h[0] + h[1] + h[2];
    }
    const double mean = block_sum(sum) / (3 * AREA);
    for (int e = threadIdx.x; e < AREA; e += THREADS) {
        double h[3];
        to_h_space(job.x, plane, own_pixel(job, i, j, e), h);
        for (int k = 0; k < 3; k++)
            square += (h[k] - mean) * (h[k] - mean);
    }
    const double norm = sqrt(block_sum(square));
    if (threadIdx.x == 0) {
        patch.mean = mean;
        patch.norm = norm;
        patch.exact = -1e300;
        patch.best = ordered(-3.0f);
        patch.near = norm <= NO_VARIANCE ? FLAT : 0;
        patch.found = 0;
    }
    __syncthreads();
    if (norm <= NO_VARIANCE)
        return;
    load_unit(job, patch, i, j, unit);
    describe_patch(patch, unit);
    to_query(unit);
    double length = 0;
    for (int e = threadIdx.x; e < 3 * AREA; e += THREADS)
        length += (double)unit[e] * unit[e];
    length = block_sum(length);
    if (threadIdx.x == 0)
        patch.length = sqrt(length);
    __syncthreads();
    look_around(job, patch, i, j, unit);
}

// Survivors of a group of patches.
struct Lists {
    float query[3 * AREA];
    int best[GROUP];
    int count[GROUP];
    int places[GROUP][LIST];
    float bound[GROUP][LIST];   // and then, of those that were correlated, the upper score
};

// One warp: correlate survivor n of a patch. The sign of a place says that this was done.
__device__ void correlate_listed(
    const Job &job, Patch &patch, int i, int j, Lists &lists, int g, int n)
{
    const int place = lists.places[g][n], r = place / job.width, c = place % job.width;
    const Scored found = correlate(job, lists.query, patch.length, r, c);
    const float score = found.score * weight_along(job, r, own_row(job, i), job.height)
        * weight_along(job, c, own_col(job, j), job.width);
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        atomicMax(&lists.best[g], ordered(score - found.doubt - MARGIN));
        lists.bound[g][n] = score + found.doubt + MARGIN;
        lists.places[g][n] = ~place;
    }
}

// The block: what it knows of the best becomes known to others, and the other way round.
__device__ float share_best(Patch &patch, Lists &lists, int g)
{
    __syncthreads();
    if (threadIdx.x == 0)
        lists.best[g] = max(lists.best[g], atomicMax(&patch.best, lists.best[g]));
    __syncthreads();
    const float best = from_ordered(lists.best[g]);
    __syncthreads();
    return best;
}

// The block: correlate the survivors of one patch of the group, best first, keep those near the
// best, and empty the list.
__device__ void settle(const Job &job, int i, int j, Lists &lists, int g)
{
    Patch &patch = job.patches[i * job.across + j];
    const int count = lists.count[g], warp = threadIdx.x / 32;
    float top = -1e30f;
    for (int n = threadIdx.x; n < count; n += THREADS)
        top = max(top, lists.bound[g][n]);
    top = (float)block_max(top) - FIRST_BAND;
    load_unit(job, patch, i, j, lists.query);
    to_query(lists.query);
    for (int n = warp; n < count; n += WARPS) {
        const bool wanted = lists.bound[g][n] >= top;
        __syncwarp(); // all lanes have read what one of them is going to write
        if (wanted)
            correlate_listed(job, patch, i, j, lists, g, n);
    }
    float best = share_best(patch, lists, g);
    for (int n = warp; n < count; n += WARPS) {
        const bool wanted = lists.places[g][n] >= 0 && lists.bound[g][n] >= best;
        __syncwarp();
        if (wanted)
            correlate_listed(job, patch, i, j, lists, g, n);
    }
    best = share_best(patch, lists, g);
    for (int n = threadIdx.x; n < count; n += THREADS) {
        if (lists.places[g][n] >= 0 || lists.bound[g][n] < best)
            continue;
        const int slot = atomicAdd(&patch.near, 1);
        if (slot < NEAR) {
            patch.places[slot] = ~lists.places[g][n];
            patch.upper[slot] = lists.bound[g][n];
        } else if (slot == NEAR)
            atomicAdd(job.crowded, 1);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        lists.count[g] = 0;
    __syncthreads();
}

// A block: every gridDim.y-th row of windows of the band, for GROUP patches side by side.
extern "C" __global__ void __launch_bounds__(THREADS) scan(Job job)
{
    __shared__ Lists lists;
    __shared__ float wanted[K + 1][GROUP];
    const int groups = (job.across + GROUP - 1) / GROUP;
    const int i = blockIdx.x / groups, first = blockIdx.x % groups * GROUP;
    for (int n = threadIdx.x; n < GROUP * (K + 1); n += THREADS) {
        const int j = min(first + n % GROUP, job.across - 1);
        wanted[n / GROUP][n % GROUP] = job.patches[i * job.across + j].wanted[n / GROUP];
    }
    if (threadIdx.x < GROUP) {
        const int j = first + threadIdx.x;
        const bool any = j < job.across && job.patches[i * job.across + j].near != FLAT;
        lists.best[threadIdx.x] = any ? job.patches[i * job.across + j].best : UNREACHABLE;
        lists.count[threadIdx.x] = 0;
    }
    __syncthreads();
    for (int r = job.first + blockIdx.y; r < job.last; r += gridDim.y) {
        const float down = weight_along(job, r, own_row(job, i), job.height);
        int low = job.width, high = 0;
        for (int g = 0; g < GROUP; g++) {
            int from, to;
            if (lists.best[g] == UNREACHABLE)
                continue;
            reach(job, down, first + g, from_ordered(lists.best[g]), from, to);
            if (from < to) {
                low = min(low, from);
                high = max(high, to);
            }
        }
        for (int start = low & ~1; start < high; start += 2 * THREADS) {
            const int c = start + 2 * threadIdx.x;
            bool full = false;
            if (c < high) {
                float bound[GROUP][2];
                for (int g = 0; g < GROUP; g++)
                    bound[g][0] = bound[g][1] = ROUGH;
#pragma unroll
                for (int k = 0; k <= K; k++) {
                    const unsigned pair = *(const unsigned *)(features_of(job, r, k) + c);
                    const float even = from_half(pair & 0xffff), odd = from_half(pair >> 16);
#pragma unroll
                    for (int g = 0; g < GROUP; g++) {
                        bound[g][0] += wanted[k][g] * even;
                        bound[g][1] += wanted[k][g] * odd;
                    }
                }
#pragma unroll
                for (int g = 0; g < GROUP; g++)
#pragma unroll
                    for (int odd = 0; odd < 2; odd++) {
                        if (c + odd >= high || lists.best[g] == UNREACHABLE)
                            continue;
                        const float across
                            = weight_along(job, c + odd, own_col(job, first + g), job.width);
                        const float most = bound[g][odd] * down * across + MARGIN;
                        if (most < from_ordered(lists.best[g]))
                            continue;
                        const int slot = atomicAdd(&lists.count[g], 1);
                        lists.places[g][slot] = r * job.width + c + odd;
                        lists.bound[g][slot] = most;
                        full |= slot >= LIST - 2 * THREADS;
                    }
            }
            if (__syncthreads_or(full)) {
                for (int g = 0; g < GROUP; g++)
                    if (lists.count[g])
                        settle(job, i, first + g, lists, g);
                __syncthreads();
            }
        }
    }
    for (int g = 0; g < GROUP; g++)
        if (lists.count[g])
            settle(job, i, first + g, lists, g);
}
// Float64.

// One warp: the definition's score of a window.
__device__ double score_exactly(const Job &job, const Patch &patch, int i, int j, int r, int c)
{
    const int plane = job.height * job.width, lane = threadIdx.x % 32;
    double sum = 0, square = 0, product = 0;
    for (int e = lane; e < AREA; e += 32) {
        double h[3];
        to_h_space(job.y_dec, plane, pixel(job, r, c, e), h);
        sum += h[0] + h[1] + h[2];
    }
    const double mean = warp_sum(sum) / (3 * AREA);
    for (int e = lane; e < AREA; e += 32) {
        double a[3], b[3];
        to_h_space(job.x, plane, own_pixel(job, i, j, e), a);
        to_h_space(job.y_dec, plane, pixel(job, r, c, e), b);
        for (int k = 0; k < 3; k++) {
            square += (b[k] - mean) * (b[k] - mean);
            product += (a[k] - patch.mean) * (b[k] - mean);
        }
    }
    const double norm = sqrt(warp_sum(square));
    product = warp_sum(product);
    if (norm <= NO_VARIANCE)
        return 0;
    return product / (patch.norm * norm) * weight_exactly(job, i, j, r, c);
}

// One block for each patch: decide among the windows near the best.
extern "C" __global__ void __launch_bounds__(THREADS) resolve(Job job)
{
    __shared__ double values[NEAR];
    const int i = blockIdx.y, j = blockIdx.x;
    const Patch &patch = job.patches[i * job.across + j];
    const int count = patch.near;
    if (count == FLAT && threadIdx.x == 0)
        write(job, i, j, own_row(job, i), own_col(job, j), 0);
    if (count == FLAT || count > NEAR)
        return;
    const float least = from_ordered(patch.best);
    for (int n = threadIdx.x / 32; n < count; n += WARPS) {
        const int r = patch.places[n] / job.width, c = patch.places[n] % job.width;
        double value = -1e300;
        if (patch.upper[n] >= least)
            value = score_exactly(job, patch, i, j, r, c);
        if (threadIdx.x % 32 == 0)
            values[n] = value;
    }
    __syncthreads();
    if (threadIdx.x)
        return;
    double best = -1e300, top = -1e300;
    for (int n = 0; n < count; n++)
        best = max(best, values[n]);
    // Within TIE of the best of all is its row's best, too: the first such row, then the first
    // column within TIE of that row's best.
    int row = job.height, col = job.width;
    for (int n = 0; n < count; n++)
        if (values[n] >= best - TIE)
            row = min(row, patch.places[n] / job.width);
    for (int n = 0; n < count; n++)
        if (patch.places[n] / job.width == row)
            top = max(top, values[n]);
    for (int n = 0; n < count; n++)
        if (patch.places[n] / job.width == row && values[n] >= top - TIE)
            col = min(col, patch.places[n] % job.width);
    write(job, i, j, row, col, top);
}

// The windows of one row that may win, in float64. Without `floor`: the best score. With it: the
// first column whose score is at least that, as a negative number, so that both are maxima.
__device__ double sweep(
    const Job &job, const Patch &patch, const Query *query, int i, int j, int r,
    const double *floor)
{
    const int lane = threadIdx.x % 32, columns = job.width - PW + 1;
    double found = -1e300;
    const float down = weight_along(job, r, own_row(job, i), job.height);
    const float least = from_ordered(patch.best);
    int low, high;
    reach(job, down, j, least, low, high);
    for (int start = low + threadIdx.x / 32 * 32; start < high; start += THREADS) {
        bool alive = false;
        if (start + lane < high) {
            const float across = weight_along(job, start + lane, own_col(job, j), job.width);
            alive = bound_of(job, patch.wanted, r, start + lane) * down * across + MARGIN >= least;
        }
        for (unsigned left = __ballot_sync(EVERY_LANE, alive); left; left &= left - 1) {
            const int c = start + __ffs(left) - 1;
            const float across = weight_along(job, c, own_col(job, j), job.width);
            const Scored rough = correlate(job, query, patch.length, r, c);
            if (rough.score * down * across + rough.doubt + MARGIN < least)
                continue;
            double value = 0;
            if (inverse_of(job, r, c) != 0)
                value = score_exactly(job, patch, i, j, r, c);
            if (!floor || value >= *floor)
                found = max(found, floor ? -(double)c : value);
        }
    }
    return block_max(found);
}

__device__ void load_query(const Job &job, const Patch &patch, int i, int j, Query *query)
{
    load_unit(job, patch, i, j, query);
    to_query(query);
}
