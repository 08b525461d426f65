/* A step of Adam on rows of a flat buffer, and clipping before it, float32: `plain_adam` and
 * `plain_clip` of core/training/optimizer.py. */
#include "vectors.h"

/* base^exponent by repeated squaring, so that no library's pow decides the last bit. */
static double power(double base, int64_t exponent)
{
    double result = 1.0;
    for (; exponent; exponent >>= 1, base *= base)
        if (exponent & 1) result *= base;
    return result;
}

/* grad: replicas x size, a whole multiple of W. Where a replica's limit is above 0 and its row's norm
 * above the limit, the row is scaled to it. */
int clip(int64_t replicas, int64_t size, const float *limit, float *grad)
{
    for (int64_t r = 0; r < replicas; r++) {
        if (!(limit[r] > 0.0f)) continue;
        float *g = grad + r * size;
        double part[W] = {0};
        for (int64_t i = 0; i < size; i += W)
            for (int l = 0; l < W; l++) part[l] += (double)g[i + l] * g[i + l];
        for (int half = W / 2; half; half /= 2)
            for (int l = 0; l < half; l++) part[l] += part[l + half];
        const double scale = limit[r] / (sqrt(part[0]) + 1e-6);
        if (scale < 1.0)
            for (int64_t i = 0; i < size; i++) g[i] *= (float)scale;
    }
    return 0;
}

/* theta, moments and gradients: replicas x size. rate: of each replica, warm-up included; share: of
 * each column, its part of the rate; decay: the share of a replica's weights that is taken away first, or
 * NULL. A replica that isn't alive keeps its weights. finite: whether all
 * of a replica's numbers are. */
int adam(
    int64_t replicas, int64_t size, int64_t step, double beta1, double beta2, const float *rate,
    const float *share, const float *decay, const float *epsilon, const uint8_t *alive, const float *grad, float *moment1,
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
        const float kept = decay && alive[r] ? 1.0f - decay[r] : 1.0f;
        uint32_t sick = 0;
        for (int64_t i = 0; i < size; i++) {
            m[i] = __builtin_fmaf(a1, g[i], b1 * m[i]);
            v[i] = __builtin_fmaf(a2 * g[i], g[i], b2 * v[i]);
            float change = factor * (m[i] / (sqrtf(v[i] * scale) + least)) * share[i];
            if (alive[r]) w[i] = w[i] * kept - change;
            /* A number is finite where its exponent isn't all ones. */
            sick |= (as_bits(w[i]) & 0x7f800000) == 0x7f800000;
            sick |= (as_bits(m[i]) & 0x7f800000) == 0x7f800000;
            sick |= (as_bits(v[i]) & 0x7f800000) == 0x7f800000;
        }
        finite[r] = !sick;
    }
    return 0;
}
