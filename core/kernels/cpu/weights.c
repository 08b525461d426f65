/* Weights of a posterior, float64: exponentials of log-likelihoods, and sums over tasks by them. */
#include "vectors.h"

/* e^x for |x| <= 700: 2^n e^r with |r| <= ln(2)/2, and Taylor's series of e^r to r^13, which is off by
 * less than 2^-57 of it. ln 2 is in two parts, the first with zeros enough that n times it is exact
 * (Cody and Waite 1980). The NaN of arithmetic stays NaN. */
INLINE double exponential_of(double x)
{
    const double round = 6755399441055744.0; /* 1.5 2^52: rounds to whole numbers */
    double shifted = __builtin_fma(x, 1.4426950408889634074, round);
    double n = shifted - round;
    double r = __builtin_fma(n, -6.93145751953125e-1, x);
    r = __builtin_fma(n, -1.42860682030941723212e-6, r);
    double p = 1.0 / 6227020800.0;
    p = __builtin_fma(p, r, 1.0 / 479001600.0);
    p = __builtin_fma(p, r, 1.0 / 39916800.0);
    p = __builtin_fma(p, r, 1.0 / 3628800.0);
    p = __builtin_fma(p, r, 1.0 / 362880.0);
    p = __builtin_fma(p, r, 1.0 / 40320.0);
    p = __builtin_fma(p, r, 1.0 / 5040.0);
    p = __builtin_fma(p, r, 1.0 / 720.0);
    p = __builtin_fma(p, r, 1.0 / 120.0);
    p = __builtin_fma(p, r, 1.0 / 24.0);
    p = __builtin_fma(p, r, 1.0 / 6.0);
    p = __builtin_fma(p, r, 0.5);
    p = __builtin_fma(p, r, 1.0);
    p = __builtin_fma(p, r, 1.0);
    int64_t bits, power;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &shifted, sizeof power);
    bits += (int64_t)((uint64_t)power << 52);
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* A sum over tasks has `TERMS` parts, in vectors of doubles as long as those of floats. */
enum { TERMS = 8, DOUBLES = LANES / 2, VECTORS = TERMS / DOUBLES, MOMENTS_AT_ONCE = 4 };
typedef double dvec __attribute__((vector_size(8 * DOUBLES), aligned(8), may_alias));

/* a b + c, rounded once. */
INLINE dvec fused_doubles(dvec a, dvec b, dvec c)
{
#if defined(__AVX512F__) && LANES == 16
    return (dvec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__x86_64__) && LANES == 8
    return (dvec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__) && LANES == 4
    return (dvec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    for (int l = 0; l < DOUBLES; l++) c[l] = __builtin_fma(a[l], b[l], c[l]);
    return c;
#endif
}

/* Sums of weight[n] moment[m, n] over n for `count` m, each folded in halves and added to `sums`. */
INLINE void add_sums(
    const int count, int64_t tasks, int64_t stride, const double *weight, const double *moment,
    double *sums)
{
    dvec part[MOMENTS_AT_ONCE][VECTORS];
#pragma GCC unroll 4
    for (int m = 0; m < count; m++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) part[m][v] = (dvec){0};
    int64_t n = 0;
    for (; n + TERMS <= tasks; n += TERMS)
#pragma GCC unroll 4
        for (int m = 0; m < count; m++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                part[m][v] = fused_doubles(
                    *(const dvec *)(weight + n + v * DOUBLES),
                    *(const dvec *)(moment + m * tasks + n + v * DOUBLES), part[m][v]);
#pragma GCC unroll 4
    for (int m = 0; m < count; m++) {
        double t[TERMS];
        memcpy(t, part[m], sizeof t);
        for (int64_t l = 0; n + l < tasks; l++)
            t[l] = __builtin_fma(weight[n + l], moment[m * tasks + n + l], t[l]);
        for (int half = TERMS / 2; half; half /= 2)
            for (int l = 0; l < half; l++) t[l] += t[l + half];
        sums[m * stride] += t[0];
    }
}

/* sums[m, i] += sum over n of e^log[i, n] moments[m, n], for rows i whose largest logarithm is above
 * their limit; others stay. A logarithm counts as at least `least_log`; a row of sums is `stride`
 * long. Where a row is added to, log becomes the exponentials. */
int weighted_sums(
    int64_t rows, int64_t tasks, int64_t moments, int64_t stride, double least_log,
    const double *largest, const double *limit, double *log, const double *moment, double *sums)
{
    for (int64_t i = 0; i < rows; i++) {
        if (largest[i] <= limit[i]) continue; /* NaN isn't, and stays */
        double *weight = log + i * tasks;
        for (int64_t n = 0; n < tasks; n++)
            weight[n] = exponential_of(weight[n] < least_log ? least_log : weight[n]);
        int64_t m = 0;
        for (; m + MOMENTS_AT_ONCE <= moments; m += MOMENTS_AT_ONCE)
            add_sums(
                MOMENTS_AT_ONCE, tasks, stride, weight, moment + m * tasks, sums + m * stride + i);
        for (; m < moments; m++)
            add_sums(1, tasks, stride, weight, moment + m * tasks, sums + m * stride + i);
    }
    return 0;
}
