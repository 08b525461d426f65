/* The MLP block of core/architectures/blocks.py on a CPU core, forward and backward, float32. Tokens are
 * handled in blocks that stay in the first caches, in the same order whatever the pack.
 */
#include "vectors.h"

enum { BLOCK = 32 }; /* tokens handled at a time */

/* hidden: replicas x tokens x pad(M), kept for the backward pass. */
int mlp_forward(
    int64_t replicas, int64_t tokens, int64_t D, int64_t M, const float *h, const float *up,
    const float *bias, const float *down, const int64_t *rows, float *hidden, float *result)
{
    const int64_t Dp = pad(D), Mp = pad(M);
    float *memory = scratch(D * Mp + Mp + M * Dp + 2 * BLOCK * Dp + BLOCK);
    if (memory == NULL) return 1;
    float *wup = memory, *wbias = wup + D * Mp, *wdown = wbias + Mp, *normed = wdown + M * Dp;
    float *y = normed + BLOCK * Dp, *rstd = y + BLOCK * Dp;
    for (int64_t r = 0; r < replicas; r++) {
        pack(D, M, up + r * rows[0], M, wup);
        pack(1, M, bias + r * rows[1], M, wbias);
        pack(M, D, down + r * rows[2], D, wdown);
        for (int64_t start = 0; start < tokens; start += BLOCK) {
            int64_t count = tokens - start < BLOCK ? tokens - start : BLOCK;
            const float *x = h + (r * tokens + start) * D;
            float *z = result + (r * tokens + start) * D;
            float *u = hidden + (r * tokens + start) * Mp;
            norm(count, D, x, normed, rstd);
            for (int64_t i = 0; i < count; i++) memcpy(u + i * Mp, wbias, Mp * sizeof(float));
            product(count, Mp, D, normed, Dp, 1, wup, Mp, u, Mp, 1);
            for (int64_t i = 0; i < count * Mp; i += LANES) {
                ivec negative = *(vec *)(u + i) < 0.0f; /* NaN isn't, and stays */
                *(ivec *)(u + i) &= ~negative;
            }
            product(count, filled(D), M, u, Mp, 1, wdown, Dp, y, Dp, 0);
            for (int64_t i = 0; i < count; i++)
                for (int64_t d = 0; d < D; d++) z[i * D + d] = x[i * D + d] + y[i * Dp + d];
        }
    }
    free(memory);
    return 0;
}

int mlp_backward(
    int64_t replicas, int64_t tokens, int64_t D, int64_t M, const float *h, const float *up,
    const float *down, const int64_t *rows, const float *hidden, const float *grad, float *grad_h,
    float *grad_up, float *grad_bias, float *grad_down)
{
    const int64_t Dp = pad(D), Mp = pad(M);
    float *memory = scratch(
        M * Dp + D * Mp + D * Mp + Mp + M * Dp + 3 * BLOCK * Dp + BLOCK * Mp + BLOCK);
    if (memory == NULL) return 1;
    float *wupt = memory, *wdownt = wupt + M * Dp, *gup = wdownt + D * Mp, *gbias = gup + D * Mp;
    float *gdown = gbias + Mp, *normed = gdown + M * Dp, *g = normed + BLOCK * Dp;
    float *gn = g + BLOCK * Dp, *gu = gn + BLOCK * Dp, *rstd = gu + BLOCK * Mp;
    memset(gn, 0, BLOCK * Dp * sizeof(float)); /* its sums run over the padding */
    for (int64_t r = 0; r < replicas; r++) {
        pack_transposed(D, M, up + r * rows[0], M, wupt);
        pack_transposed(M, D, down + r * rows[2], D, wdownt);
        memset(gup, 0, (D * Mp + Mp + M * Dp) * sizeof(float));
        for (int64_t start = 0; start < tokens; start += BLOCK) {
            int64_t count = tokens - start < BLOCK ? tokens - start : BLOCK;
            const float *x = h + (r * tokens + start) * D;
            const float *u = hidden + (r * tokens + start) * Mp;
            float *gx = grad_h + (r * tokens + start) * D;
            norm(count, D, x, normed, rstd);
            pack(count, D, grad + (r * tokens + start) * D, D, g);
            product(M, filled(D), count, u, 1, Mp, g, Dp, gdown, Dp, 1);
            product(count, Mp, D, g, Dp, 1, wdownt, Mp, gu, Mp, 0);
            for (int64_t i = 0; i < count; i++)
                for (int64_t j = 0; j < Mp; j += LANES) {
                    ivec dead = *(const vec *)(u + i * Mp + j) <= 0.0f;
                    *(ivec *)(gu + i * Mp + j) &= ~dead;
                    *(vec *)(gbias + j) += *(vec *)(gu + i * Mp + j);
                }
            product(D, Mp, count, normed, 1, Dp, gu, Mp, gup, Mp, 1);
            product(count, filled(D), M, gu, Mp, 1, wupt, Dp, gn, Dp, 0);
            norm_backward(count, D, gn, normed, rstd, gx);
            for (int64_t i = 0; i < count; i++)
                for (int64_t d = 0; d < D; d++) gx[i * D + d] += g[i * Dp + d];
        }
        unpack(D, M, gup, grad_up + r * D * M, M);
        unpack(1, M, gbias, grad_bias + r * M, M);
        unpack(M, D, gdown, grad_down + r * M * D, D);
    }
    free(memory);
    return 0;
}
