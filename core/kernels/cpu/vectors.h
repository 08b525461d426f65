/* What the CPU's kernels share: vectors, products, sums and functions whose every bit is fixed.
 *
 * A number is the same whatever the compiler, the registers' length and the pack. Three rules see to
 * that. Nothing is fused but what says `fused` (the build switches the compiler's own choice off). A
 * sum runs over its terms in their order, each element by itself; where it must run across a vector
 * it has W parts, folded in halves (`fold`). Functions (exponential, logarithm, tanh) are
 * polynomials of ours and not a library's. Rows of all buffers here are padded with zeros to W floats.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && !defined(__FMA__)
#error "fused multiply-adds are needed: x86-64-v3"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { W = 16 }; /* floats that rows are padded to, and parts of a sum across a vector */
#ifndef LANES /* floats of a register; another number can be asked for, and is slow */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__x86_64__)
#define LANES 8
#else
#define LANES 4
#endif
#endif
enum {
    TILE_ROWS = LANES == 16 ? 8 : LANES == 8 ? 6 : 4, /* with its operands a tile fits the registers */
    TILE_VECTORS = LANES == 4 ? 4 : 2
};
enum { PARTS = W / LANES };

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE int64_t pad(int64_t n) { return (n + W - 1) / W * W; }

/* Columns of a product that hold n numbers: what a row has behind them is neither read nor written. */
INLINE int64_t filled(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE float *scratch(int64_t floats)
{
    return aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
}

/* a b + c, rounded once. */
INLINE vec fused(vec a, vec b, vec c)
{
#if defined(__AVX512F__) && LANES == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__x86_64__) && LANES == 8
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__) && LANES == 4
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    for (int l = 0; l < LANES; l++) c[l] = __builtin_fmaf(a[l], b[l], c[l]);
    return c;
#endif
}

INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec chosen(ivec condition, vec yes, vec no)
{
    return (vec)((condition & (ivec)yes) | (~condition & (ivec)no));
}

/* Lane numbers from `first` on. */
INLINE ivec lanes(int64_t first)
{
    ivec l;
    for (int i = 0; i < LANES; i++) l[i] = (int32_t)first + i;
    return l;
}

/* The sum of the W parts of a sum. */
INLINE float fold(const vec *part)
{
    float t[W];
    memcpy(t, part, sizeof t);
    for (int half = W / 2; half; half /= 2)
        for (int l = 0; l < half; l++) t[l] += t[l + half];
    return t[0];
}

/* ---- products ---- */

/* C[m x n] = (add ? C : 0) + A[m x depth] B[depth x n], the terms of a sum in their order; A[i, k] at
 * a[i ai + k ak]; n a whole multiple of LANES. */
__attribute__((visibility("hidden"))) void product(
    int64_t m, int64_t n, int64_t depth, const float *a, int64_t ai, int64_t ak, const float *b,
    int64_t bk, float *c, int64_t ci, int add);

/* ---- packing ---- */

INLINE void pack(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to)
{
    int64_t width = pad(columns);
    for (int64_t i = 0; i < rows; i++) {
        memcpy(to + i * width, from + i * stride, columns * sizeof(float));
        memset(to + i * width + columns, 0, (width - columns) * sizeof(float));
    }
}

INLINE void pack_transposed(
    int64_t rows, int64_t columns, const float *from, int64_t stride, float *to)
{
    int64_t width = pad(rows);
    for (int64_t j = 0; j < columns; j++) {
        for (int64_t i = 0; i < rows; i++) to[j * width + i] = from[i * stride + j];
        for (int64_t i = rows; i < width; i++) to[j * width + i] = 0.0f;
    }
}

INLINE void unpack(int64_t rows, int64_t columns, const float *from, float *to, int64_t stride)
{
    int64_t width = pad(columns);
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * stride, from + i * width, columns * sizeof(float));
}

/* ---- functions, to two units in the last place; NaN stays NaN ---- */

/* e^x for x <= 0: 2^n e^r with |r| <= ln(2)/2 and Cephes' polynomial for e^r (Moshier 1992, expf). */
INLINE vec exponential(vec x)
{
    ivec below = x < all(-87.0f);
    x = chosen(below, all(-87.0f), x);
    const vec round = all(12582912.0f); /* 1.5 2^23: rounds to whole numbers */
    vec shifted = fused(x, all(1.44269504088896341f), round);
    vec n = shifted - round;
    vec r = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
    vec p = fused(r, all(1.9875691500e-4f), all(1.3981999507e-3f));
    p = fused(p, r, all(8.3334519073e-3f));
    p = fused(p, r, all(4.1665795894e-2f));
    p = fused(p, r, all(1.6666665459e-1f));
    p = fused(p, r, all(5.0000001201e-1f));
    p = fused(p, r * r, r) + 1.0f;
    ivec power = ((ivec)shifted << 23) + 0x3f800000;
    vec e = p * (vec)power;
    return (vec)(~below & (ivec)e); /* less than 1e-37 counts as 0 */
}

INLINE vec magnitude(vec x) { return (vec)((ivec)x & 0x7fffffff); }

/* Cephes' tanhf: a polynomial near 0, (1 - e) / (1 + e) with e = e^(-2 |x|) elsewhere. */
INLINE vec hyperbolic_tangent(vec x)
{
    vec size = magnitude(x), z = x * x;
    vec e = exponential(-2.0f * size);
    vec far = (vec)((ivec)((1.0f - e) / (1.0f + e)) | ((ivec)x & (int32_t)0x80000000));
    vec p = fused(z, all(-5.70498872745e-3f), all(2.06390887954e-2f));
    p = fused(p, z, all(-5.37397155531e-2f));
    p = fused(p, z, all(1.33314422036e-1f));
    p = fused(p, z, all(-3.33332819422e-1f));
    return chosen(size < all(0.625f), fused(p * z, x, x), far);
}

/* ln(1 + e) for e in [0, 1]: 2 atanh(s), s = e / (2 + e) <= 1/3, its series up to s^17. */
INLINE vec logarithm_of_one_more(vec e)
{
    vec s = e / (2.0f + e), z = s * s;
    vec p = fused(z, all(1.0f / 17), all(1.0f / 15));
    p = fused(p, z, all(1.0f / 13));
    p = fused(p, z, all(1.0f / 11));
    p = fused(p, z, all(1.0f / 9));
    p = fused(p, z, all(1.0f / 7));
    p = fused(p, z, all(1.0f / 5));
    p = fused(p, z, all(1.0f / 3));
    return 2.0f * fused(p * z, s, s);
}

INLINE float as_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE uint32_t as_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* ln x of a normal number x > 0: x = 2^e m, m in [sqrt(1/2), sqrt(2)), and ln(1 + f) = 2 atanh(s),
 * s = f / (2 + f), |s| < 0.1716: the series up to s^9 is off by 3e-9. */
INLINE float logarithm(float x)
{
    uint32_t bits = as_bits(x) - 0x3F3504F3u;
    float e = (float)((int32_t)bits >> 23);
    float f = as_float((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
    float s = f / (2.0f + f), z = s * s;
    float p = __builtin_fmaf(z, 0.22222222f, 0.28571429f);
    p = __builtin_fmaf(z, p, 0.4f);
    p = z * __builtin_fmaf(z, p, 0.66666667f);
    return __builtin_fmaf(e, 0.69314718f, __builtin_fmaf(s, p, 2.0f * s));
}

/* ---- rows of D numbers ---- */

/* W parts of a sum over a padded row. */
#define SUM(result, term) \
    do { \
        vec part_[PARTS] = {{0}}; \
        for (int64_t d = 0; d < width; d += W) \
            for (int q = 0; q < PARTS; q++) { \
                const int64_t at = d + q * LANES; \
                part_[q] += (term); \
            } \
        result = fold(part_); \
    } while (0)
#define AT(row) (*(const vec *)((row) + at))

/* Layer norm without parameters: y = (x - mean) rstd; rows of x packed, of y padded. */
__attribute__((unused)) static void norm(
    int64_t rows, int64_t D, const float *x, float *y, float *rstd)
{
    const int64_t width = pad(D);
    const float share = 1.0f / D;
    for (int64_t s = 0; s < rows; s++) {
        float *row = y + s * width;
        float mean, variance;
        memcpy(row, x + s * D, D * sizeof(float));
        for (int64_t d = D; d < width; d++) row[d] = 0.0f;
        SUM(mean, AT(row));
        mean *= share;
        for (int64_t d = 0; d < D; d++) row[d] -= mean;
        SUM(variance, AT(row) * AT(row));
        const float scale = 1.0f / sqrtf(__builtin_fmaf(variance, share, 1e-5f));
        for (int64_t d = 0; d < D; d++) row[d] *= scale;
        rstd[s] = scale;
    }
}

/* grad_x = rstd (g - mean(g) - y mean(g y)); g and y padded, grad_x packed. */
__attribute__((unused)) static void norm_backward(
    int64_t rows, int64_t D, const float *g, const float *y, const float *rstd, float *grad_x)
{
    const int64_t width = pad(D);
    const float share = 1.0f / D;
    for (int64_t s = 0; s < rows; s++) {
        const float *g_ = g + s * width, *y_ = y + s * width;
        float sum, dot;
        SUM(sum, AT(g_));
        SUM(dot, AT(g_) * AT(y_));
        sum *= share;
        dot *= share;
        for (int64_t d = 0; d < D; d++)
            grad_x[s * D + d] = rstd[s] * __builtin_fmaf(-y_[d], dot, g_[d] - sum);
    }
}
