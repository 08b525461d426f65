/* A step of Adam on rows of a flat buffer, float32: core/training/optimizer.py's `plain_adam`. */
#include "vectors.h"

/* base^exponent by repeated squaring, so that no library's pow decides the last bit. */
static double power(double base, int64_t exponent)
{
    double result = 1.0;
    for (; exponent; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

/* theta, moments and gradients: replicas x size. rate: of each replica, warm-up included; share: of
 * each column, its part of the rate. A replica that isn't alive keeps its weights. finite: whether all
 * of a replica's numbers are. */
int adam(
    int64_t replicas, int64_t size, int64_t step, double beta1, double beta2, const float *rate,
    const float *share, const float *epsilon, const uint8_t *alive, const float *grad, float *moment1,
    float *moment2, float *theta, uint8_t *finite)
{
    const float b1 = (float)beta1, b2 = (float)beta2, a1 = (float)(1.0 - beta1);
    const float a2 = (float)(1.0 - beta2);
    const float correction1 = (float)(1.0 - power(beta1, step + 1));
    const float correction2 = (float)(1.0 - power(beta2, step + 1));
    for (int64_t r = 0; r < replicas; r++) {
        const float *g = grad + r * size;
        float *m = moment1 + r * size, *v = moment2 + r * size, *w = theta + r * size;
        const float factor = alive[r] ? rate[r] / correction1 : 0.0f;
        const float least = epsilon[r], scale = 1.0f / correction2;
        uint32_t sick = 0;
        for (int64_t i = 0; i < size; i++) {
            m[i] = __builtin_fmaf(a1, g[i], b1 * m[i]);
            v[i] = __builtin_fmaf(a2 * g[i], g[i], b2 * v[i]);
            float change = factor * (m[i] / (sqrtf(v[i] * scale) + least)) * share[i];
            if (alive[r]) w[i] -= change;
            /* A number is finite where its exponent isn't all ones. */
            sick |= (as_bits(w[i]) & 0x7f800000) == 0x7f800000;
            sick |= (as_bits(m[i]) & 0x7f800000) == 0x7f800000;
            sick |= (as_bits(v[i]) & 0x7f800000) == 0x7f800000;
        }
        finite[r] = !sick;
    }
    return 0;
}
