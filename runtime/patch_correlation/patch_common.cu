// PatchCorrelation in CUDA: the exact pruned search of dsin.runtime.patch_correlation.patch_search.
//
// dsin.runtime.patch_correlation.patch_cuda_plan puts the constants of one patch size in front of this file, and
// behind it patch_pruned.cu or patch_l2.cu, by the measure, and patch_finish.cu. The kernels are
// launched in one stream. Windows are described band by band of their rows, so that the workspace
// stays small however large the picture is:
//
//     every band:  describe   norm and leading DCT coefficients (float16) of each window
//                  guess      of patches whose own row is in the band: a score to start from
//     every band:  describe   (not again where there is but one band)
//                  scan       bound all windows in reach, correlate the survivors, best first
//     then:        resolve    float64 decides among the windows near the best; ties
//                  exhaust_*  patches with more of those than are kept: all windows, in float64
//                  gather     copy the pieces
//
// What decides is float64, from the pictures, by the rules of the definition, over a set of windows
// that surely holds the winner. So neither rounding nor the order of threads shows in the result.
// The L2 measure has no such bounds: it is all `exhaust_*`.
//
// Every block has THREADS threads. No header is included: NVRTC then needs no installation.

#ifndef EMULATED
__device__ __forceinline__ float from_half(unsigned short bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short to_half(float value)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

#if HALF
typedef unsigned short Pixel;
__device__ __forceinline__ float to_float(Pixel value) { return from_half(value); }
__device__ __forceinline__ Pixel to_pixel(float value) { return to_half(value); }
#else
typedef float Pixel;
__device__ __forceinline__ float to_float(Pixel value) { return value; }
__device__ __forceinline__ Pixel to_pixel(float value) { return value; }
#endif

#define AREA (PH * PW)
#define WARPS (THREADS / 32)
#define EVERY_LANE 0xffffffffu

// What float32 may err by in the score of a window with contrast.
#define MARGIN 1e-5f
// The same, times the window's norm over that once centred: 50 additions in a row, and some.
#define ROUNDING 4e-6f
// Added to squared norms of rests, which are differences of nearly equal numbers.
#define SLACK 1e-6f
// What features stored in float16 may err by in a bound: 2^-11 of at most 1, and some.
#define ROUGH 6e-4f
// Norms between these are too close to NO_VARIANCE for float32.
#define SURELY_FLAT (0.3f * (float)NO_VARIANCE)
#define HARDLY_FLAT (10 * (float)NO_VARIANCE)
// How far below the best bound survivors are correlated first.
#define FIRST_BAND 0.01f
// Window rows each way around the own row that the guess looks at: stereo is nearly rectified.
#define OWN_ROWS 2
// Survivors of one patch that a block collects before it correlates them.
#define LIST 512
#define FLAT -1
#define UNREACHABLE 0x7fffffff

struct Patch {
    double mean, norm;        // in H-space, all channels jointly
    double exact;             // the best score, where the patch is exhausted
    float wanted[K + 1];      // its features and the norm of their rest
    float length;             // norm of its query
    int best;                 // ordered bits of a score that some window surely reaches
    int near;                 // windows near the best; FLAT for a patch without variance
    int found;                // whether the exhausted patch has its position
    int places[NEAR];         // row * width + column of the first NEAR of them
    float upper[NEAR];        // what their scores are at most
};

struct Job {
    const Pixel *x, *y_dec, *y;                 // (3, height, width)
    Pixel *y_syn;
    int *row, *col;                             // (patches down, patches across)
    float *score;
    Patch *patches;
    int *crowded;                               // patches with more than NEAR windows near the best
    unsigned short *features;                   // float16 (rows of the band, K + 1, pitch)
    float *inverse;                             // 1 / norm, or 0 (rows of the band, pitch)
    double *lab;                                // (3, rows of the band + PH - 1, width), L2 only
    int height, width, down, across;            // of the picture, and in patches
    int first, last, pitch;                     // rows of windows of the band
    int prior, off_centre, stretched, again;    // again: for crowded patches only
};

// Numbers.

__device__ __forceinline__ int ordered(float value)
{
    const int bits = __float_as_int(value);
    return bits >= 0 ? bits : bits ^ 0x7fffffff;
}

__device__ __forceinline__ float from_ordered(int bits)
{
    return __int_as_float(bits >= 0 ? bits : bits ^ 0x7fffffff);
}

template <class T> __device__ T warp_sum(T value)
{
    for (int step = 16; step; step >>= 1)
        value += __shfl_xor_sync(EVERY_LANE, value, step);
    return value;
}

template <class T> __device__ T warp_max(T value)
{
    for (int step = 16; step; step >>= 1)
        value = max(value, __shfl_xor_sync(EVERY_LANE, value, step));
    return value;
}

__device__ double block_sum(double value)
{
    __shared__ double parts[WARPS];
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = value;
    __syncthreads();
    double total = 0;
    for (int n = 0; n < WARPS; n++)
        total += parts[n];
    __syncthreads();
    return total;
}

__device__ double block_max(double value)
{
    __shared__ double parts[WARPS];
    value = warp_max(value);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = value;
    __syncthreads();
    double most = parts[0];
    for (int n = 1; n < WARPS; n++)
        most = max(most, parts[n]);
    __syncthreads();
    return most;
}

// Pictures.

__device__ __forceinline__ float level(const Pixel *image, int at)
{
    const float value = to_float(image[at]);
    return value > 0 ? (value < 255 ? value : 255) : 0; // not a number: 0
}

__device__ __forceinline__ void to_h_space(const Pixel *image, int plane, int at, double *out)
{
    double n[3];
    for (int k = 0; k < 3; k++)
        n[k] = (level(image + k * (long long)plane, at) - MEAN[k]) / STD[k];
    out[0] = n[0] + n[1];
    out[1] = n[0] - n[1];
    out[2] = 0.5 * (n[0] + n[2]);
}

__device__ __forceinline__ int own_row(const Job &job, int i)
{
    return min(i * PH, job.height - PH);
}

__device__ __forceinline__ int own_col(const Job &job, int j)
{
    return min(j * PW, job.width - PW);
}

// Pixel e of a window, row by row.
__device__ __forceinline__ int pixel(const Job &job, int r, int c, int e)
{
    return (r + e / PW) * job.width + c + e % PW;
}

__device__ __forceinline__ int own_pixel(const Job &job, int i, int j, int e)
{
    return pixel(job, own_row(job, i), own_col(job, j), e);
}

// The prior, whose full width at half maximum is half the picture.

__device__ __forceinline__ float weight_along(const Job &job, int at, int own, int length)
{
    const float t = (at - own - job.off_centre) / (0.5f * length);
    return job.prior ? exp2f(-4 * t * t) : 1.0f;
}

__device__ double weight_exactly(const Job &job, int i, int j, int r, int c)
{
    if (!job.prior)
        return 1;
    const double down = (r - own_row(job, i) - job.off_centre) / (0.5 * job.height);
    const double across = (c - own_col(job, j) - job.off_centre) / (0.5 * job.width);
    return exp(-4 * LOG_2 * down * down) * exp(-4 * LOG_2 * across * across);
}

// Columns low..high of a row of windows beyond which the prior leaves patch column j no score of
// `best`: correlation is at most 1.
__device__ void reach(const Job &job, float weight, int j, float best, int &low, int &high)
{
    const int columns = job.width - PW + 1;
    const float least = best - MARGIN;
    low = 0;
    high = columns;
    if (!job.prior || least <= 0)
        return;
    if (weight < least) {
        high = 0;
        return;
    }
    const float most = 0.5f * job.width * sqrtf(0.25f * log2f(weight / least)) + 2;
    const int peak = own_col(job, j) + job.off_centre;
    low = max(0, peak - (int)most);
    high = min(columns, peak + (int)most + 1);
}

__device__ void write(const Job &job, int i, int j, int r, int c, double score)
{
    // From the window's corner to that of the piece: they differ for partial patches only.
    job.row[i * job.across + j] = r + i * PH - own_row(job, i);
    job.col[i * job.across + j] = c + j * PW - own_col(job, j);
    job.score[i * job.across + j] = score;
}
