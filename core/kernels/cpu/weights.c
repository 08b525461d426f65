/* Weights of a posterior, float64: exponentials of log-likelihoods. */
#include "vectors.h"

/* e^x for |x| <= 700: 2^n e^r with |r| <= ln(2)/2, and Taylor's series of e^r to r^13, which is off by
 * less than 2^-57 of it. ln 2 is in two parts, the first with zeros enough that n times it is exact
 * (Cody and Waite 1980). NaN stays NaN. */
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

/* x becomes e^x, which counts as at least e^least. */
int weights(int64_t n, double least, double *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = exponential_of(x[i] < least ? least : x[i]);
    return 0;
}
